-- Logical replication refuses to update or delete rows of a table that no key tells apart. These have one row each; all other
-- tables, partitions included, have a primary key.
alter table webhook_generation
    add column single boolean not null default true,
    add constraint webhook_generation_pkey primary key (single),
    add constraint webhook_generation_single check (single);
comment on column webhook_generation.single is 'Its key: there is one row.';

alter table database_identity
    add column single boolean not null default true,
    add constraint database_identity_pkey primary key (single),
    add constraint database_identity_single check (single);
comment on column database_identity.single is 'Its key: there is one row.';

-- What the default partition has of a day is moved as a subscriber of the parent can follow: rows that were written into the new
-- partition before it was attached reached a subscriber as rows of a table that it does not have, and replication stopped there.
create or replace function make_day_partition(parent text, day date) returns boolean
language plpgsql as $$
declare
    child    text := parent || '_' || to_char(day, 'YYYYMMDD');
    fallback text := parent || '_default';
    time_of  text := case parent when 'event' then 'received_at' when 'audit_log' then 'at' end;
    since    timestamptz := day::timestamp at time zone 'utc';
    until    timestamptz := (day + 1)::timestamp at time zone 'utc';
    names    text;
    astray   boolean;
begin
    if time_of is null then
        raise exception 'no partitioned table "%"', parent;
    end if;
    if exists (
        select
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = parent::regclass
          and c.relname = child)
    then
        return false;
    end if;
    execute format('create table %I (like %I including all)', child, parent);
    -- So that attaching it reads nothing.
    execute format(
        'alter table %I add constraint day_known check (%I is not null and %I >= %L and %I < %L)',
        child, time_of, time_of, since, time_of, until);
    if parent = 'audit_log' then
        execute format(
            'create trigger audit_log_no_truncate before truncate on %I for each statement execute function refuse_change()',
            child);
    end if;
    -- Attaching wants this lock anyway; from here on nobody writes into the default partition.
    execute format('lock table %I in access exclusive mode', fallback);
    execute format('select exists (select from %I where %I >= %L and %I < %L)', fallback, time_of, since, time_of, until)
        into astray;
    if astray then
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into names
        from pg_attribute a
        where a.attrelid = parent::regclass
          and a.attnum > 0
          and not a.attisdropped;
        execute format(
            'create temporary table moved as select %s from %I where %I >= %L and %I < %L',
            names, fallback, time_of, since, time_of, until);
        if parent = 'audit_log' then
            -- The one thing that takes rows out of a table that is append-only: they come back byte for byte, and the seals over
            -- them hold.
            execute format('alter table %I disable trigger audit_log_append_only', fallback);
        end if;
        execute format(
            'delete from %I where %I >= %L and %I < %L', fallback, time_of, since, time_of, until);
        if parent = 'audit_log' then
            execute format('alter table %I enable trigger audit_log_append_only', fallback);
        end if;
    end if;
    execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child, since, until);
    execute format('alter table %I drop constraint day_known', child);
    if astray then
        -- By way of the parent: a subscriber of it need not know its partitions.
        execute format('insert into %I (%s) select %s from pg_temp.moved', parent, names, names);
        drop table pg_temp.moved;
    end if;
    return true;
end
$$;
