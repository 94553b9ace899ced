-- Genesys Cloud's public Notifications API: a connection is a channel that watches many agents, and an event says
-- more than a presence.

alter table source
    drop constraint source_protocol_known,
    add constraint source_protocol_known check (protocol in ('realtime', 'notifications')),
    add column all_users               boolean not null default false,
    add column queues                  text[]  not null default '{}',
    add column groups                  text[]  not null default '{}',
    add column language                text    not null default 'en_US',
    add column stale_after_seconds     integer not null default 120,
    add column roster_interval_seconds integer not null default 600,
    add column refreshes_asked         bigint  not null default 0,
    add constraint source_stale_after_in_range check (stale_after_seconds between 5 and 86400),
    add constraint source_roster_interval_in_range check (roster_interval_seconds between 5 and 86400);

comment on column source.all_users is 'Watch every active user of the organisation (protocol notifications).';
comment on column source.queues is 'Watch the members of these queues (protocol notifications).';
comment on column source.groups is 'Watch the members of these groups (protocol notifications).';
comment on column source.language is 'Language of presence labels, such as en_US.';
comment on column source.stale_after_seconds is 'Without a live connection for so long, the source is said to be stale.';
comment on column source.roster_interval_seconds is 'How often queues, groups and users are read again.';
comment on column source.refreshes_asked is 'Counts requests to read the rosters at once.';

-- How a source stands; apart from its settings, because it changes without anybody asking.
create table source_health (
    source_id         uuid        not null,
    stale_since       timestamptz,
    roster_read_at    timestamptz,
    roster_error      text,
    agents_wanted     integer     not null default 0,
    agents_over_limit integer     not null default 0,
    constraint source_health_pkey primary key (source_id),
    constraint source_health_source_fkey foreign key (source_id) references source (source_id)
);

comment on table source_health is 'How a source stands.';
comment on column source_health.source_id is 'Which.';
comment on column source_health.stale_since is 'Last proof of a live connection, while the source is said to be stale; else null.';
comment on column source_health.roster_read_at is 'When the agents to watch were worked out last; null before the first time.';
comment on column source_health.roster_error is 'Why the last reading of a roster failed; null if it did not.';
comment on column source_health.agents_wanted is 'Agents that are to be watched.';
comment on column source_health.agents_over_limit is 'Of those, how many stay unwatched because the client''s channels are full.';

alter table connection
    alter column agent_id drop not null,
    drop constraint connection_desired_known,
    add constraint connection_desired_known check (desired in ('open', 'terminated', 'removed')),
    add column assignment bigint      not null default 1,
    add column expires_at timestamptz;

comment on column connection.agent_id is 'The Genesys user it watches in protocol realtime; null in protocol notifications (see connection_agent).';
comment on column connection.desired is 'What is wanted: open; terminated until a restart is asked for; removed once it has ended.';
comment on column connection.assignment is 'Raised when other agents are assigned; the actor then subscribes anew.';
comment on column connection.expires_at is 'When upstream ends the present channel; null if it does not say or there is none.';

-- Who is watched where.
create table connection_agent (
    place               bigint generated always as identity,
    source_id           uuid   not null,
    agent_id            text   not null,
    connection_id       uuid   not null,
    topic               text,
    rejected_reason     text,
    missing_permissions text[] not null default '{}',
    rejected_at         timestamptz,
    constraint connection_agent_pkey primary key (source_id, agent_id),
    constraint connection_agent_connection_fkey foreign key (connection_id) references connection (connection_id)
        on delete cascade
);
create index connection_agent_connection_idx on connection_agent (connection_id);

comment on table connection_agent is 'Which connection watches which agent, and whom the platform does not let us watch.';
comment on column connection_agent.place is 'Orders lists.';
comment on column connection_agent.source_id is 'The organisation the agent belongs to.';
comment on column connection_agent.agent_id is 'Genesys user id.';
comment on column connection_agent.connection_id is 'The connection that watches the agent.';
comment on column connection_agent.topic is 'The topic that was rejected; null if none was.';
comment on column connection_agent.rejected_reason is 'Why the platform rejected the agent''s topic; null if it did not.';
comment on column connection_agent.missing_permissions is 'Permissions that the platform says are missing.';
comment on column connection_agent.rejected_at is 'When it was rejected; null if it was not.';

insert into connection_agent (source_id, agent_id, connection_id)
select source_id, agent_id, connection_id
from connection
where agent_id is not null;

alter table agent
    add column name  text,
    add column email text,
    add column state jsonb not null default '{}';

comment on column agent.name is 'Name as the organisation keeps it; null if unknown.';
comment on column agent.email is 'E-mail address as the organisation keeps it; null if unknown.';
comment on column agent.state is 'Presence, routing status, out of office and queues with upstream''s times (domain/agent_state.rs).';

alter table event
    add column origin text  not null default 'live',
    add column state  jsonb,
    drop constraint event_kind_known,
    add constraint event_kind_known check (
        kind in ('presence.updated', 'webhook.test', 'source.stale', 'source.recovered')),
    add constraint event_origin_known check (origin in ('live', 'resync'));

comment on column event.kind is 'presence.updated, webhook.test, source.stale or source.recovered.';
comment on column event.origin is 'live: seen on a socket; resync: read by REST after a time without sight.';
comment on column event.state is 'What is told besides the columns (domain/agent_state.rs, domain/source_notice.rs); null if nothing is.';

alter table webhook
    add column events text[] not null default '{presence.updated}',
    add constraint webhook_events_known check (
        events <@ array['presence.updated', 'source.stale', 'source.recovered'] and events <> '{}');

comment on column webhook.events is 'Which kinds of event it is sent.';

comment on column gap.cause is 'Why, such as socket_closed, silence, displaced, maintenance, bridge_down, backpressure, terminated.';

-- How a source stands, as one object for whoever shows it.
create function source_health_of(wanted uuid) returns jsonb
language sql stable as $$
    select jsonb_build_object(
        'stale_since', h.stale_since,
        'roster_read_at', h.roster_read_at,
        'roster_error', h.roster_error,
        'agents_wanted', coalesce(h.agents_wanted, 0),
        'agents_over_limit', coalesce(h.agents_over_limit, 0),
        'agents_rejected', (
            select count(*) from connection_agent a where a.source_id = wanted and a.rejected_reason is not null),
        'connections', (select count(*) from connection c where c.source_id = wanted and c.desired = 'open'),
        'connections_open', (
            select count(*)
            from connection c
            where c.source_id = wanted
              and c.desired = 'open'
              and c.state = 'open'))
    from (select wanted) as one
    left join source_health h on h.source_id = one.wanted
$$;
