-- GUIDs of the platform's users, queues and groups are kept in lower case, as it writes them, whatever case they were given in: an
-- agent that was named in upper case was another one than the agent that the platform told of. Of several spellings of one agent
-- that were seen, the one in lower case stays the agent, else the first.

with named as (
    select agent_key,
           lower(agent_id) as agent_id,
           row_number() over (
               partition by source_id, lower(agent_id) order by agent_id <> lower(agent_id), agent_key) as place
    from agent
    where agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
update agent a
set agent_id = n.agent_id
from named n
where n.agent_key = a.agent_key
  and n.place = 1
  and n.agent_id <> a.agent_id;

with named as (
    select source_id,
           agent_id as given,
           lower(agent_id) as agent_id,
           row_number() over (
               partition by source_id, lower(agent_id) order by agent_id <> lower(agent_id), updated_at desc) as place
    from agent_external_id
    where agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
update agent_external_id x
set agent_id = n.agent_id
from named n
where n.source_id = x.source_id
  and n.given = x.agent_id
  and n.place = 1
  and n.agent_id <> x.agent_id;

with named as (
    select source_id,
           agent_id as given,
           lower(agent_id) as agent_id,
           row_number() over (
               partition by source_id, lower(agent_id) order by agent_id <> lower(agent_id), agent_id) as place
    from connection_agent
    where agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
update connection_agent w
set agent_id = n.agent_id
from named n
where n.source_id = w.source_id
  and n.given = w.agent_id
  and n.place = 1
  and n.agent_id <> w.agent_id;

with named as (
    select connection_id,
           lower(agent_id) as agent_id,
           row_number() over (
               partition by source_id, lower(agent_id) order by agent_id <> lower(agent_id), agent_id) as place
    from connection
    where agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
update connection c
set agent_id = n.agent_id
from named n
where n.connection_id = c.connection_id
  and n.place = 1
  and n.agent_id <> c.agent_id;

-- What a source is told to watch, in its order, each once.
create function ids_in_lower_case(ids text[]) returns text[]
language sql as $$
    select coalesce(array_agg(id order by place), '{}')
    from (
        select case when given ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then lower(given) else given end as id,
               min(place) as place
        from unnest(ids) with ordinality as item (given, place)
        group by 1) items
$$;

update source
set agents = ids_in_lower_case(agents),
    queues = ids_in_lower_case(queues),
    groups = ids_in_lower_case(groups)
where concat_ws(',', agents, queues, groups) <> lower(concat_ws(',', agents, queues, groups));

drop function ids_in_lower_case(text[]);
