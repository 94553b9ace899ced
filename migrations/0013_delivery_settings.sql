-- Delivery as each receiver wants it: mode, age, dwell, batches, schedule, limits, format, authentication.

alter table webhook
    add column mode                   text      not null default 'every',
    add column max_age_seconds        integer,
    add column min_dwell_ms           integer   not null default 0,
    add column batch_max_items        integer,
    add column batch_max_wait_ms      integer,
    add column retry_schedule_seconds integer[],
    add column timeout_ms             integer   not null default 15000,
    add column max_concurrency        integer   not null default 100,
    add column rate_limit_requests    integer,
    add column rate_limit_per_seconds integer,
    add column disable_after_seconds  integer   not null default 432000,
    add column format                 text      not null default 'standard',
    add column signatures             text[]    not null default '{v1}',
    add column auth_kind              text      not null default 'none',
    add column access_sealed          bytea,
    add column header_names           text[]    not null default '{}',
    add column verification           text      not null default 'none',
    add column state_reason           text,
    add column snapshot_next          bigint,
    drop constraint webhook_state_known,
    add constraint webhook_state_known check (state in ('active', 'paused', 'disabled', 'unverified')),
    add constraint webhook_mode_known check (mode in ('every', 'latest')),
    add constraint webhook_max_age_in_range check (max_age_seconds between 1 and 2592000),
    add constraint webhook_min_dwell_in_range check (min_dwell_ms between 0 and 3600000),
    add constraint webhook_batch_whole check ((batch_max_items is null) = (batch_max_wait_ms is null)),
    add constraint webhook_batch_in_range check (
        batch_max_items between 1 and 1000 and batch_max_wait_ms between 0 and 60000),
    add constraint webhook_schedule_in_range check (
        cardinality(retry_schedule_seconds) between 0 and 30
        and 1 <= all (retry_schedule_seconds) and 86400 >= all (retry_schedule_seconds)),
    add constraint webhook_timeout_in_range check (timeout_ms between 1000 and 30000),
    add constraint webhook_concurrency_in_range check (max_concurrency between 1 and 1000),
    add constraint webhook_rate_limit_whole check (
        (rate_limit_requests is null) = (rate_limit_per_seconds is null)),
    add constraint webhook_rate_limit_in_range check (
        rate_limit_requests between 1 and 10000 and rate_limit_per_seconds between 1 and 3600),
    add constraint webhook_disable_after_in_range check (disable_after_seconds between 60 and 2592000),
    add constraint webhook_format_known check (
        format in ('standard', 'cloudevents-structured', 'cloudevents-binary')),
    add constraint webhook_signatures_known check (
        signatures <@ array['v1', 'v1a'] and signatures <> '{}'),
    add constraint webhook_auth_known check (auth_kind in ('none', 'basic', 'bearer', 'oauth2')),
    add constraint webhook_verification_known check (verification in ('none', 'echo', 'options')),
    drop constraint webhook_events_known,
    add constraint webhook_events_known check (
        events <@ array['presence.updated', 'presence.gap', 'source.stale', 'source.recovered',
                        'webhook.failing', 'webhook.disabled', 'webhook.recovered']
        and events <> '{}');

create index webhook_snapshot_idx on webhook (snapshot_next) where snapshot_next is not null;

comment on column webhook.state is 'active; paused: deliveries are kept and leave after resume; disabled or unverified: none are made.';
comment on column webhook.mode is 'every: each change is sent; latest: a waiting older state gives way to the newer one.';
comment on column webhook.max_age_seconds is 'A delivery older than this ends unsent, as expired; null: never.';
comment on column webhook.min_dwell_ms is 'A state must last so long before it is sent.';
comment on column webhook.batch_max_items is 'Most items of one POST; null: one POST for each delivery.';
comment on column webhook.batch_max_wait_ms is 'Longest wait for a batch to fill; null as batch_max_items.';
comment on column webhook.retry_schedule_seconds is 'Waits after the first, second … failure; null: the schedule of domain/retry.rs.';
comment on column webhook.timeout_ms is 'Deadline of one attempt, from look-up to the last byte of the answer.';
comment on column webhook.max_concurrency is 'POSTs under way at once at most.';
comment on column webhook.rate_limit_requests is 'At most so many POSTs in any rate_limit_per_seconds; null: no limit.';
comment on column webhook.rate_limit_per_seconds is 'Length of the window of rate_limit_requests; null as that.';
comment on column webhook.disable_after_seconds is 'After failing for so long without one success it is disabled.';
comment on column webhook.format is 'What a POST looks like: Standard Webhooks, or CloudEvents 1.0 in one of two modes.';
comment on column webhook.signatures is 'Kinds of signature in webhook-signature: v1 (HMAC-SHA256), v1a (ed25519).';
comment on column webhook.auth_kind is 'How we authenticate to the receiver, besides the signature.';
comment on column webhook.access_sealed is 'Credentials, own headers and client certificate (domain/access.rs), sealed; null: none.';
comment on column webhook.header_names is 'Names of its own headers; the values are in access_sealed.';
comment on column webhook.verification is 'How the receiver must show that it wants the POSTs before it gets any.';
comment on column webhook.state_reason is 'Why it is disabled (gone, failing) or unverified; null otherwise.';
comment on column webhook.snapshot_next is 'agent_key from which on a snapshot must still be written; null: none is under way.';

-- Counts changes of webhooks. Writers of events keep the filters in memory and compare this inside their transaction, so
-- that what matched at commit is what was registered at commit.
create table webhook_generation (
    generation bigint not null
);
insert into webhook_generation values (1);
comment on table webhook_generation is 'One row: counts changes of table webhook.';
comment on column webhook_generation.generation is 'Raised by every statement that adds a webhook or raises a version.';

create function raise_webhook_generation() returns trigger
language plpgsql as $$
begin
    update webhook_generation set generation = generation + 1;
    return null;
end
$$;
-- Not for snapshot_next, which moves while a snapshot is written.
create trigger webhook_added after insert or delete on webhook
    for each statement execute function raise_webhook_generation();
create trigger webhook_changed after update of version on webhook
    for each statement execute function raise_webhook_generation();

-- How a webhook's receiver has been of late; apart from the settings, because it changes by itself.
create table webhook_health (
    webhook_id    uuid        not null,
    failures      integer     not null default 0,
    failing_since timestamptz,
    hold_until    timestamptz,
    noticed       boolean     not null default false,
    probe_at      timestamptz,
    last_outcome  text,
    constraint webhook_health_pkey primary key (webhook_id),
    constraint webhook_health_webhook_fkey foreign key (webhook_id) references webhook (webhook_id)
);
create index webhook_health_probe_idx on webhook_health (probe_at) where probe_at is not null;

comment on table webhook_health is 'How a webhook''s receiver has been of late: its circuit.';
comment on column webhook_health.webhook_id is 'Whose.';
comment on column webhook_health.failures is 'Failed attempts since the last success.';
comment on column webhook_health.failing_since is 'First failure since the last success; null while it succeeds.';
comment on column webhook_health.hold_until is 'Nothing is sent before: its circuit is open, or it asked for rest. Null: no hold.';
comment on column webhook_health.noticed is 'webhook.failing was told, so that webhook.recovered is owed.';
comment on column webhook_health.probe_at is 'When a disabled or unverified webhook is asked next whether it is well; null: it is not asked.';
comment on column webhook_health.last_outcome is 'Outcome class of the last failed attempt; null before the first.';

alter table webhook_secret
    add column kind text not null default 'hmac',
    add constraint webhook_secret_kind_known check (kind in ('hmac', 'ed25519'));
comment on column webhook_secret.kind is 'hmac: key of v1 signatures; ed25519: seed of v1a signatures.';
