-- Who sees what. Sources and webhooks belong to a tenant, and everything else hangs on one of them. Calls of the REST API run
-- as the role presence_bridge_tenant with the setting bridge.tenant: to them other tenants' rows are not there.

-- Roles are the whole cluster's: another database of it may make it at this moment, or an administrator has made it
-- beforehand because this user may not.
do $$
begin
    if not exists (select from pg_roles where rolname = 'presence_bridge_tenant') then
        create role presence_bridge_tenant nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then
        raise exception 'the database user "%" may not create roles; an administrator must first say: '
            'create role presence_bridge_tenant nologin; grant presence_bridge_tenant to %', current_user, quote_ident(current_user);
end
$$;
do $$
declare
    becomes boolean;
begin
    -- From Postgres 16 on, who makes a role is a member that may give it away, but cannot become it.
    if current_setting('server_version_num')::integer >= 160000 then
        becomes := pg_has_role(current_user, 'presence_bridge_tenant', 'set');
    else
        becomes := pg_has_role(current_user, 'presence_bridge_tenant', 'member');
    end if;
    if not becomes then
        execute format('grant presence_bridge_tenant to %I', current_user);
    end if;
exception
    when unique_violation then null;
    when insufficient_privilege then
        raise exception 'the role presence_bridge_tenant is there, but not for the database user "%"; an administrator '
            'must say: grant presence_bridge_tenant to %', current_user, quote_ident(current_user);
end
$$;

-- The tenant that is asking; null when it is the bridge itself.
create function tenant_asking() returns uuid
language sql stable parallel safe as $$
    select nullif(current_setting('bridge.tenant', true), '')::uuid
$$;

-- What the bridge itself adds (the source of the environment) is the first tenant's.
alter table source
    add column tenant_id uuid not null default coalesce(tenant_asking(), '00000000-0000-0000-0000-000000000001'),
    add constraint source_tenant_fkey foreign key (tenant_id) references tenant (tenant_id);
drop index source_name_unique;
create unique index source_name_unique on source (tenant_id, name) where deleted_at is null;
comment on column source.tenant_id is 'Whose it is.';
comment on column source.name is 'What people call it; unique among the tenant''s sources that are not deleted.';

alter table webhook
    add column tenant_id uuid not null default coalesce(tenant_asking(), '00000000-0000-0000-0000-000000000001'),
    add constraint webhook_tenant_fkey foreign key (tenant_id) references tenant (tenant_id);
create index webhook_tenant_idx on webhook (tenant_id, webhook_id);
comment on column webhook.tenant_id is 'Whose it is.';

alter table event add column webhook_id uuid;
comment on column event.webhook_id is 'The webhook that a ping or notice is about, and so whose it is; null if it has a source.';

alter table audit_log add column tenant_id uuid;
alter table audit_log alter column tenant_id set default tenant_asking();
comment on column audit_log.tenant_id is 'Who asked; null: the bridge itself. Says whose entry it is if no source and no webhook does.';

alter table idempotency add column tenant_id uuid not null default '00000000-0000-0000-0000-000000000001';
alter table idempotency
    alter column tenant_id drop default,
    drop constraint idempotency_pkey,
    add constraint idempotency_pkey primary key (tenant_id, principal, key_hash);
comment on column idempotency.tenant_id is 'Whose principal it is.';

-- What the API may do at all; the policies say to which rows.
grant usage on schema public to presence_bridge_tenant;
grant select, insert, update, delete on
    source, source_health, connection, connection_agent, agent, agent_external_id, webhook, webhook_secret,
    webhook_health, delivery, gap, idempotency
    to presence_bridge_tenant;
grant select, insert on event, audit_log to presence_bridge_tenant;
grant select on tenant, dispatcher to presence_bridge_tenant;
grant select, update on webhook_generation to presence_bridge_tenant;
grant usage on all sequences in schema public to presence_bridge_tenant;

alter table tenant enable row level security;
create policy tenant_own on tenant to presence_bridge_tenant using (tenant_id = tenant_asking());
alter table source enable row level security;
create policy source_own on source to presence_bridge_tenant using (tenant_id = tenant_asking());
alter table webhook enable row level security;
create policy webhook_own on webhook to presence_bridge_tenant using (tenant_id = tenant_asking());
alter table idempotency enable row level security;
create policy idempotency_own on idempotency to presence_bridge_tenant using (tenant_id = tenant_asking());
-- Nobody reads keys by this role.
alter table api_key enable row level security;

-- What hangs on a source or a webhook. The policies of `source` and `webhook` hold inside these questions too. `exists` and not
-- `in`: then one row is judged by one look, and a registration does not read all webhooks.
do $$
declare
    tab text;
begin
    foreach tab in array array['source_health', 'connection', 'connection_agent', 'agent', 'agent_external_id', 'gap'] loop
        execute format('alter table %I enable row level security', tab);
        execute format(
            'create policy %1$I on %2$I to presence_bridge_tenant
                 using (exists (select from source s where s.source_id = %2$I.source_id))',
            tab || '_own', tab);
    end loop;
    foreach tab in array array['webhook_secret', 'webhook_health', 'delivery'] loop
        execute format('alter table %I enable row level security', tab);
        execute format(
            'create policy %1$I on %2$I to presence_bridge_tenant
                 using (exists (select from webhook w where w.webhook_id = %2$I.webhook_id))',
            tab || '_own', tab);
    end loop;
end
$$;

alter table event enable row level security;
create policy event_own on event to presence_bridge_tenant using (
    exists (select from source s where s.source_id = event.source_id)
    or exists (select from webhook w where w.webhook_id = event.webhook_id)
    -- Pings from before there were tenants.
    or (source_id is null and webhook_id is null and tenant_asking() = '00000000-0000-0000-0000-000000000001'));

alter table audit_log enable row level security;
create policy audit_log_own on audit_log to presence_bridge_tenant using (
    exists (select from source s where s.source_id = audit_log.source_id)
    or exists (select from webhook w where w.webhook_id = audit_log.webhook_id)
    or (source_id is null and webhook_id is null
        and coalesce(tenant_id, '00000000-0000-0000-0000-000000000001') = tenant_asking()));
