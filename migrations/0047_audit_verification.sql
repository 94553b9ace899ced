-- Checks of the audit log that somebody asked for over the API. Here, and not in the process that checks, so that every
-- process can tell how far one has come, and so that only one runs at a time.

create table audit_verification (
    verification_id uuid        not null,
    started_at      timestamptz not null,
    principal       text        not null,
    state           text        not null,
    heard_at        timestamptz not null,
    ended_at        timestamptz,
    cancel_asked    boolean     not null default false,
    expected_head   text,
    seals_total     bigint      not null,
    rows_total      bigint      not null,
    seals           bigint      not null default 0,
    rows            bigint      not null default 0,
    rows_erased     bigint      not null default 0,
    rows_dropped    bigint      not null default 0,
    unsealed        bigint      not null default 0,
    head            text,
    fault           jsonb,
    failure         text,
    constraint audit_verification_pkey primary key (verification_id),
    constraint audit_verification_state_known check (state in ('running', 'done', 'canceled', 'failed')),
    constraint audit_verification_ended check ((state = 'running') = (ended_at is null))
);
create unique index audit_verification_running_idx on audit_verification ((true)) where state = 'running';
comment on table audit_verification is 'A check of the whole audit log that somebody asked for.';
comment on column audit_verification.verification_id is 'Our id, uuid v7.';
comment on column audit_verification.started_at is 'When it began.';
comment on column audit_verification.principal is 'Who asked for it.';
comment on column audit_verification.state is 'running, done (fault says whether the log holds), canceled or failed (it could not be checked).';
comment on column audit_verification.heard_at is 'When the process that checks last said how far it is.';
comment on column audit_verification.ended_at is 'When it ended; null while it runs.';
comment on column audit_verification.cancel_asked is 'Somebody asked to end it early.';
comment on column audit_verification.expected_head is 'A head that was kept elsewhere; null if none was given.';
comment on column audit_verification.seals_total is 'Seals that there were when it began.';
comment on column audit_verification.rows_total is 'Rows in them, those among them that retention has dropped.';
comment on column audit_verification.seals is 'Seals that hold so far.';
comment on column audit_verification.rows is 'Rows in them that match.';
comment on column audit_verification.rows_erased is 'Of those, rows whose particulars were erased.';
comment on column audit_verification.rows_dropped is 'Rows in them that were dropped with their day.';
comment on column audit_verification.unsealed is 'Rows that no seal covered at its end.';
comment on column audit_verification.head is 'End of the chain, as far as it holds.';
comment on column audit_verification.fault is 'First difference; null if there is none.';
comment on column audit_verification.failure is 'Why it could not be checked; null unless failed.';
