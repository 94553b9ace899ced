-- Adds superseded states to the count of the next state of their lane. Called by store/delivery/settle.rs.
--
-- Parameters: $1 to $4 are columns of the superseded states, one element for each.
--   $1 uuid[]       webhook
--   $2 bigint[]     lane
--   $3 bigint[]     position
--   $4 int[]        states that it stands for, itself among them
--   $5 timestamptz  now: what is sent for the first time in this cycle has this as its `sent_at`
--
-- Steps:
--   heir     the next state of each lane, unless it was sent before
--   counted  heirs with the new count
--
-- Rows of the result: for each state with an heir its number, from 1, with the heir's id and new count; both
-- are null if a writer put a newer state in the heir's place meanwhile. A state without an heir has no row.
--
-- Locks: delivery rows, in no particular order. It may wait for a writer of events, which never waits for a
-- delivery row.
with heir as (
    select g.number, g.states, next.place
    from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[])
         with ordinality as g (webhook_id, lane, position, states, number)
    cross join lateral (
        select n.ctid as place
        from delivery n
        where n.webhook_id = g.webhook_id
          and n.lane = g.lane
          and n.position > g.position
          and n.is_state
          -- The body of one that was sent before says already how many there were.
          and coalesce(n.sent_at = $5, true)
        order by n.position
        limit 1) next
),
counted as (
    update delivery d
    set superseded = d.superseded + h.states
    from heir h
    where d.ctid = h.place
    returning h.number, d.delivery_id, d.superseded
)
select number as "number!", delivery_id as "delivery_id?: DeliveryId", superseded as "superseded?"
from counted
union all
select number, null, null
from (select number from heir except select number from counted) missed
