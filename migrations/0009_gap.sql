-- A gap is a time in which we could not see an agent.
create table gap (
    gap_id        uuid        not null,
    source_id     uuid        not null,
    connection_id uuid        not null,
    agents        text[]      not null,
    cause         text        not null,
    from_at       timestamptz not null,
    to_at         timestamptz,
    constraint gap_pkey primary key (gap_id),
    constraint gap_order check (to_at >= from_at)
);
-- A connection is blind once at a time.
create unique index gap_open_unique on gap (connection_id) where to_at is null;
create index gap_source_idx on gap (source_id, from_at);

comment on table gap is 'Times in which agents could not be seen.';
comment on column gap.gap_id is 'Our id, uuid v7.';
comment on column gap.source_id is 'Whose agents were unseen.';
comment on column gap.connection_id is 'The connection that was down.';
comment on column gap.agents is 'Genesys ids of the agents that were unseen.';
comment on column gap.cause is 'Why, such as socket_closed, silence, bridge_down, backpressure, terminated.';
comment on column gap.from_at is 'Last moment that the connection was proven live.';
comment on column gap.to_at is 'When it was open again; null while it lasts.';
