-- An audit entry is one step: append-only, partitioned by day.
create sequence audit_log_id_seq as bigint;

create table audit_log (
    audit_id      bigint      not null default nextval('audit_log_id_seq'),
    at            timestamptz not null,
    kind          text        not null,
    level         text        not null default 'INFO',
    source_id     uuid,
    connection_id uuid,
    agent_id      text,
    webhook_id    uuid,
    event_id      uuid,
    delivery_id   uuid,
    attempt       integer,
    status        integer,
    duration_ms   integer,
    outcome       text,
    end_state     text,
    principal     text,
    data          jsonb       not null default '{}',
    constraint audit_log_pkey primary key (audit_id, at),
    constraint audit_log_level_known check (level in ('INFO', 'WARN', 'ERROR')),
    constraint audit_log_end_state_known check (
        end_state in ('delivered', 'dead', 'webhook_gone'))
) partition by range (at);

create index audit_log_event_idx on audit_log (event_id) where event_id is not null;
create index audit_log_delivery_idx on audit_log (delivery_id) where delivery_id is not null;
create index audit_log_webhook_idx on audit_log (webhook_id, audit_id) where webhook_id is not null;
create index audit_log_agent_idx on audit_log (agent_id, audit_id) where agent_id is not null;
create index audit_log_at_idx on audit_log using brin (at);

create table audit_log_default partition of audit_log default;

comment on table audit_log is 'Every received event, attempt, end of a delivery, connection step and change of configuration.';
comment on column audit_log.audit_id is 'Place in the log.';
comment on column audit_log.at is 'When it happened; partition key.';
comment on column audit_log.kind is 'What happened, such as WS_OPEN or DELIVERY_ATTEMPT (domain/audit.rs lists them).';
comment on column audit_log.level is 'INFO, WARN or ERROR.';
comment on column audit_log.source_id is 'The source concerned; null if none.';
comment on column audit_log.connection_id is 'The connection concerned; null if none.';
comment on column audit_log.agent_id is 'The agent concerned; null if none.';
comment on column audit_log.webhook_id is 'The webhook concerned; null if none.';
comment on column audit_log.event_id is 'The event concerned; null if none.';
comment on column audit_log.delivery_id is 'The delivery concerned; null if none.';
comment on column audit_log.attempt is 'Number of the attempt, from 1; null if the entry is not about one.';
comment on column audit_log.status is 'HTTP status or socket close code; null if there was none.';
comment on column audit_log.duration_ms is 'How long the step took; null if not measured.';
comment on column audit_log.outcome is 'Outcome class of an attempt; null otherwise.';
comment on column audit_log.end_state is 'How a delivery ended: delivered, dead or webhook_gone; null while it is open.';
comment on column audit_log.principal is 'Who asked for it, such as api-key:bootstrap; null for the bridge itself.';
comment on column audit_log.data is 'Particulars. Never a secret, a token or a socket URL.';
