-- Day partitions are made as tables of their own and attached, one day in a transaction, so that no reader of the parents is
-- waited for and none waits (docs/adr/0030); retention judges day by day.

-- The day partitions that are still to make: the days asked for, and days that have rows in a default partition.
create function missing_day_partitions(first_day date, days integer) returns table (parent text, day date)
language sql stable as $$
    select w.parent, w.day
    from (
        select p.parent, first_day + i as day
        from unnest(array['event', 'audit_log']) p (parent)
        cross join generate_series(0, days - 1) i
        union
        select 'event', (received_at at time zone 'utc')::date from event_default
        union
        select 'audit_log', (at at time zone 'utc')::date from audit_log_default) w
    where not exists (
        select
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = w.parent::regclass
          and c.relname = w.parent || '_' || to_char(w.day, 'YYYYMMDD'))
    order by w.day, w.parent
$$;
comment on function missing_day_partitions is 'Day partitions that are to be made, also for what lies in a default partition.';

-- Makes one day partition, and moves what the default partition has of that day into it; false if it is there. Only the default
-- partition and the new table are locked against readers: set lock_timeout, and ask again later if it fails.
create function make_day_partition(parent text, day date) returns boolean
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
            'insert into %I (%s) select %s from %I where %I >= %L and %I < %L',
            child, names, names, fallback, time_of, since, time_of, until);
        if parent = 'audit_log' then
            -- The one thing that takes rows out of a table that is append-only: they are in the other by now, byte for byte,
            -- and the seals over them hold.
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
    return true;
end
$$;
comment on function make_day_partition is 'Makes a day partition of event or audit_log, with the rows that the default partition has of it.';

create or replace function make_day_partitions(first_day date, days integer) returns integer
language plpgsql as $$
declare
    parents text[];
    missing date[];
    made    integer := 0;
begin
    -- Read to the end before anything is made: what is being read cannot be altered.
    select array_agg(m.parent), array_agg(m.day) into parents, missing from missing_day_partitions(first_day, days) m;
    for n in 1 .. coalesce(cardinality(missing), 0) loop
        if make_day_partition(parents[n], missing[n]) then
            made := made + 1;
        end if;
    end loop;
    return made;
end
$$;

-- Days of a table that lie wholly before the given day and that no open delivery needs, whatever older days hold.
create function over_days(parent text, before_day date) returns setof date
language sql stable as $$
    with needed as (
        select distinct (event_received_at at time zone 'utc')::date as day
        from delivery
        where event_received_at < before_day::timestamp at time zone 'utc')
    select d.day
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join lateral (select to_date(right(c.relname, 8), 'YYYYMMDD') as day) d
    where i.inhparent = parent::regclass
      and c.relname ~ '_[0-9]{8}$'
      and d.day < before_day
      and d.day not in (select day from needed)
    order by 1
$$;
comment on function over_days is 'Days of event or audit_log that have been kept long enough.';

create or replace function over_audit_days(before_day date) returns setof date
language sql stable as $$
    select over_days('audit_log', before_day)
$$;

-- Drops a day of event; false if it is not there, or an open delivery needs it after all.
create function drop_event_day(day date) returns boolean
language plpgsql as $$
declare
    child text := 'event_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(child) is null then
        return false;
    end if;
    execute format('drop table %I', child);
    -- Nobody reads an event of that day by now, so that nobody owes it again.
    return not exists (
        select
        from delivery d
        where d.event_received_at >= day::timestamp at time zone 'utc'
          and d.event_received_at < (day + 1)::timestamp at time zone 'utc');
end
$$;
comment on function drop_event_day is 'Drops a day partition of event; roll back if it says that the day is needed.';

create or replace function drop_day_partitions(before_day date) returns integer
language plpgsql as $$
declare
    over    date;
    dropped integer := 0;
begin
    foreach over in array array(select over_days('event', before_day)) loop
        perform drop_event_day(over);
        dropped := dropped + 1;
    end loop;
    foreach over in array array(select over_audit_days(before_day)) loop
        if drop_audit_day(over, 0) then
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end
$$;
