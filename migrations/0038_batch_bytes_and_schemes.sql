-- Receivers as they are. A batch has a size in bytes, too, and one that is too large for its receiver is sent in halves (docs/adr/0045).
-- Credentials may have a scheme of the receiver's own.

alter table webhook
    add column batch_max_bytes integer not null default 96000,
    add constraint webhook_batch_bytes_in_range check (batch_max_bytes between 1024 and 1048576);
comment on column webhook.batch_max_bytes is 'Most bytes of the body of a batch; one item that is larger goes alone. Without meaning while batch_max_items is null.';

alter table delivery
    add column halvings smallint;
comment on column delivery.halvings is 'Attempts that ended with its batch too large for the receiver and halved: they use up nothing of the retry schedule. Null: none.';

alter table webhook
    drop constraint webhook_auth_known,
    add constraint webhook_auth_known check (auth_kind in ('none', 'basic', 'bearer', 'scheme', 'oauth2'));
