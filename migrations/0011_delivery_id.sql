-- The id of the delivery of an event to a webhook: the same whenever and wherever it is computed, so that a
-- receiver can drop repeats by webhook-id alone. A uuid v8 that keeps the event's leading 48 bits of time (index
-- entries stay together) and takes the rest from SHA-256 over both ids.
create function delivery_id(event_id uuid, webhook_id uuid) returns uuid
language sql immutable strict parallel safe as $$
    select encode(
        substring(uuid_send(event_id) from 1 for 6)
            || set_byte(set_byte(h, 0, (get_byte(h, 0) & 15) | 128), 2, (get_byte(h, 2) & 63) | 128),
        'hex')::uuid
    from (select substring(sha256(uuid_send(event_id) || uuid_send(webhook_id)) from 1 for 10)) as hashed (h)
$$;
