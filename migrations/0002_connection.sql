-- A connection is one upstream socket that we want to hold; the row outlives sockets and processes.
create table connection (
    connection_id          uuid        not null,
    source_id              uuid        not null,
    agent_id               text        not null,
    desired                text        not null default 'open',
    generation             bigint      not null default 1,
    state                  text        not null default 'idle',
    state_reason           text,
    attempt_count          integer     not null default 0,
    upstream_connection_id text,
    stale_upstream_ids     text[]      not null default '{}',
    opened_at              timestamptz,
    proven_at              timestamptz,
    created_at             timestamptz not null default now(),
    updated_at             timestamptz not null default now(),
    constraint connection_pkey primary key (connection_id),
    constraint connection_source_fkey foreign key (source_id) references source (source_id),
    constraint connection_agent_unique unique (source_id, agent_id),
    constraint connection_desired_known check (desired in ('open', 'terminated')),
    constraint connection_state_known check (
        state in ('idle', 'connecting', 'open', 'backing_off', 'refused', 'terminated'))
);

comment on table connection is 'One upstream socket that we want to hold.';
comment on column connection.connection_id is 'Our id, uuid v7; stays the same over reconnects and restarts.';
comment on column connection.source_id is 'Whose credentials it uses.';
comment on column connection.agent_id is 'The Genesys user it watches (protocol realtime: one agent a connection).';
comment on column connection.desired is 'What the operator wants: open, or terminated until a restart is asked for.';
comment on column connection.generation is 'Raised by a restart request; the supervisor rebuilds the actor when it differs.';
comment on column connection.state is 'idle, connecting, open, backing_off, refused (403: waits for a change), terminated.';
comment on column connection.state_reason is 'Why it is in this state, in words; null when there is nothing to say.';
comment on column connection.attempt_count is 'Reconnect attempts since the last healthy minute.';
comment on column connection.upstream_connection_id is 'Upstream''s id of the present connection; null when none is provisioned.';
comment on column connection.stale_upstream_ids is 'Ids we made upstream and have not yet seen deleted.';
comment on column connection.opened_at is 'When the present socket opened; null while there is none.';
comment on column connection.proven_at is 'Last moment a frame proved the socket live; a gap begins here.';
comment on column connection.created_at is 'When the row was made.';
comment on column connection.updated_at is 'When state changed last.';
