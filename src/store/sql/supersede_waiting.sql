-- Ends waiting deliveries that a newer state supersedes, each with an audit entry. Called by
-- store/ingest/write.rs.
--
-- Parameters: $1 to $4 are columns of the lanes in which deliveries end, one element for each.
--   $1 uuid[]         webhook
--   $2 bigint[]       lane
--   $3 timestamptz[]  only what is still debounced at this time and was never sent; null: all that waits
--   $4 uuid[]         delivery that takes their place; null: none does
--   $5 timestamptz    now
--
-- Steps:
--   ended    deliveries that are deleted
--   entries  their audit entries
--
-- Rows of the result: for each lane where any ended, how many, and the sum of the states that they stood for.
--
-- Locks: the caller holds the writers' lock. This locks delivery rows and waits for none: it passes over
-- those that others have locked.
with ended as (
    delete from delivery d
    using (
        select o.place, n.by_id
        from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::uuid[])
             as n (webhook_id, lane, debounced_at, by_id)
        cross join lateral (
            select o.ctid as place
            from delivery o
            where o.webhook_id = n.webhook_id
              and o.lane = n.lane
              and o.is_state
              and o.leased_by is null
              and o.batch_id is null
              and (n.debounced_at is null or (o.attempt = 0 and o.not_before > n.debounced_at))
            -- One that is being leased at this moment is as good as sent.
            for update skip locked) o
    ) waiting
    where d.ctid = waiting.place
    returning d.delivery_id, d.webhook_id, d.lane, d.event_id, d.attempt, d.superseded, waiting.by_id
),
entries as (
    insert into audit_log (
        at, kind, webhook_id, agent_id, event_id, delivery_id, attempt, outcome, end_state, data)
    select $5, 'DELIVERY_ENDED', e.webhook_id, a.agent_id, e.event_id, e.delivery_id,
           nullif(e.attempt, 0), 'superseded', 'superseded',
           jsonb_strip_nulls(jsonb_build_object('superseded_by', e.by_id))
    from ended e
    left join agent a on a.agent_key = e.lane
)
select webhook_id as "webhook_id!: WebhookId", lane as "lane!", count(*) as "count!",
       sum(superseded + 1)::int as "states!"
from ended
group by webhook_id, lane
