-- What a delivery's first POST looked like stays with it: a repeat has the same id and the same bytes, whatever was changed of its
-- webhook meanwhile.

alter table delivery
    add column sent_format text,
    add column goes_alone  boolean not null default false;
comment on column delivery.sent_format is 'Format of its last POST (domain/delivery_settings.rs), which repeats keep: those that go alone or have a batch. Null before the first.';
comment on column delivery.goes_alone is 'It was sent alone, in no batch, and is to be sent again: alone.';

update delivery d
set sent_format = w.format,
    goes_alone = d.attempt > 0 and d.batch_id is null
from webhook w
where w.webhook_id = d.webhook_id
  and d.sent_at is not null;

-- Of a webhook that takes batches: what was sent alone before it did. By position, so that no plan takes delivery_due_idx for it,
-- in which all that waits for a batch stands as well.
create index delivery_alone_idx on delivery (webhook_id, position) where goes_alone and due_at is not null;

-- An index that names leased_by, or anything else that changes when the next delivery of a lane comes into a dispatcher's hands,
-- makes that a new entry in every index of the table. What is leased is found by reading the table piece by piece instead
-- (docs/adr/0036).
drop index delivery_leased_idx;
