-- What came of the attempts at each webhook, by hour: counted while the audit log is sealed, so that each entry counts once
-- and the path of a delivery bears nothing of it (docs/adr/0051).

create table webhook_outcome (
    webhook_id  uuid        not null,
    hour        timestamptz not null,
    outcome     text        not null,
    attempts    bigint      not null,
    duration_ms bigint      not null,
    constraint webhook_outcome_pkey primary key (webhook_id, hour, outcome)
) with (fillfactor = 70);
create index webhook_outcome_hour_idx on webhook_outcome (hour);
comment on table webhook_outcome is 'Attempts at a webhook by hour and outcome class, kept for two days.';
comment on column webhook_outcome.webhook_id is 'At which webhook. No foreign key: the log may name one that is long gone.';
comment on column webhook_outcome.hour is 'Begin of the hour in UTC in which they ended.';
comment on column webhook_outcome.outcome is 'Outcome class (domain/delivery/outcome.rs).';
comment on column webhook_outcome.attempts is 'How many there were, each delivery of a batch counted.';
comment on column webhook_outcome.duration_ms is 'How long they took together.';

grant select on webhook_outcome to presence_bridge_tenant;
alter table webhook_outcome enable row level security;
create policy webhook_outcome_own on webhook_outcome to presence_bridge_tenant
    using (exists (select from webhook w where w.webhook_id = webhook_outcome.webhook_id));
