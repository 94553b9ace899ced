-- Everything belongs to a tenant. What was there before belongs to the one that a bridge begins with.
create table tenant (
    tenant_id  uuid        not null,
    name       text        not null,
    created_at timestamptz not null default now(),
    constraint tenant_pkey primary key (tenant_id),
    constraint tenant_name_unique unique (name)
);
comment on table tenant is 'An owner of sources, webhooks and keys; nobody sees what another one has.';
comment on column tenant.tenant_id is 'Our id, uuid v7; the first one''s is fixed (domain/tenant.rs).';
comment on column tenant.name is 'What the operator calls it.';
comment on column tenant.created_at is 'When it was made.';
insert into tenant (tenant_id, name) values ('00000000-0000-0000-0000-000000000001', 'default');

alter table api_key
    add column tenant_id    uuid        not null default '00000000-0000-0000-0000-000000000001',
    add column scopes       text[]      not null default '{read,webhooks,sources,audit,admin}',
    add column expires_at   timestamptz,
    add column last_used_at timestamptz,
    add constraint api_key_tenant_fkey foreign key (tenant_id) references tenant (tenant_id),
    add constraint api_key_scopes_known check (scopes <@ '{read,webhooks,sources,audit,admin}'::text[]);
alter table api_key alter column tenant_id drop default, alter column scopes drop default;
drop index api_key_name_unique;
create unique index api_key_name_unique on api_key (tenant_id, name) where revoked_at is null;
comment on column api_key.tenant_id is 'Whose it is.';
comment on column api_key.name is 'What people call it; bootstrap for the key from the environment.';
comment on column api_key.scopes is 'What it lets its caller do (domain/scope.rs).';
comment on column api_key.expires_at is 'From when on it is as good as revoked; null: never.';
comment on column api_key.last_used_at is 'When it was used last, to the minute; null: never.';
