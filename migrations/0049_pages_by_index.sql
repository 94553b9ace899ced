-- Indexes by which pages of the console and lists of the API are read in their order, the newest first, however
-- many rows pass the filter and whatever the statistics say (docs/adr/0052).

-- Deliveries of one webhook: it may have a million a day, or one.
create index audit_log_ended_idx on audit_log (webhook_id, delivery_id) where end_state is not null;

-- Kinds that are not written for every presence change or delivery (domain/audit/mod.rs, FREQUENT): the few
-- registrations among millions of attempts.
create index audit_log_kind_idx on audit_log (kind, audit_id)
    where kind not in ('EVENT_RECEIVED', 'DELIVERY_ATTEMPT', 'DELIVERY_ENDED', 'STATE_STALE', 'STATE_DUPLICATE', 'TIME_REJECTED');

-- What somebody asked for, and what is not as it should be.
create index audit_log_principal_idx on audit_log (principal, audit_id) where principal is not null;
create index audit_log_level_idx on audit_log (level, audit_id) where level <> 'info';
