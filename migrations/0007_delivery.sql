-- A delivery is one event owed to one webhook. Only open ones are here: the table stays small and hot.
-- A lane is all that one webhook is owed for one agent; inside it only the oldest delivery may leave.
create table delivery (
    delivery_id       uuid        not null,
    webhook_id        uuid        not null,
    lane              bigint      not null,
    position          bigint      not null,
    event_id          uuid        not null,
    event_received_at timestamptz not null,
    due_at            timestamptz,
    attempt           integer     not null default 0,
    leased_by         uuid,
    last_status       integer,
    last_outcome      text,
    created_at        timestamptz not null default now(),
    constraint delivery_pkey primary key (delivery_id),
    constraint delivery_attempt_not_negative check (attempt >= 0)
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The claim walks the webhooks that have something due, and takes the earliest of each.
create index delivery_due_idx on delivery (webhook_id, due_at) where due_at is not null;
-- Who is oldest in a lane, and who comes next.
create unique index delivery_lane_idx on delivery (webhook_id, lane, position);

comment on table delivery is 'Open deliveries; an ended one lives on in audit_log.';
comment on column delivery.delivery_id is 'Derived from event and webhook (domain/ids.rs); sent as webhook-id.';
comment on column delivery.webhook_id is 'To whom it is owed. No foreign key: one check per row is dear, and the claim ends orphans.';
comment on column delivery.lane is 'agent_key of the event''s agent; 0 for events without one.';
comment on column delivery.position is 'The event''s position: order inside the lane.';
comment on column delivery.event_id is 'What is owed.';
comment on column delivery.event_received_at is 'Partition key of the event.';
comment on column delivery.due_at is 'When it may be claimed: now, after a wait, or when the lease ends. Null: blocked by an older one in its lane. Infinity: its webhook is paused.';
comment on column delivery.attempt is 'POSTs begun; raised by the claim, so that a crash leaves its trace.';
comment on column delivery.leased_by is 'The process that is sending it; null when nobody is.';
comment on column delivery.last_status is 'HTTP status of the last attempt; null if there was none or no answer.';
comment on column delivery.last_outcome is 'Outcome class of the last attempt; null before the first.';
comment on column delivery.created_at is 'When it became owed.';
