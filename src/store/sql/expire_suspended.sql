-- Ends, in one piece of a suspended webhook's deliveries, those that have waited for too long. Called by
-- store/delivery/suspended.rs.
--
-- Parameters:
--   $1 uuid         webhook
--   $2 bigint       lane and ..
--   $3 bigint       .. position after which the piece begins
--   $4 timestamptz  deliveries made before this time end
--   $5 timestamptz  now
--   $6 bigint       deliveries in the piece at most
--   $7 text         kind of the audit entries
--   $8 text         end state
--
-- Steps:
--   piece    the next deliveries in order of lane and position
--   expired  those that end, with the rest of their batches
--   ended    deliveries that are deleted
--   entries  their audit entries
--
-- Result: one row with the number of deliveries that ended, their lanes, the size of the piece, and its last
-- lane and position.
--
-- Locks: the caller holds the webhook's row. This locks delivery rows, in no particular order.
with piece as (
    select d.ctid as place, d.delivery_id, d.lane, d.position, d.batch_id,
           d.created_at < $4 and d.leased_by is null as is_expired
    from delivery d
    where d.webhook_id = $1
      and (d.lane, d.position) > ($2, $3)
    order by d.lane, d.position
    limit $6
),
expired as (
    select place from piece where is_expired and batch_id is null
    union
    -- A batch that was sent ends whole, or a repeat of it would have other bytes.
    select m.ctid
    from delivery m
    where m.webhook_id = $1
      and m.batch_id in (select batch_id from piece where is_expired)
      and not exists (
          select
          from delivery y
          where y.webhook_id = $1
            and y.batch_id = m.batch_id
            and (y.created_at >= $4 or y.leased_by is not null))
),
ended as (
    delete from delivery d
    using expired o
    where d.ctid = o.place
      and d.leased_by is null
    returning d.delivery_id, d.event_id, d.lane, d.attempt
),
entries as (
    insert into audit_log (
        at, kind, level, webhook_id, event_id, delivery_id, agent_id, attempt, end_state, data)
    select $5, $7, 'WARN', $1, event_id, delivery_id,
           (select agent_id from agent where agent_key = lane), nullif(attempt, 0), $8,
           '{"reason": "parked_too_long"}'
    from ended
)
select (select count(*) from ended) as "ended!",
       (select array_agg(distinct lane) from ended) as lanes,
       (select count(*) from piece) as "size!",
       (select lane from piece order by lane desc limit 1) as lane,
       (select position from piece order by lane desc, position desc limit 1) as position
