-- An agent is a Genesys user; the row is its last known state and hands out its sequence.
create table agent (
    agent_key    bigint      generated always as identity,
    source_id    uuid        not null,
    agent_id     text        not null,
    sequence     bigint      not null default 0,
    presence     text,
    topic        text,
    since        timestamptz,
    occurred_at  timestamptz,
    received_at  timestamptz,
    event_id     uuid,
    created_at   timestamptz not null default now(),
    constraint agent_pkey primary key (agent_key),
    constraint agent_source_fkey foreign key (source_id) references source (source_id),
    constraint agent_id_unique unique (source_id, agent_id)
) with (fillfactor = 50); -- every event updates one row in place

comment on table agent is 'A Genesys user: last known state, and the sequence that its events are numbered by.';
comment on column agent.agent_key is 'Short internal key; lanes are (webhook, agent_key).';
comment on column agent.source_id is 'The organisation the agent belongs to.';
comment on column agent.agent_id is 'Genesys user id as upstream writes it.';
comment on column agent.sequence is 'Number of the agent''s last event; grows by one, without holes.';
comment on column agent.presence is 'Last readable system presence; null until one was read.';
comment on column agent.topic is 'Topic the last event came in on; null before the first.';
comment on column agent.since is 'Since when the presence is what it is; null until one was read.';
comment on column agent.occurred_at is 'Upstream''s time of the last event; null if it gave none.';
comment on column agent.received_at is 'When we received the last event; null before the first.';
comment on column agent.event_id is 'The last event; null before the first.';
comment on column agent.created_at is 'When we first heard of the agent.';
