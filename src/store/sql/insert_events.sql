-- Inserts events, the audit entries of presence changes, and the deliveries planned for all of these. One
-- statement, since the writers' lock keeps every other writer out while an answer travels. Called by
-- store/ingest/write.rs.
--
-- Parameters: $1 to $19 and $36 are columns of the events, $20 to $33 of the deliveries, one element for each.
--   $1  uuid[]         event
--   $2  timestamptz[]  received at
--   $3  bigint[]       position
--   $4  text[]         kind
--   $5  uuid[]         source; null: about none
--   $6  text[]         name of the source
--   $7  uuid[]         connection; null: not from one
--   $8  bigint[]       agent key; 0: about no agent
--   $9  text[]         agent
--   $10 text[]         the agent's id in the CRM
--   $11 bigint[]       the agent's sequence; null: not numbered
--   $12 text[]         topic
--   $13 text[]         presence
--   $14 text[]         previous presence
--   $15 timestamptz[]  occurred at, as the source says
--   $16 bytea[]        frame as it was received
--   $17 text[]         origin
--   $18 jsonb[]        particulars
--   $19 bigint[]       deliveries planned for it, superseded ones included
--   $20 uuid[]         delivery
--   $21 uuid[]         webhook
--   $22 bigint[]       lane
--   $23 bigint[]       position of its event
--   $24 uuid[]         its event
--   $25 timestamptz[]  when the event was received
--   $26 timestamptz[]  due time if it is the head of its lane; null: its webhook is suspended
--   $27 boolean[]      the dispatcher $35 leases it if it is the head of its lane
--   $28 boolean[]      it is the first of this statement in its lane
--   $29 boolean[]      it waits for a batch, whether it is the head of its lane or not
--   $30 timestamptz[]  earliest first POST (debounce); null: at once
--   $31 int[]          states that it supersedes
--   $32 boolean[]      it tells the state of an agent
--   $33 text[]         format of its POST
--   $34 timestamptz    now
--   $35 uuid           dispatcher; null: none leases
--   $36 timestamptz[]  committed at: now, or what it was if the event is stored again
--
-- Steps:
--   new_event  events
--   entries    their audit entries
--   (insert)   deliveries: of several of one lane only the first can be the head, and it is unless the table
--              holds an older one
--
-- Rows of the result: one for each delivery; it is leased, or without a due time behind another, or due.
--
-- Locks: the caller holds the writers' lock. This waits for no row.
with new_event as (
    insert into event (
        event_id, received_at, position, kind, source_id, source_name, connection_id, agent_key, agent_id,
        external_id, sequence, topic, presence, previous, occurred_at, raw, origin, state, committed_at)
    select n.*
    from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::text[], $5::uuid[], $6::text[],
                $7::uuid[], $8::bigint[], $9::text[], $10::text[], $11::bigint[], $12::text[],
                $13::text[], $14::text[], $15::timestamptz[], $16::bytea[], $17::text[], $18::jsonb[],
                $36::timestamptz[]) as n
),
entries as (
    insert into audit_log (at, kind, source_id, connection_id, agent_id, event_id, data)
    select $34, 'EVENT_RECEIVED', n.source_id, n.connection_id, n.agent_id, n.event_id,
           jsonb_build_object('sequence', n.sequence, 'deliveries', n.planned)
    from unnest($1::uuid[], $4::text[], $5::uuid[], $7::uuid[], $9::text[], $11::bigint[], $19::bigint[])
         as n (event_id, kind, source_id, connection_id, agent_id, sequence, planned)
    where n.kind = 'presence.updated'
)
insert into delivery (
    delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, leased_by, attempt,
    sent_at, sent_format, not_before, superseded, is_state, created_at)
select d.delivery_id, d.webhook_id, d.lane, d.position, d.event_id, d.received_at,
       case when d.may_lease and h.is_head then null
            when h.is_head or d.is_batched then coalesce(d.due_at, 'infinity') end,
       case when d.may_lease and h.is_head then $35::uuid end,
       case when d.may_lease and h.is_head then 1 else 0 end,
       case when d.may_lease and h.is_head then $34 end,
       case when d.may_lease and h.is_head then d.format end,
       d.not_before, d.superseded, d.is_state, $34
from unnest($20::uuid[], $21::uuid[], $22::bigint[], $23::bigint[], $24::uuid[], $25::timestamptz[],
            $26::timestamptz[], $27::boolean[], $28::boolean[], $29::boolean[], $30::timestamptz[],
            $31::int[], $32::boolean[], $33::text[])
     as d (delivery_id, webhook_id, lane, position, event_id, received_at, due_at, may_lease, is_first,
           is_batched, not_before, superseded, is_state, format)
cross join lateral (
    -- `exists` would be answered for all rows at once, from a hash of the whole table, and once for each
    -- place that names it; this looks into one lane, once.
    select d.is_first and (
        select true
        from delivery o
        where o.webhook_id = d.webhook_id
          and o.lane = d.lane
        limit 1) is null as is_head
    offset 0
) h
returning delivery_id as "delivery_id: DeliveryId", leased_by is not null as "is_leased!",
          due_at is null as "has_no_due_time!"
