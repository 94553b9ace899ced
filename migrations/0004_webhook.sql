-- A webhook is a registered subscriber.
create table webhook (
    webhook_id  uuid        not null,
    url         text        not null,
    description text        not null default '',
    agents      text[]      not null default '{}',
    topics      text[]      not null default '{}',
    presences   text[]      not null default '{}',
    sources     uuid[]      not null default '{}',
    state       text        not null default 'active',
    version     bigint      not null default 1,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    deleted_at  timestamptz,
    constraint webhook_pkey primary key (webhook_id),
    constraint webhook_state_known check (state in ('active', 'paused'))
);

comment on table webhook is 'A registered subscriber.';
comment on column webhook.webhook_id is 'Our id, uuid v7.';
comment on column webhook.url is 'Where POSTs go, in the form our URL parser writes it.';
comment on column webhook.description is 'Free text of the owner.';
comment on column webhook.agents is 'Only these Genesys user ids; empty: all.';
comment on column webhook.topics is 'Only these topics; empty: all.';
comment on column webhook.presences is 'Only changes to these system presences; empty: all.';
comment on column webhook.sources is 'Only these sources; empty: all.';
comment on column webhook.state is 'active, or paused: deliveries are kept and leave after resume.';
comment on column webhook.version is 'Counts changes; the dispatcher reloads address and secrets when it differs.';
comment on column webhook.created_at is 'When it was registered.';
comment on column webhook.updated_at is 'When it was changed last.';
comment on column webhook.deleted_at is 'Null while registered. The row stays, so that history can name it.';

create table webhook_secret (
    webhook_secret_id uuid        not null,
    webhook_id        uuid        not null,
    sealed            bytea       not null,
    created_at        timestamptz not null default now(),
    expires_at        timestamptz,
    constraint webhook_secret_pkey primary key (webhook_secret_id),
    constraint webhook_secret_webhook_fkey foreign key (webhook_id) references webhook (webhook_id)
);
create index webhook_secret_webhook_idx on webhook_secret (webhook_id);

comment on table webhook_secret is 'Signing secrets; after a rotation the old one signs beside the new one until it expires.';
comment on column webhook_secret.webhook_secret_id is 'Our id, uuid v7; bound to the sealed bytes as associated data.';
comment on column webhook_secret.webhook_id is 'Whose POSTs it signs.';
comment on column webhook_secret.sealed is 'The key bytes, sealed with the master key (domain/secret.rs).';
comment on column webhook_secret.created_at is 'When it was made.';
comment on column webhook_secret.expires_at is 'When it stops signing; null for the present secret.';
