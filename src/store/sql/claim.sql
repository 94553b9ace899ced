-- Claims what is due: retries, deliveries that no dispatcher was told of, and those for which there was no
-- room before. Of each webhook that may be sent to it takes the earliest, up to the webhook's room. One that
-- is due but may not be sent stops being due: it is blocked if an older delivery of its lane is open, and
-- suspended if its webhook is (resume, or a good answer to a probe, makes it due again). Called by
-- store/delivery/claim.rs.
--
-- A webhook whose circuit is open is passed over as a whole, however many deliveries it has: one look at its
-- health.
--
-- Parameters: $4 to $7 are columns of the webhooks of which the dispatcher has any leased, one element for
-- each.
--   $1  timestamptz  now
--   $2  bigint       deliveries to claim at most
--   $3  uuid         dispatcher
--   $4  uuid[]       webhook
--   $5  bigint[]     its deliveries that are leased to the dispatcher
--   $6  bigint[]     its room: deliveries to claim at most
--   $7  int[]        its risk: 0 low, 1 suspect, 2 unproven
--   $8  bigint       room of any other webhook
--   $9  bigint       room of any other webhook that has never accepted a POST
--   $10 bigint       room of all suspect webhooks together
--   $11 bigint       room of all unproven webhooks together
--   $12 uuid[]       claim for these webhooks alone; null: for all
--   $13 boolean      claim for webhooks with a limit, too
--   $14 int          usual concurrency: a webhook with less has a limit
--
-- Steps:
--   dated      webhooks with anything that has a due time
--   asked      the same, or the webhooks of $12
--   open       those that may be sent to, each with its room and risk
--   candidate  the earliest due deliveries of each; one stands for all of a batch
--   chosen     the earliest of all, within the room of their risk
--   checked    each with what stands in its way
--   changed    rows that are leased, blocked or suspended
--
-- Rows of the result, in order of position, by `kind`:
--   leased      a delivery that this dispatcher has leased
--   not_leased  a delivery that is blocked or suspended from now on
--   batch       a webhook that has deliveries due that are sent in batches: another statement leases them
--
-- Locks: the caller holds the cycle lock. This locks delivery rows only, in no particular order. It may wait
-- for a writer of events, which never waits for a delivery row.
with recursive
-- Each webhook that has anything dated, by one index descent each.
dated (webhook_id) as (
    (select d.webhook_id
     from delivery d
     where d.due_at is not null
       and $12::uuid[] is null
     order by d.webhook_id
     limit 1)
    union all
    select (select d.webhook_id
            from delivery d
            where d.due_at is not null
              and d.webhook_id > p.webhook_id
            order by d.webhook_id
            limit 1)
    from dated p
    where p.webhook_id is not null
),
asked (webhook_id) as (
    select webhook_id from dated where webhook_id is not null
    union all
    select unnest($12::uuid[])
),
-- Those that may be sent to. A webhook that is gone is among them: its deliveries must end.
open as (
    select a.webhook_id, coalesce(w.version, 0) as version,
           coalesce(w.state in ('paused', 'unverified'), false) as is_suspended,
           coalesce(w.mode = 'latest', false) as is_latest_only,
           w.batch_max_items is not null as is_batched, w.format,
           -- 0: low (one that is gone or suspended takes no place for long), 1: suspect, 2: unproven.
           case when w.state is distinct from 'active' then 0
                else coalesce(b.risk, case when h.succeeded_at is null then 2
                                           when h.failures > 0 then 1
                                           else 0 end) end as risk,
           greatest(
               least(
                   case when h.failures >= 5 then 1 else coalesce(w.max_concurrency, $14) end
                       - coalesce(b.leased, 0),
                   coalesce(b.room, case when w.state is distinct from 'active' then $14
                                     when h.succeeded_at is null then $9::bigint
                                     else $8::bigint end)),
               0) as room
    from asked a
    left join webhook w on w.webhook_id = a.webhook_id
    left join webhook_health h on h.webhook_id = a.webhook_id
    left join unnest($4::uuid[], $5::bigint[], $6::bigint[], $7::int[])
        as b (webhook_id, leased, room, risk) on b.webhook_id = a.webhook_id
    where (w.deleted_at is not null
           or (coalesce(h.hold_until <= $1, true)
               -- One dispatcher alone serves those with a limit (domain/delivery/settings.rs).
               and ($13 or w.webhook_id is null
                    or (w.rate_limit_requests is null and w.max_concurrency >= $14))))
      -- All its deliveries are ending, in pieces.
      and not exists (
          select
          from webhook_work k
          where k.webhook_id = a.webhook_id
            and k.kind = 'end')
),
candidate as (
    select c.place, c.delivery_id, c.webhook_id, c.lane, c.position, o.version, o.is_suspended,
           o.is_latest_only, o.format, o.room, c.is_state, c.due_at, c.is_batched, o.risk,
           row_number() over (partition by o.risk, c.is_batched order by c.due_at) as nth
    from open o
    cross join lateral (
        -- By its place (ctid) it is found again without a look at any other.
        (select d.ctid as place, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state,
                false as is_batched
         from delivery d
         where not o.is_batched
           and d.webhook_id = o.webhook_id
           and d.due_at <= $1
           and d.batch_id is null
         order by d.due_at
         limit o.room)
        union all
        -- What was sent alone before its webhook took batches goes alone again.
        (select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, false
         from delivery d
         where o.is_batched
           and d.webhook_id = o.webhook_id
           and d.due_at <= $1
           and d.goes_alone
         order by d.position
         limit o.room)
        union all
        -- One stands for all that may go in the next batch.
        (select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, true
         from delivery d
         where o.is_batched
           and d.webhook_id = o.webhook_id
           and d.due_at <= $1
           and not d.goes_alone
           and d.batch_id is null
         order by d.due_at
         limit 1)
        union all
        -- One stands for the batch that is to be tried again, whether its webhook still takes batches or not.
        -- Whether it is due is asked afterwards: no plan shall look for it among all that is due.
        (select *
         from (
             select d.ctid, d.delivery_id, d.webhook_id, d.lane, d.position, d.due_at, d.is_state, true
             from delivery d
             where d.webhook_id = o.webhook_id
               and d.batch_id is not null
             order by d.batch_id
             limit 1) b
         where b.due_at <= $1)
    ) c
),
chosen as (
    select *
    from candidate
    where is_batched or risk = 0 or nth <= case risk when 1 then $10::bigint else $11::bigint end
    order by due_at
    limit $2
),
checked as (
    select c.*,
           exists (
               select
               from delivery o
               where o.webhook_id = c.webhook_id
                 and o.lane = c.lane
                 and o.position < c.position) as is_blocked,
           c.is_latest_only and c.is_state and exists (
               select
               from delivery n
               where n.webhook_id = c.webhook_id
                 and n.lane = c.lane
                 and n.position > c.position
                 and n.is_state) as has_newer_state
    from chosen c
),
changed as (
    update delivery d
    set due_at = case when c.is_suspended then 'infinity'::timestamptz end,
        leased_by = case when not (c.is_suspended or c.is_blocked) then $3::uuid end,
        attempt = d.attempt + case when c.is_suspended or c.is_blocked then 0 else 1 end,
        sent_at = case when c.is_suspended or c.is_blocked then d.sent_at else coalesce(d.sent_at, $1) end,
        sent_format = case when c.is_suspended or c.is_blocked or d.goes_alone then d.sent_format
                           else c.format end
    from checked c
    where d.ctid = c.place
      and not c.is_batched
    returning d.delivery_id, d.webhook_id, d.lane, d.attempt, d.superseded, d.sent_at, d.sent_format, d.event_id,
              d.leased_by, d.position, c.version, c.room, c.has_newer_state
)
select case when leased_by is null then 'not_leased' else 'leased' end as "kind!: ClaimRowKind",
       delivery_id as "delivery_id!: DeliveryId",
       webhook_id as "webhook_id!: WebhookId",
       lane as "lane!",
       position as "position!",
       event_id as "event_id?: EventId",
       attempt as "attempt!",
       superseded as "superseded!",
       sent_at as "sent_at?",
       sent_format as "sent_format?",
       version as "webhook_version!",
       has_newer_state as "has_newer_state!",
       room as "room!"
from changed
union all
select 'batch', delivery_id, webhook_id, lane, position, null, 0, 0, null, null, version, false, room
from checked
where is_batched
order by "position!"
