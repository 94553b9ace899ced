-- What a change of a webhook's state leaves to be done to its open deliveries, which may be millions (docs/adr/0027). The change
-- itself is one short transaction; dispatchers do the rest in pieces, and go on after a crash.
create table webhook_work (
    webhook_id    uuid        not null,
    kind          text        not null,
    end_state     text,
    principal     text,
    writers_ended boolean     not null default false,
    last_lane     bigint      not null default -1,
    last_position bigint      not null default 0,
    ended         bigint      not null default 0,
    asked_at      timestamptz not null,
    worked_at     timestamptz,
    constraint webhook_work_pkey primary key (webhook_id, kind),
    constraint webhook_work_kind_known check (kind in ('end', 'resume', 'wake')),
    constraint webhook_work_end_whole check ((kind = 'end') = (end_state is not null))
);
comment on table webhook_work is 'What is still to be done to a webhook''s open deliveries after a change of its state.';
comment on column webhook_work.webhook_id is 'Whose deliveries. No foreign key: a dispatcher asks for work without waiting for whoever changes the webhook.';
comment on column webhook_work.kind is 'end: they end; resume: suspended ones become due; wake: those that wait for their next attempt become due.';
comment on column webhook_work.end_state is 'How they end; null for other kinds.';
comment on column webhook_work.principal is 'Who asked for the end; null: the bridge itself.';
comment on column webhook_work.writers_ended is 'Every transaction has ended that may not have seen the change of state.';
comment on column webhook_work.last_lane is 'End: lanes before this one are looked through ...';
comment on column webhook_work.last_position is '... and in it deliveries up to this position.';
comment on column webhook_work.ended is 'End: deliveries that this look through all lanes has ended so far.';
comment on column webhook_work.asked_at is 'When it was asked for; younger deliveries are no part of an end.';
comment on column webhook_work.worked_at is 'When a piece of it was done last, so that all get their turn; null: never.';

grant select, insert, update, delete on webhook_work to presence_bridge_tenant;
alter table webhook_work enable row level security;
create policy webhook_work_own on webhook_work to presence_bridge_tenant
    using (exists (select from webhook w where w.webhook_id = webhook_work.webhook_id));

-- Its row is there from the registration on: a cycle that keeps a circuit never waits for an insert.
insert into webhook_health (webhook_id)
select webhook_id from webhook where deleted_at is null
on conflict do nothing;
