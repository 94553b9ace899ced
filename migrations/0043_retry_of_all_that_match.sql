-- A recovery may be of deliveries that ended in certain states, whatever their webhook's filters say (docs/adr/0048).

alter table recovery add column states text[], add column source_id uuid;
comment on column recovery.states is
    'Deliveries whose last end is one of these, and no others; null: events that the filters of the webhook ask for.';
comment on column recovery.source_id is 'Only of agents of this source; null: of all.';
comment on column recovery.read_through is
    'Events up to this position are done, or agents up to this agent_key if newest_only; with states, deliveries of events of up to this millisecond.';

-- Deliveries that ended without success are few among the entries of the log, and are looked for often.
create index audit_log_failed_idx on audit_log (webhook_id, end_state, delivery_id) where end_state <> 'delivered';
create index audit_log_failed_state_idx on audit_log (end_state, delivery_id) where end_state <> 'delivered';
