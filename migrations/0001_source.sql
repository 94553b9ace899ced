-- A source is one Genesys organisation that we hold credentials for.
create table source (
    source_id             uuid        not null,
    name                  text        not null,
    protocol              text        not null,
    region                text,
    api_url               text,
    login_url             text,
    client_id             text        not null,
    client_secret_sealed  bytea       not null,
    agents                text[]      not null,
    topic_matrix          jsonb       not null,
    heartbeat_interval_ms integer     not null,
    origin                text        not null,
    version               bigint      not null default 1,
    created_at            timestamptz not null default now(),
    updated_at            timestamptz not null default now(),
    deleted_at            timestamptz,
    constraint source_pkey primary key (source_id),
    constraint source_protocol_known check (protocol in ('realtime')),
    constraint source_origin_known check (origin in ('environment', 'api')),
    constraint source_heartbeat_in_range check (heartbeat_interval_ms between 1000 and 300000),
    constraint source_topic_matrix_is_object check (jsonb_typeof(topic_matrix) = 'object')
);

-- A deleted source keeps its row, because events and audit entries name it; its name is free again.
create unique index source_name_unique on source (name) where deleted_at is null;
-- At most one source comes from the environment.
create unique index source_environment_single on source (origin) where origin = 'environment' and deleted_at is null;

comment on table source is 'A Genesys organisation we hold credentials for.';
comment on column source.source_id is 'Our id, uuid v7.';
comment on column source.name is 'What people call it; unique among sources that are not deleted.';
comment on column source.protocol is 'Upstream protocol that its connections speak.';
comment on column source.region is 'Genesys domain such as mypurecloud.de; null when api_url says it all.';
comment on column source.api_url is 'Override of the REST address; null: derived from the region.';
comment on column source.login_url is 'Override of the token address; null: the protocol''s own rule.';
comment on column source.client_id is 'OAuth client id.';
comment on column source.client_secret_sealed is 'OAuth client secret, sealed with the master key (domain/secret.rs).';
comment on column source.agents is 'Ids of the Genesys users to watch, in the order given.';
comment on column source.topic_matrix is 'Object of topic lists, flattened when a connection is provisioned.';
comment on column source.heartbeat_interval_ms is 'How often upstream shall ping.';
comment on column source.origin is 'environment: set by GENESYS_ variables and only changed there; api: set over REST.';
comment on column source.version is 'Counts changes; the supervisor rebuilds connections when it differs.';
comment on column source.created_at is 'When the row was made.';
comment on column source.updated_at is 'When it was changed last.';
comment on column source.deleted_at is 'Null while in use; afterwards its connections end and nothing is read from it.';
