-- Erasing a person (docs/adr/0038): name, e-mail address, messages, frames and excerpts of an agent go, its id stays as a
-- pseudonym, and the seals over the audit log hold.

alter table agent
    add column erased_at   timestamptz,
    add column excluded_at timestamptz;
comment on column agent.erased_at is 'When its person was erased last: changes that arrived by then are not recorded; null: never.';
comment on column agent.excluded_at is 'Since when it is left out of everything that its source watches, as the erasure asked; null: it is not.';
create index agent_excluded_idx on agent (source_id) where excluded_at is not null;

alter table event add column erased_at timestamptz;
comment on table event is 'One presence change each, or one test ping; updated when its person is erased, else never.';
comment on column event.erased_at is 'When its person was erased: frame, state, presences and external id are gone since; null: they are there.';

create table erasure (
    erasure_id      uuid        not null,
    source_id       uuid        not null,
    agent_id        text        not null,
    agent_key       bigint      not null,
    before_position bigint      not null,
    watch           boolean     not null,
    principal       text        not null,
    requested_at    timestamptz not null,
    state           text        not null default 'deliveries',
    events_through  bigint      not null default 0,
    quarantine_read uuid,
    audit_through   bigint      not null default 0,
    audit_until     bigint,
    events          bigint      not null default 0,
    deliveries      bigint      not null default 0,
    audit_entries   bigint      not null default 0,
    quarantined     bigint      not null default 0,
    resumes_at      timestamptz not null default now(),
    ended_at        timestamptz,
    constraint erasure_pkey primary key (erasure_id),
    constraint erasure_source_fkey foreign key (source_id) references source (source_id),
    constraint erasure_state_known check (state in ('deliveries', 'events', 'answers', 'audit', 'done')),
    constraint erasure_ended_when_done check ((state = 'done') = (ended_at is not null)),
    constraint erasure_audit_bounded check (audit_until is not null or state not in ('audit', 'done'))
);
-- One at a time for each agent.
create unique index erasure_running_unique on erasure (agent_key) where ended_at is null;
create index erasure_due_idx on erasure (resumes_at) where ended_at is null;
create index erasure_agent_idx on erasure (agent_id, erasure_id);
comment on table erasure is 'Requests to erase a person, and how far each one is.';
comment on column erasure.erasure_id is 'Our id, uuid v7; erased audit entries name it.';
comment on column erasure.source_id is 'The organisation the agent belongs to.';
comment on column erasure.agent_id is 'Genesys user id, which stays as a pseudonym.';
comment on column erasure.agent_key is 'The agent; lane of its deliveries.';
comment on column erasure.before_position is 'Events before this position are erased: those that were stored when it was asked for.';
comment on column erasure.watch is 'Whether the agent is watched further.';
comment on column erasure.principal is 'Who asked.';
comment on column erasure.requested_at is 'When.';
comment on column erasure.state is 'deliveries: open ones end; events: they are erased; answers: POSTs under way are waited for; audit: sealed entries are erased; done.';
comment on column erasure.events_through is 'Events up to this position are erased.';
comment on column erasure.quarantine_read is 'Malformed content up to this one was looked through; null: none yet.';
comment on column erasure.audit_through is 'Audit entries up to this one are erased.';
comment on column erasure.audit_until is 'The last audit entry that can hold anything; null until the last delivery has ended.';
comment on column erasure.events is 'Events that were erased so far.';
comment on column erasure.deliveries is 'Open deliveries that this work has ended so far; a dispatcher may have ended others.';
comment on column erasure.audit_entries is 'Audit entries that were erased so far.';
comment on column erasure.quarantined is 'Pieces of malformed content that were removed.';
comment on column erasure.resumes_at is 'When it is worked on next.';
comment on column erasure.ended_at is 'When it was done.';

grant select, insert on erasure to presence_bridge_tenant;
alter table erasure enable row level security;
create policy erasure_own on erasure to presence_bridge_tenant
    using (exists (select from source s where s.source_id = erasure.source_id));

-- Rows from before have none of the new value: there is nothing to read through.
alter table audit_log
    drop constraint audit_log_end_state_known,
    add constraint audit_log_end_state_known check (
        end_state in ('delivered', 'dead', 'superseded', 'expired', 'webhook_gone', 'webhook_disabled', 'erased')) not valid;

-- What an erased entry was sealed as. Who cannot sign cannot add one.
create table audit_erasure (
    audit_id   bigint      not null,
    day        date        not null,
    original   bytea       not null,
    erased     bytea       not null,
    erasure_id uuid        not null,
    erased_at  timestamptz not null,
    mac        bytea       not null,
    key_id     smallint    not null,
    constraint audit_erasure_pkey primary key (audit_id),
    constraint audit_erasure_key_fkey foreign key (key_id) references audit_key (key_id)
);
create index audit_erasure_day_idx on audit_erasure (day);
comment on table audit_erasure is 'Audit entries whose particulars were erased after they were sealed; goes with their day.';
comment on column audit_erasure.audit_id is 'The entry.';
comment on column audit_erasure.day is 'UTC day of the entry.';
comment on column audit_erasure.original is 'Hash of the entry as it was sealed.';
comment on column audit_erasure.erased is 'Hash of the entry as it is since.';
comment on column audit_erasure.erasure_id is 'The request.';
comment on column audit_erasure.erased_at is 'When.';
comment on column audit_erasure.mac is 'HMAC-SHA-256 over all of the above (domain/audit/seal.rs).';
comment on column audit_erasure.key_id is 'Which key signed.';

create function refuse_erasure_change() returns trigger
language plpgsql as $$
begin
    if tg_op = 'DELETE' and not exists (select from audit_log l where l.audit_id = old.audit_id) then
        return old;
    end if;
    raise exception '% on % is refused: it is append-only', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
comment on function refuse_erasure_change is 'Lets what is signed of an erased entry go only after the entry.';

create trigger audit_erasure_append_only before update or delete on audit_erasure
    for each row execute function refuse_erasure_change();
create trigger audit_erasure_no_truncate before truncate on audit_erasure
    for each statement execute function refuse_change();

-- The one change of an entry that there is: its particulars give way to the id of the request, once, under a signature.
create function guard_audit_entry() returns trigger
language plpgsql as $$
declare
    expected record;
begin
    if tg_op = 'UPDATE' then
        expected := old;
        expected.data := new.data;
        if expected is not distinct from new
            and old.data <> new.data
            and exists (
                select
                from audit_erasure e
                where e.audit_id = old.audit_id
                  and new.data = jsonb_build_object('erased', e.erasure_id))
        then
            return new;
        end if;
    end if;
    raise exception '% on % is refused: it is append-only', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
comment on function guard_audit_entry is 'Refuses what is neither an insert nor the erasure of an entry''s particulars.';

-- Under the same name, by which make_day_partition switches it off while it moves rows.
drop trigger audit_log_append_only on audit_log;
create trigger audit_log_append_only before update or delete on audit_log
    for each row execute function guard_audit_entry();

create or replace function drop_audit_day(day date, sealed_through bigint) returns boolean
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
    delete from audit_erasure e
    where e.day = drop_audit_day.day
      and not exists (select from audit_log l where l.audit_id = e.audit_id);
    return true;
end
$$;
