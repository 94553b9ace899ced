-- Makes the day partitions of event and audit_log from first_day for the given number of days; what exists is left.
create function make_day_partitions(first_day date, days integer) returns integer
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
    return made;
end
$$;

-- Drops the day partitions that lie wholly before the given day, and nothing that an open delivery still needs.
create function drop_day_partitions(before_day date) returns integer
language plpgsql as $$
declare
    child   record;
    keep    date;
    dropped integer := 0;
begin
    select least(before_day, (min(event_received_at) at time zone 'utc')::date) into keep from delivery;
    for child in
        select c.relname
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent in ('event'::regclass, 'audit_log'::regclass)
          and c.relname ~ '_[0-9]{8}$'
    loop
        if to_date(right(child.relname, 8), 'YYYYMMDD') < coalesce(keep, before_day) then
            execute format('drop table %I', child.relname);
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end
$$;
