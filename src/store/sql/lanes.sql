-- Reads the lanes of a webhook whose heads have waited longest. Called by store/views/lanes.rs.
--
-- Parameters:
--   $1 uuid    webhook
--   $2 bigint  lanes that are looked at, at most
--   $3 bigint  rows at most
--   $4 bigint  deliveries behind a head that are counted, at most
--
-- Steps:
--   heads   the oldest delivery of each lane: one step down delivery_lane_idx for each lane, whatever waits in it
--   oldest  those of them that were inserted first
--
-- Locks: none.
with recursive heads as (
    select * from (
        select d.delivery_id, d.lane, 1::bigint as number
        from delivery d
        where d.webhook_id = $1
        order by d.lane, d.position
        limit 1) first
    union all
    select n.delivery_id, n.lane, h.number + 1
    from heads h
    cross join lateral (
        select d.delivery_id, d.lane
        from delivery d
        where d.webhook_id = $1
          and d.lane > h.lane
        order by d.lane, d.position
        limit 1) n
    where h.number < $2
),
oldest as (
    select d.*, (select max(number) from heads) as lanes
    from heads h
    join delivery d on d.delivery_id = h.delivery_id
    order by d.created_at, d.position
    limit $3
)
select o.lanes as "lanes!", a.agent_id as "agent_id?: AgentId", a.name as agent_name,
       o.delivery_id as "delivery_id!: DeliveryId", o.event_id as "event_id!: EventId",
       case when o.due_at = 'infinity' then 'paused'
            when o.leased_by is not null then 'sending'
            when o.due_at is null then 'blocked'
            else 'waiting' end as "state!",
       o.created_at as "created_at!", case when o.due_at < 'infinity' then o.due_at end as due_at,
       o.not_before, o.attempt as "attempt!", o.last_status, o.last_outcome,
       (select l.data ->> 'reason'
        from audit_log l
        where l.delivery_id = o.delivery_id
          and l.kind = 'DELIVERY_ATTEMPT'
        order by l.audit_id desc
        limit 1) as last_reason,
       (select count(*)
        from (
            select
            from delivery b
            where b.webhook_id = $1
              and b.lane = o.lane
              and b.position > o.position
            limit $4) behind) as "behind!"
from oldest o
left join agent a on a.agent_key = o.lane
order by o.created_at, o.position
