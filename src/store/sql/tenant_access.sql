-- What the role presence_bridge_tenant may do, and which rows it sees (docs/adr/0019). `migrate` runs this each time (docs/adr/0056):
-- a dump that was restored before the role was there has no policies, one without privileges has no grants. What is as it should
-- be is only looked at, so that no table is locked.
do $$
declare
    -- `exists` and not `in`: then one look tells of one row, and a registration does not read all webhooks. The policies of
    -- `source` and `webhook` hold inside these questions too.
    of_source  constant text := 'exists (select from source s where s.source_id = %1$I.source_id)';
    of_webhook constant text := 'exists (select from webhook w where w.webhook_id = %1$I.webhook_id)';
    own        constant text := 'tenant_id = tenant_asking()';
    first      constant text := '''00000000-0000-0000-0000-000000000001''';
    wanted     record;
    right_to   text;
    condition  text;
    as_laid    boolean;
    laid_from  text;
    becomes    boolean;
begin
    -- Roles are the whole cluster's: another database of it may make it at this moment, or an administrator has made it
    -- beforehand because this user may not.
    begin
        if not exists (select from pg_roles where rolname = 'presence_bridge_tenant') then
            create role presence_bridge_tenant nologin;
        end if;
    exception
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
            raise exception 'the database user "%" may not create roles; an administrator must first say: '
                'create role presence_bridge_tenant nologin; grant presence_bridge_tenant to %',
                current_user, quote_ident(current_user);
    end;
    begin
        -- From Postgres 16 on, who makes a role is a member that may give it away, but cannot become it.
        becomes := pg_has_role(
            current_user, 'presence_bridge_tenant',
            case when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end);
        if not becomes then
            execute format('grant presence_bridge_tenant to %I', current_user);
        end if;
    exception
        when unique_violation then null;
        when insufficient_privilege then
            raise exception 'the role presence_bridge_tenant is there, but not for the database user "%"; an administrator '
                'must say: grant presence_bridge_tenant to %', current_user, quote_ident(current_user);
    end;
    if not has_schema_privilege('presence_bridge_tenant', 'public', 'usage') then
        grant usage on schema public to presence_bridge_tenant;
    end if;
    for wanted in
        select oid::regclass as name
        from pg_class
        where relnamespace = 'public'::regnamespace
          and case relkind when 'S' then not has_sequence_privilege('presence_bridge_tenant', oid, 'usage') end
    loop
        execute format('grant usage on sequence %s to presence_bridge_tenant', wanted.name);
    end loop;

    for wanted in
        select *
        from (values
            ('tenant',             '{select}'::text[],                '{}'::text[],                       own),
            ('source',             '{select,insert,update,delete}',   '{}',                               own),
            ('webhook',            '{select,insert,update,delete}',   '{}',                               own),
            ('idempotency',        '{select,insert,update,delete}',   '{}',                               own),
            ('source_health',      '{select,insert,update,delete}',   '{}',                               of_source),
            ('connection',         '{select,insert,update,delete}',   '{}',                               of_source),
            ('connection_agent',   '{select,insert,update,delete}',   '{}',                               of_source),
            ('agent',              '{select,insert,update,delete}',   '{}',                               of_source),
            ('agent_external_id',  '{select,insert,update,delete}',   '{}',                               of_source),
            ('gap',                '{select,insert,update,delete}',   '{}',                               of_source),
            ('webhook_secret',     '{select,insert,update,delete}',   '{}',                               of_webhook),
            ('webhook_health',     '{select,insert,update,delete}',   '{}',                               of_webhook),
            ('webhook_work',       '{select,insert,update,delete}',   '{}',                               of_webhook),
            ('webhook_outcome',    '{select}',                        '{}',                               of_webhook),
            ('delivery',           '{select,insert,update,delete}',   '{}',                               of_webhook),
            -- The work that is done in a tenant's name counts what it opens.
            ('recovery',           '{select,insert}',                 '{recovered,ended_at,reason}',      of_webhook),
            ('erasure',            '{select,insert}',                 '{}',                               of_source),
            ('quarantine',         '{select}',                        '{}',
             'source_id in (select source_id from source)'),
            -- Pings from before there were tenants have neither a source nor a webhook.
            ('event',              '{select,insert}',                 '{}',
             of_source || ' or ' || of_webhook
             || ' or (source_id is null and webhook_id is null and tenant_asking() = ' || first || ')'),
            ('audit_log',          '{select,insert}',                 '{}',
             of_source || ' or ' || of_webhook
             || ' or (source_id is null and webhook_id is null and coalesce(tenant_id, ' || first || ') = tenant_asking())'),
            -- Nobody reads keys by this role.
            ('api_key',            '{}',                              '{}',                               'false'),
            -- Of everybody.
            ('dispatcher',         '{select}',                        '{}',                               null),
            ('webhook_generation', '{select,update}',                 '{}',                               null)
        ) w (name, rights, updatable, condition)
    loop
        if wanted.condition is not null then
            if not (select relrowsecurity from pg_class where oid = wanted.name::regclass) then
                execute format('alter table %I enable row level security', wanted.name);
            end if;
            condition := format(wanted.condition, wanted.name);
            -- Its comment tells what it was laid from, and what the server made of that.
            select obj_description(p.oid, 'pg_policy') is not distinct from md5(condition || pg_get_expr(p.polqual, p.polrelid))
            into as_laid
            from pg_policy p
            where p.polrelid = wanted.name::regclass
              and p.polname = wanted.name || '_own';
            if as_laid is false then
                execute format('drop policy %I on %I', wanted.name || '_own', wanted.name);
            end if;
            if as_laid is not true then
                execute format(
                    'create policy %I on %I to presence_bridge_tenant using (%s)', wanted.name || '_own', wanted.name, condition);
                select md5(condition || pg_get_expr(p.polqual, p.polrelid)) into laid_from
                from pg_policy p
                where p.polrelid = wanted.name::regclass
                  and p.polname = wanted.name || '_own';
                execute format('comment on policy %I on %I is %L', wanted.name || '_own', wanted.name, laid_from);
            end if;
        end if;
        foreach right_to in array wanted.rights loop
            if not has_table_privilege('presence_bridge_tenant', wanted.name, right_to) then
                execute format('grant %s on %I to presence_bridge_tenant', right_to, wanted.name);
            end if;
        end loop;
        foreach right_to in array wanted.updatable loop
            if not has_column_privilege('presence_bridge_tenant', wanted.name, right_to, 'update') then
                execute format('grant update (%I) on %I to presence_bridge_tenant', right_to, wanted.name);
            end if;
        end loop;
        -- So that never two tables are locked at once.
        commit;
    end loop;
end
$$;
