-- An event is one presence change, append-only, partitioned by day of arrival so that retention drops whole days.
create sequence event_position_seq as bigint;

create table event (
    event_id      uuid        not null,
    received_at   timestamptz not null,
    position      bigint      not null default nextval('event_position_seq'),
    kind          text        not null default 'presence.updated',
    source_id     uuid,
    source_name   text,
    connection_id uuid,
    agent_key     bigint,
    agent_id      text,
    sequence      bigint,
    topic         text,
    presence      text,
    previous      text,
    occurred_at   timestamptz,
    raw           bytea       not null,
    constraint event_pkey primary key (event_id, received_at),
    constraint event_kind_known check (kind in ('presence.updated', 'webhook.test')),
    constraint event_of_agent_is_whole check (
        kind <> 'presence.updated'
        or (source_id is not null and source_name is not null and agent_key is not null
            and agent_id is not null and sequence is not null and topic is not null))
) partition by range (received_at);

create index event_position_idx on event (position);
create index event_agent_idx on event (agent_id, position) where agent_id is not null;

-- Nothing may be lost because a day has no partition yet; a sweep keeps the coming days made.
create table event_default partition of event default;

comment on table event is 'One presence change each, or one test ping; never updated.';
comment on column event.event_id is 'Our id, uuid v7, made when the frame arrived.';
comment on column event.received_at is 'When the frame arrived; partition key.';
comment on column event.position is 'Place in the feed: commit order, because writers take a lock (store/events.rs).';
comment on column event.kind is 'presence.updated, or webhook.test for a test ping.';
comment on column event.source_id is 'Where it came from; null for a test ping.';
comment on column event.source_name is 'The source''s name at that time, so that a repeated POST has the same bytes.';
comment on column event.connection_id is 'The connection it arrived on; null for a test ping.';
comment on column event.agent_key is 'Whose change it is; null for a test ping.';
comment on column event.agent_id is 'The agent''s Genesys id, kept for readers; null for a test ping.';
comment on column event.sequence is 'Number among the agent''s events; null for a test ping.';
comment on column event.topic is 'Topic as upstream named it or as subscribed; null for a test ping.';
comment on column event.presence is 'System presence read from the frame; null if none could be read.';
comment on column event.previous is 'The agent''s presence before; null if unknown.';
comment on column event.occurred_at is 'Upstream''s time of the change; null if it gave none.';
comment on column event.raw is 'The frame byte for byte (bytea: text and jsonb refuse some of what JSON allows).';
