-- Settles attempts that ended: a delivery ends, waits for its next attempt or goes back unsent, and the next
-- delivery of each lane that lost its head is leased or becomes due. One statement and not several, since the
-- cycle lock keeps every other dispatcher out while an answer travels. Called by store/delivery/settle.rs.
--
-- Parameters: $1 to $9 and $14 are columns of the settlements, one element for each.
--   $1  uuid[]         delivery
--   $2  int[]          attempt that was leased; of another attempt, or if the lease is gone, nothing changes
--   $3  timestamptz[]  when it is due again; null: it ends
--   $4  boolean[]      it goes back unsent: the attempt does not count
--   $5  int[]          HTTP status; null: no answer
--   $6  text[]         outcome class
--   $7  boolean[]      the next delivery of its lane may be leased at once; else it becomes due
--   $8  boolean[]      mode `latest`: instead of being tried again it ends if a newer state waits
--   $9  boolean[]      it ends as superseded, without a POST
--   $10 uuid           dispatcher
--   $11 timestamptz    now
--   $12 uuid[]         webhook ..
--   $13 bigint[]       .. and lane of lanes whose head may be unknown to every dispatcher: it is leased, too
--   $14 uuid[]         the half of its batch with which it goes again; null: its batch stays whole
--
-- Steps:
--   settled   settlements that apply, each with its row
--   waiting   rows that are tried again: the lease ends
--   ended     rows that are deleted
--   entries   audit entries of those that `ended` deletes for a newer state; the caller writes the others
--   advanced  lanes that lost their head, and the lanes of $12 and $13
--   promoted  the next delivery of each: leased, or due
--
-- Rows of the result, by `kind`:
--   leased      a promoted delivery that this dispatcher has leased
--   due         a promoted delivery that is due now or later
--   superseded  a state that ended for a newer one of its lane; `states` counts it and those that it stood
--               for; `has_newer_state`: this statement ended it, and not its dispatcher
--   lost        a settlement of a delivery that is not leased to this dispatcher any more
--
-- Locks: the caller holds the cycle lock. This locks delivery rows only, the last in the order agent,
-- webhook, webhook_health, delivery, and those in no particular order.
with settled as (
    -- Rows are found once by their id, and from then on by their place (ctid).
    select d.place, d.delivery_id, d.webhook_id, d.lane, d.position, d.event_id, d.superseded,
           s.attempt, s.due_at, s.is_returned, s.status, s.outcome, s.promotes_next, s.ends_superseded, s.half,
           -- A state that is to be tried again, but a newer one of its lane is there already.
           s.is_latest_only and d.is_state and s.due_at is not null and exists (
               select
               from delivery n
               where n.webhook_id = d.webhook_id
                 and n.lane = d.lane
                 and n.position > d.position
                 and n.is_state) as has_newer_state
    from unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[], $5::int[], $6::text[],
                $7::boolean[], $8::boolean[], $9::boolean[], $14::uuid[])
         as s (delivery_id, attempt, due_at, is_returned, status, outcome, promotes_next, is_latest_only,
               ends_superseded, half)
    cross join lateral (
        -- So that each is looked up: where the table was empty when it was analyzed last, a join would go
        -- through all of it, and through all settlements for each of its rows.
        select h.ctid as place, h.delivery_id, h.webhook_id, h.lane, h.position, h.event_id, h.superseded,
               h.is_state
        from delivery h
        where h.delivery_id = s.delivery_id
          and h.attempt = s.attempt
          and h.leased_by = $10
        offset 0) d
),
waiting as (
    update delivery d
    set due_at = s.due_at,
        leased_by = null,
        attempt = d.attempt - case when s.is_returned then 1 else 0 end,
        goes_alone = d.goes_alone or (not s.is_returned and d.batch_id is null),
        batch_id = coalesce(s.half, d.batch_id),
        halvings = case when s.half is null then d.halvings else coalesce(d.halvings, 0) + 1 end,
        last_status = case when s.is_returned then d.last_status else s.status end,
        last_outcome = case when s.is_returned then d.last_outcome else s.outcome end
    from settled s
    where s.due_at is not null
      and not s.has_newer_state
      and d.ctid = s.place
),
ended as (
    delete from delivery d
    using settled s
    where (s.due_at is null or s.has_newer_state)
      and d.ctid = s.place
    returning s.delivery_id, s.webhook_id, s.lane, s.position, s.event_id, s.superseded, s.attempt,
              s.promotes_next, s.ends_superseded, s.has_newer_state
),
entries as (
    insert into audit_log (
        at, kind, webhook_id, agent_id, event_id, delivery_id, attempt, outcome, end_state)
    select $11, 'DELIVERY_ENDED', e.webhook_id, a.agent_id, e.event_id, e.delivery_id, e.attempt,
           'superseded', 'superseded'
    from ended e
    left join agent a on a.agent_key = e.lane
    where e.has_newer_state
),
advanced as (
    select webhook_id, lane, position, promotes_next
    from ended
    union all
    select l.webhook_id, l.lane, 0, true
    from unnest($12::uuid[], $13::bigint[]) as l (webhook_id, lane)
),
promoted as (
    update delivery d
    set leased_by = case when next.is_leased then $10 end,
        due_at = case when not next.is_leased then greatest($11, d.not_before) end,
        attempt = d.attempt + case when next.is_leased then 1 else 0 end,
        sent_at = case when next.is_leased then coalesce(d.sent_at, $11) else d.sent_at end,
        sent_format = case when not next.is_leased or d.goes_alone then d.sent_format
                           else (select format from webhook where webhook_id = d.webhook_id) end
    from advanced m
    cross join lateral (
        -- It is leased at once if its lane may go on and a debounced state has lasted long enough.
        select n.ctid as place, m.promotes_next and coalesce(n.not_before <= $11, true) as is_leased
        from delivery n
        where n.webhook_id = m.webhook_id
          and n.lane = m.lane
          and n.position > m.position
        order by n.position
        limit 1
    ) next
    where d.ctid = next.place
      and d.due_at is null
      and d.leased_by is null
    returning d.delivery_id, d.webhook_id, d.lane, d.attempt, d.superseded, d.sent_at, d.sent_format, d.event_id,
              d.leased_by, d.position, d.is_state
)
select case when p.leased_by is null then 'due' else 'leased' end as "kind!: SettleRowKind",
       p.delivery_id as "delivery_id!: DeliveryId",
       p.webhook_id as "webhook_id?: WebhookId",
       p.lane as "lane?",
       null::bigint as "position?",
       p.event_id as "event_id?: EventId",
       p.attempt as "attempt?",
       p.superseded as "superseded?",
       p.sent_at as "sent_at?",
       p.sent_format as "sent_format?",
       coalesce(w.version, 0) as "webhook_version?",
       coalesce(w.mode = 'latest' and p.is_state, false) and exists (
           select
           from delivery n
           where n.webhook_id = p.webhook_id
             and n.lane = p.lane
             and n.position > p.position
             and n.is_state) as "has_newer_state!",
       null::int as "states?"
from promoted p
left join webhook w on w.webhook_id = p.webhook_id
union all
select 'superseded', e.delivery_id, e.webhook_id, e.lane, e.position, null, null, null, null, null, null,
       e.has_newer_state, e.superseded + 1
from ended e
where e.has_newer_state
   or e.ends_superseded
union all
-- As sets: to look each up among the others would cost their square.
select 'lost', l.delivery_id, null, null, null, null, null, null, null, null, null, false, null
from (
    select unnest($1::uuid[]) as delivery_id
    except
    select delivery_id
    from settled) l
