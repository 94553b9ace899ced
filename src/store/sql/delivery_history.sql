-- Reads a page of deliveries, open ones from `delivery` and ended ones from `audit_log`, the newest events
-- first. Called by store/views/deliveries.rs, which lets the server plan it for its values: with one plan for
-- all filters it would read everything.
--
-- Parameters; each filter lets everything pass if it is null.
--   $1 uuid    delivery
--   $2 uuid    webhook
--   $3 text[]  agents
--   $4 uuid    event
--   $5 text    state: a state of an open delivery, an end state, or `open` or `ended` for all of a kind
--   $6 uuid    deliveries before this id
--   $7 uuid    deliveries from this id on
--   $8 bigint  rows at most
--   $9 uuid    source of the agent
--
-- Steps:
--   open_ones   open deliveries that pass
--   ended_ones  deliveries that ended and pass, each with its last end
--
-- Locks: none.
with open_ones as (
    select d.delivery_id, d.webhook_id, d.event_id,
           (select a.agent_id from agent a where a.agent_key = d.lane) as agent_id,
           d.state, d.attempt,
           case when d.state = 'waiting' then d.due_at end as due_at,
           d.last_status, d.last_outcome, d.created_at, null::timestamptz as ended_at
    from (
        select *,
               case when leased_by is not null then 'sending'
                    when due_at is null then 'blocked'
                    when due_at = 'infinity' then 'paused'
                    else 'waiting' end as state
        from delivery) d
    where ($1::uuid is null or d.delivery_id = $1)
      and ($2::uuid is null or d.webhook_id = $2)
      and ($3::text[] is null or d.lane in (select agent_key from agent where agent_id = any ($3)))
      and ($4::uuid is null or d.event_id = $4)
      and ($9::uuid is null or d.lane in (select agent_key from agent where source_id = $9))
      and ($5::text is null or $5 = 'open' or d.state = $5)
      and ($6::uuid is null or d.delivery_id < $6)
      and ($7::uuid is null or d.delivery_id >= $7)
    order by d.delivery_id desc
    limit $8
),
ended_ones as (
    select l.delivery_id, l.webhook_id, l.event_id, l.agent_id, l.end_state as state,
           coalesce(l.attempt, 0) as attempt, null::timestamptz as due_at,
           l.status as last_status, l.outcome as last_outcome,
           null::timestamptz as created_at, l.at as ended_at
    from audit_log l
    where l.delivery_id is not null
      and l.end_state is not null
      and ($1::uuid is null or l.delivery_id = $1)
      and ($2::uuid is null or l.webhook_id = $2)
      and ($3::text[] is null or l.agent_id = any ($3))
      and ($4::uuid is null or l.event_id = $4)
      and ($9::uuid is null
           or (l.source_id is null or l.source_id = $9)
              and exists (select from agent a where a.source_id = $9 and a.agent_id = l.agent_id))
      and ($5::text is null or $5 = 'ended' or l.end_state = $5)
      and ($6::uuid is null or l.delivery_id < $6)
      and ($7::uuid is null or l.delivery_id >= $7)
      -- A retry opens it again, and then it may end once more: only what holds now is shown.
      and not exists (select from delivery d where d.delivery_id = l.delivery_id)
      and not exists (
          select from audit_log later
          where later.delivery_id = l.delivery_id
            and later.end_state is not null
            and later.audit_id > l.audit_id)
    order by l.delivery_id desc
    limit $8
)
select delivery_id as "delivery_id!: DeliveryId", webhook_id as "webhook_id: WebhookId",
       event_id as "event_id: EventId", agent_id as "agent_id: AgentId", state as "state!",
       attempt as "attempt!", due_at, last_status, last_outcome, created_at, ended_at
from (select * from open_ones union all select * from ended_ones) both_kinds
order by delivery_id desc
limit $8
