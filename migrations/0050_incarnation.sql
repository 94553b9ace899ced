-- In which history of which cluster the rows were written (docs/adr/0057).
create table incarnation (
    single            boolean     not null default true,
    system_identifier text,
    timeline          bigint,
    table_oid         bigint      not null,
    database_oid      bigint      not null,
    sequence_base     bigint      not null default 0,
    begun_at          timestamptz not null default now(),
    constraint incarnation_pkey primary key (single),
    constraint incarnation_single check (single)
);
comment on table incarnation is 'One row: the incarnation that rows were last written in. A restored copy brings that of its original.';
comment on column incarnation.single is 'Its key: there is one row.';
comment on column incarnation.system_identifier is 'What pg_control_system() says of the cluster; null if the user may not ask.';
comment on column incarnation.timeline is 'Goes up by one with each promotion; null if the user may not ask.';
comment on column incarnation.table_oid is 'Of this table, which is another one once a dump is restored; 0: it is to count as restored.';
comment on column incarnation.database_oid is 'Of this database, which is another one once it is copied as a template.';
comment on column incarnation.sequence_base is 'Behind which the sequence of a new agent begins: one of the same id may have had numbers that were lost.';
comment on column incarnation.begun_at is 'When the bridge began to write in it.';

-- Lets what all share jump ahead of every number that was given out and lost. A transaction that draws a number takes a millisecond
-- at least; audit entries come in statements of many.
create function begin_numbers(steps bigint, known_position bigint) returns bigint
language plpgsql as $$
declare
    raised bigint;
begin
    begin
        perform setval('event_position_seq', greatest(
            (select last_value from event_position_seq),
            (select coalesce(max(position), 0) from event),
            known_position) + 1024 * steps);
        perform setval('audit_log_id_seq', greatest(
            (select last_value from audit_log_id_seq),
            (select coalesce(max(audit_id), 0) from audit_log)) + 100 * steps);
    exception
        -- A user with least privilege may draw numbers and not set them: as many as can be drawn in a second or two.
        when insufficient_privilege then
            if steps > 1000000 then
                raise insufficient_privilege using
                    message = 'this user may not set the numbers that a database restored after so long needs',
                    hint = 'alter function begin_numbers(bigint, bigint) security definer set search_path = public, pg_temp';
            end if;
            perform nextval('event_position_seq') from generate_series(1, least(steps, 1000000));
            perform nextval('audit_log_id_seq') from generate_series(1, least(100 * steps, 1000000));
    end;
    update webhook_generation set generation = generation + steps returning generation into raised;
    return raised;
end
$$;
comment on function begin_numbers is 'Position, audit_id and generation jump ahead in a new incarnation; gives the new generation.';

create table audit_lost_head (
    seal_id     bigint      not null,
    digest      bytea       not null,
    continues_from bigint     not null,
    found_at    timestamptz not null,
    mac         bytea       not null,
    key_id      smallint    not null,
    constraint audit_lost_head_pkey primary key (seal_id, digest),
    constraint audit_lost_head_key_fkey foreign key (key_id) references audit_key (key_id)
);
comment on table audit_lost_head is 'A head of the chain of seals that a failover or a restored backup has lost.';
comment on column audit_lost_head.seal_id is 'The last seal that was made and is gone.';
comment on column audit_lost_head.digest is 'Its digest.';
comment on column audit_lost_head.continues_from is 'The seal that the chain continues from; 0: from its start.';
comment on column audit_lost_head.found_at is 'When the sealer found it gone.';
comment on column audit_lost_head.mac is 'Signs the rest with the audit key.';
comment on column audit_lost_head.key_id is 'The audit key.';

alter table audit_verification add column lost_head text;
comment on column audit_verification.lost_head is 'The last head that a failover lost, if one did.';

-- `database.failed_over`.
alter table event
    drop constraint event_kind_known,
    add constraint event_kind_known check (
        kind in ('presence.updated', 'presence.snapshot', 'presence.gap', 'webhook.test', 'source.stale', 'source.recovered',
                 'webhook.failing', 'webhook.disabled', 'webhook.recovered', 'database.failed_over'));
alter table webhook
    drop constraint webhook_events_known,
    add constraint webhook_events_known check (
        events <@ array['presence.updated', 'presence.gap', 'source.stale', 'source.recovered', 'webhook.failing',
                        'webhook.disabled', 'webhook.recovered', 'database.failed_over']
        and events <> '{}');
