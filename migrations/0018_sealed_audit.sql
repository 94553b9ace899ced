-- The audit log is append-only for everybody, its owner included, and sealed in batches (docs/adr/0021).

-- Whose entry it is; every part of a row is sealed.
alter table audit_log add column if not exists tenant_id uuid;

create function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% on % is refused: it is append-only', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
comment on function refuse_change is 'Refuses what is not an insert.';

-- Row triggers are cloned to every partition, also to those to come; truncate triggers are not.
create trigger audit_log_append_only before update or delete on audit_log
    for each row execute function refuse_change();

create function guard_audit_partitions() returns integer
language plpgsql as $$
declare
    child   record;
    guarded integer := 0;
begin
    for child in
        select c.relname
        from pg_class c
        where (c.oid = 'audit_log'::regclass
               or c.oid in (select inhrelid from pg_inherits where inhparent = 'audit_log'::regclass))
          and not exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'audit_log_no_truncate')
    loop
        execute format(
            'create trigger audit_log_no_truncate before truncate on %I for each statement execute function refuse_change()',
            child.relname);
        guarded := guarded + 1;
    end loop;
    return guarded;
end
$$;
comment on function guard_audit_partitions is 'Has audit_log and its partitions refuse to be truncated.';
select guard_audit_partitions();

create or replace function make_day_partitions(first_day date, days integer) returns integer
language plpgsql as $$
declare
    parent text;
    day    date;
    made   integer := 0;
begin
    foreach parent in array array['event', 'audit_log'] loop
        for i in 0 .. days - 1 loop
            day := first_day + i;
            if to_regclass(format('%s_%s', parent, to_char(day, 'YYYYMMDD'))) is null then
                execute format(
                    'create table %I partition of %I for values from (%L) to (%L)',
                    parent || '_' || to_char(day, 'YYYYMMDD'), parent,
                    (day::timestamp at time zone 'utc'), ((day + 1)::timestamp at time zone 'utc'));
                made := made + 1;
            end if;
        end loop;
    end loop;
    if made > 0 then
        perform guard_audit_partitions();
    end if;
    return made;
end
$$;

-- A random key of 32 bytes that seals are signed with. It is sealed by the master key, which the database does not know.
create table audit_key (
    key_id     smallint    not null,
    sealed     bytea       not null,
    created_at timestamptz not null default now(),
    constraint audit_key_pkey primary key (key_id)
);
comment on table audit_key is 'Signs the seals of the audit log.';
comment on column audit_key.key_id is 'Its number, from 1.';
comment on column audit_key.sealed is 'The key, sealed under the master key and bound to its number.';
comment on column audit_key.created_at is 'When it was made.';

create table audit_seal (
    seal_id        bigint      not null,
    format         smallint    not null,
    first_audit_id bigint      not null,
    last_audit_id  bigint      not null,
    rows           bigint      not null,
    sealed_at      timestamptz not null,
    previous       bytea       not null,
    digest         bytea       not null,
    mac            bytea       not null,
    key_id         smallint    not null,
    constraint audit_seal_pkey primary key (seal_id),
    constraint audit_seal_key_fkey foreign key (key_id) references audit_key (key_id)
);
comment on table audit_seal is 'A seal over every entry of the audit log with an audit_id from first to last.';
comment on column audit_seal.seal_id is 'Its number, from 1 without holes.';
comment on column audit_seal.format is 'Which columns of an entry are sealed, and how (store/sealed_rows.rs).';
comment on column audit_seal.first_audit_id is 'One more than the former seal''s last.';
comment on column audit_seal.last_audit_id is 'Up to where it goes.';
comment on column audit_seal.rows is 'How many entries there were.';
comment on column audit_seal.sealed_at is 'When it was made.';
comment on column audit_seal.previous is 'Digest of the former seal; 32 zeros in the first.';
comment on column audit_seal.digest is 'SHA-256 over all of the above and its days (domain/seal.rs).';
comment on column audit_seal.mac is 'HMAC-SHA-256 of the digest.';
comment on column audit_seal.key_id is 'Which key signed.';

create table audit_seal_day (
    seal_id bigint  not null,
    day     date    not null,
    rows    bigint  not null,
    digest  bytea   not null,
    listing bytea   not null,
    constraint audit_seal_day_pkey primary key (seal_id, day),
    constraint audit_seal_day_seal_fkey foreign key (seal_id) references audit_seal (seal_id)
);
create index audit_seal_day_day_idx on audit_seal_day (day);
comment on table audit_seal_day is 'What a seal says of one UTC day of the log, so that the day''s partition can go and the rest still verifies.';
comment on column audit_seal_day.seal_id is 'The seal.';
comment on column audit_seal_day.day is 'The day.';
comment on column audit_seal_day.rows is 'Entries of that day.';
comment on column audit_seal_day.digest is 'SHA-256 over their hashes, in order of audit_id.';
comment on column audit_seal_day.listing is 'SHA-256 of the listing in audit_seal_listing.';

create table audit_seal_listing (
    seal_id bigint not null,
    day     date   not null,
    listing bytea  not null,
    constraint audit_seal_listing_pkey primary key (seal_id, day)
);
-- Hashes do not compress.
alter table audit_seal_listing alter column listing set storage external;
comment on table audit_seal_listing is 'Lets `audit verify` name the row that is wrong; goes with its day.';
comment on column audit_seal_listing.seal_id is 'The seal.';
comment on column audit_seal_listing.day is 'The day.';
comment on column audit_seal_listing.listing is 'Of each entry 8 bytes audit_id and the first 8 bytes of its hash, in order.';

create table audit_dropped_day (
    day        date        not null,
    seal_id    bigint      not null,
    rows       bigint      not null,
    dropped_at timestamptz not null,
    mac        bytea       not null,
    key_id     smallint    not null,
    constraint audit_dropped_day_pkey primary key (day),
    constraint audit_dropped_day_key_fkey foreign key (key_id) references audit_key (key_id)
);
comment on table audit_dropped_day is 'A day whose entries retention took away. Who cannot sign cannot add one.';
comment on column audit_dropped_day.day is 'The day.';
comment on column audit_dropped_day.seal_id is 'The last seal with entries of that day; a later one with such entries is none that went.';
comment on column audit_dropped_day.rows is 'How many sealed entries went.';
comment on column audit_dropped_day.dropped_at is 'When.';
comment on column audit_dropped_day.mac is 'HMAC-SHA-256 over all of the above.';
comment on column audit_dropped_day.key_id is 'Which key signed.';

create trigger audit_seal_append_only before update or delete on audit_seal
    for each row execute function refuse_change();
create trigger audit_seal_no_truncate before truncate on audit_seal
    for each statement execute function refuse_change();
create trigger audit_seal_day_append_only before update or delete on audit_seal_day
    for each row execute function refuse_change();
create trigger audit_seal_day_no_truncate before truncate on audit_seal_day
    for each statement execute function refuse_change();
create trigger audit_dropped_day_append_only before update or delete on audit_dropped_day
    for each row execute function refuse_change();
create trigger audit_dropped_day_no_truncate before truncate on audit_dropped_day
    for each statement execute function refuse_change();

-- Day partitions of audit_log that lie wholly before the given day and that no open delivery needs.
create function over_audit_days(before_day date) returns setof date
language sql stable as $$
    select to_date(right(c.relname, 8), 'YYYYMMDD') as day
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'audit_log'::regclass
      and c.relname ~ '_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD')
          < least(before_day, (select (min(event_received_at) at time zone 'utc')::date from delivery))
    order by 1
$$;
comment on function over_audit_days is 'Days whose audit entries have been kept long enough.';

-- Drops a day of the audit log. What it held is sealed up to the given seal, or it held nothing; else it stays, and the answer
-- is false. The caller has written down that it goes.
create function drop_audit_day(day date, sealed_through bigint) returns boolean
language plpgsql as $$
declare
    child  text := 'audit_log_' || to_char(day, 'YYYYMMDD');
    newest bigint;
begin
    if to_regclass(child) is null then
        return false;
    end if;
    -- From here on nobody writes into it.
    execute format('lock table %I in access exclusive mode', child);
    execute format('select max(audit_id) from %I', child) into newest;
    if newest > coalesce((select last_audit_id from audit_seal where seal_id = sealed_through), 0) then
        return false;
    end if;
    execute format('drop table %I', child);
    delete from audit_seal_listing l where l.day = drop_audit_day.day and l.seal_id <= sealed_through;
    return true;
end
$$;
comment on function drop_audit_day is 'Drops a day partition of audit_log whose entries are all sealed.';

-- Drops the day partitions of event that lie wholly before the given day, and nothing that an open delivery still needs; of
-- audit_log only days in which nothing was written: the others go one by one, with a proof (drop_audit_day).
create or replace function drop_day_partitions(before_day date) returns integer
language plpgsql as $$
declare
    child   record;
    over    date;
    keep    date;
    dropped integer := 0;
begin
    select least(before_day, (min(event_received_at) at time zone 'utc')::date) into keep from delivery;
    for child in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'event'::regclass
          and c.relname ~ '_[0-9]{8}$'
    loop
        if to_date(right(child.relname, 8), 'YYYYMMDD') < coalesce(keep, before_day) then
            execute format('drop table %I', child.relname);
            dropped := dropped + 1;
        end if;
    end loop;
    for over in select * from over_audit_days(before_day) loop
        if drop_audit_day(over, 0) then
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end
$$;

-- Odd content from upstream, with its bytes.
create table quarantine (
    quarantine_id uuid        not null,
    received_at   timestamptz not null,
    source_id     uuid,
    connection_id uuid,
    agent_id      text,
    reason        text        not null,
    size          bigint      not null,
    bytes         bytea       not null,
    constraint quarantine_pkey primary key (quarantine_id),
    constraint quarantine_bytes_capped check (octet_length(bytes) <= 65536)
);
create index quarantine_received_idx on quarantine (received_at);
comment on table quarantine is 'Odd content from upstream: what it was, with its bytes. Kept as long as audit entries.';
comment on column quarantine.quarantine_id is 'Our id, uuid v7; the FRAME_REJECTED entry names it.';
comment on column quarantine.received_at is 'When it came.';
comment on column quarantine.source_id is 'From which source.';
comment on column quarantine.connection_id is 'Over which connection.';
comment on column quarantine.agent_id is 'About whom, if that could be read.';
comment on column quarantine.reason is 'What is odd about it.';
comment on column quarantine.size is 'How many bytes there were.';
comment on column quarantine.bytes is 'The bytes, at most the first 64 KiB.';

-- How far the audit log was pushed.
create table audit_push (
    receiver   text        not null,
    audit_id   bigint      not null,
    pushed_at  timestamptz not null,
    constraint audit_push_pkey primary key (receiver)
);
comment on table audit_push is 'How far the audit log was pushed, by receiver.';
comment on column audit_push.receiver is 'Its address as configured.';
comment on column audit_push.audit_id is 'The last entry that was pushed.';
comment on column audit_push.pushed_at is 'When.';

-- A tenant sees what came from its sources; the seals are the operator's and the bridge's.
grant select on quarantine to presence_bridge_tenant;
alter table quarantine enable row level security;
create policy quarantine_own on quarantine to presence_bridge_tenant
    using (source_id in (select source_id from source));
