-- What a delivery's first POST looked like stays with it: a repeat has the same id and the same bytes, whatever was changed of its
-- webhook meanwhile.

alter table delivery add column sent_format text;
comment on column delivery.sent_format is 'Format of its first POST (domain/delivery_settings.rs), which repeats keep; null before. Without a batch_id it was sent alone, and goes alone again.';

update delivery d
set sent_format = w.format
from webhook w
where w.webhook_id = d.webhook_id
  and d.sent_at is not null;

-- Of a webhook that takes batches: what was sent alone before it did.
create index delivery_alone_idx on delivery (webhook_id, due_at)
    where sent_format is not null and batch_id is null and due_at is not null;
