-- `last_outcome` of a webhook's health is of a receiver that fails: it goes with the next success, as `failures` do.

update webhook_health set last_outcome = null where failures = 0 and last_outcome is not null;

comment on column webhook_health.last_outcome is
    'Outcome class of the last failed attempt since the last success, or of a verification or probe that failed.';
