-- Lanes that are held by a dispatcher rather than by a time: what is handed over at its birth costs one insert and one
-- delete. See docs/adr/0012.

create table dispatcher (
    dispatcher_id uuid        not null,
    alive_until   timestamptz not null,
    constraint dispatcher_pkey primary key (dispatcher_id)
);
comment on table dispatcher is 'Dispatch loops that live; what one of them holds is free once it is gone.';
comment on column dispatcher.dispatcher_id is 'Made anew whenever a loop starts.';
comment on column dispatcher.alive_until is 'Renewed every few seconds; after this time it counts as dead.';

-- Leases of the former kind end with the upgrade.
update delivery set leased_by = null where leased_by is not null;

-- A writer takes one number for a whole batch and counts on from it (store/events.rs).
alter sequence event_position_seq increment by 1024;

-- The id of a delivery is derived in one place, domain/ids.rs.
drop function delivery_id(uuid, uuid);

alter table delivery
    add column superseded integer     not null default 0,
    add column not_before timestamptz,
    add column sent_at    timestamptz,
    add column batch_id   uuid,
    add column is_state   boolean     not null default true,
    add constraint delivery_leased_is_not_due check (leased_by is null or due_at is null);

create index delivery_batch_idx on delivery (webhook_id, batch_id) where batch_id is not null;

comment on column delivery.due_at is 'When it may be claimed. Null: held by a dispatcher, or blocked by an older one in its lane. Infinity: its webhook is paused.';
comment on column delivery.attempt is 'POSTs begun or about to begin; raised when a dispatcher takes it, so that a crash leaves its trace.';
comment on column delivery.leased_by is 'The dispatcher that holds it; null when none does.';
comment on column delivery.superseded is 'Older states of its lane that gave way to it; part of the body, final once it was sent.';
comment on column delivery.not_before is 'Earliest first POST (min_dwell_ms); null: at once.';
comment on column delivery.sent_at is 'When the first POST began; part of the body. Null before.';
comment on column delivery.is_state is 'Tells the state of an agent, so that a newer state can take its place; false for notices and pings.';
comment on column delivery.batch_id is 'The batch it leaves with, kept over retries so that they have the same bytes; null: none yet.';

alter table audit_log
    drop constraint audit_log_end_state_known,
    add constraint audit_log_end_state_known check (
        end_state in ('delivered', 'dead', 'superseded', 'expired', 'webhook_gone', 'webhook_disabled'));
comment on column audit_log.end_state is 'How a delivery ended (domain/delivery.rs); null while it is open.';

alter table event
    add column external_id  text,
    add column committed_at timestamptz,
    drop constraint event_kind_known,
    add constraint event_kind_known check (
        kind in ('presence.updated', 'presence.snapshot', 'presence.gap', 'webhook.test', 'source.stale',
                 'source.recovered', 'webhook.failing', 'webhook.disabled', 'webhook.recovered'));
comment on column event.kind is 'What it tells (domain/presence.rs).';
comment on column event.external_id is 'The agent''s id in the CRM at that time; null if none was given.';
comment on column event.committed_at is 'When it was written, just before the commit; null in rows from before this column.';

-- The agents' ids in the CRM.
create table agent_external_id (
    source_id   uuid        not null,
    agent_id    text        not null,
    external_id text        not null,
    updated_at  timestamptz not null default now(),
    constraint agent_external_id_pkey primary key (source_id, agent_id),
    constraint agent_external_id_source_fkey foreign key (source_id) references source (source_id)
);
create index agent_external_id_idx on agent_external_id (external_id);
comment on table agent_external_id is 'Which user of the CRM an agent is.';
comment on column agent_external_id.source_id is 'The organisation the agent belongs to.';
comment on column agent_external_id.agent_id is 'Genesys user id; the agent need not have been seen yet.';
comment on column agent_external_id.external_id is 'The CRM''s own id.';
comment on column agent_external_id.updated_at is 'When it was set.';

-- Answers to writes that came with an Idempotency-Key.
create table idempotency (
    principal     text        not null,
    key_hash      bytea       not null,
    request_hash  bytea       not null,
    status        integer,
    answer_sealed bytea,
    created_at    timestamptz not null default now(),
    constraint idempotency_pkey primary key (principal, key_hash)
);
create index idempotency_created_idx on idempotency (created_at);
comment on table idempotency is 'Answers to writes that came with an Idempotency-Key, kept for a day.';
comment on column idempotency.principal is 'Who wrote; keys of others do not meet.';
comment on column idempotency.key_hash is 'SHA-256 of the key.';
comment on column idempotency.request_hash is 'SHA-256 of method, path and body: the same key with another request is refused.';
comment on column idempotency.status is 'HTTP status of the answer; null while the first call is still under way.';
comment on column idempotency.answer_sealed is 'Headers and body of the answer, sealed: it may show a secret. Null as status.';
comment on column idempotency.created_at is 'When it came first.';
