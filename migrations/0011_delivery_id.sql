-- The id of the delivery of an event to a webhook: the same whenever and wherever it is computed, so that a
-- receiver can drop repeats by webhook-id alone. A uuid v8 that keeps the event's leading 48 bits of time (index
-- entries stay together) and takes the rest from SHA-256 over both ids. One expression, so that it is inlined.
create function delivery_id(event_id uuid, webhook_id uuid) returns uuid
language sql immutable strict parallel safe as $$
    select overlay(
        overlay(
            encode(substring(sha256(uuid_send(event_id) || uuid_send(webhook_id)) from 1 for 16), 'hex')
            placing left(replace(event_id::text, '-', ''), 12) || '8' from 1 for 13)
        placing '8' from 17 for 1)::uuid
$$;
