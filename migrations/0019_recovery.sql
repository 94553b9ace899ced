-- What an operator asked to be owed again (docs/adr/0025): how far each request is, so that it outlives the process.
create table recovery (
    recovery_id  uuid        not null,
    webhook_id   uuid        not null,
    since        timestamptz not null,
    until        timestamptz not null,
    only_failed  boolean     not null,
    agents       text[]      not null,
    newest_only  boolean     not null,
    principal    text        not null,
    requested_at timestamptz not null,
    read_through bigint      not null default 0,
    recovered    bigint      not null default 0,
    skipped      bigint      not null default 0,
    held_by      uuid,
    ended_at     timestamptz,
    reason       text,
    constraint recovery_pkey primary key (recovery_id),
    constraint recovery_webhook_fkey foreign key (webhook_id) references webhook (webhook_id),
    constraint recovery_reason_ended check (reason is null or ended_at is not null)
);
create index recovery_webhook_idx on recovery (webhook_id, recovery_id);
create index recovery_running_idx on recovery (recovery_id) where ended_at is null;
create index recovery_ended_idx on recovery (ended_at);
comment on table recovery is 'Requests to owe a webhook again what it missed. Those that have ended are kept as long as audit entries.';
comment on column recovery.recovery_id is 'Our id, uuid v7.';
comment on column recovery.webhook_id is 'To whom.';
comment on column recovery.since is 'Events that arrived at or after this time ...';
comment on column recovery.until is '... and before this one.';
comment on column recovery.only_failed is 'Only what ended without success.';
comment on column recovery.agents is 'Only these agents, by Genesys user id or by the CRM''s; empty: all.';
comment on column recovery.newest_only is 'Only the newest event of each agent: the mode was latest when it was asked for.';
comment on column recovery.principal is 'Who asked.';
comment on column recovery.requested_at is 'When.';
comment on column recovery.read_through is 'Events up to this position are done, or agents up to this agent_key if newest_only.';
comment on column recovery.recovered is 'Deliveries that are owed again so far.';
comment on column recovery.skipped is 'Deliveries that could not be opened so far.';
comment on column recovery.held_by is 'The dispatcher whose process works on it, as long as that lives.';
comment on column recovery.ended_at is 'When it ended.';
comment on column recovery.reason is 'Why it ended before everything was looked at.';

-- A tenant asks, looks and cancels; the work that is done in its name counts what it opens.
grant select, insert, update (recovered, ended_at, reason) on recovery to presence_bridge_tenant;
alter table recovery enable row level security;
create policy recovery_own on recovery to presence_bridge_tenant
    using (exists (select from webhook w where w.webhook_id = recovery.webhook_id));
