-- A receiver that has never accepted a POST gets few places of a dispatcher (docs/adr/0028). Nothing is known of those that
-- were registered before: they are taken for proven, as they were, and what they do next decides.
alter table webhook_health add column succeeded_at timestamptz;
comment on column webhook_health.succeeded_at is 'When the present address first accepted a POST; null: it never has.';

update webhook_health
set succeeded_at = now()
where failures = 0;
