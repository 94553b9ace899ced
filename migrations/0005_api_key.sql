-- An API key lets a caller in. Only its hash is kept: keys are 256 random bits, so a plain hash suffices.
create table api_key (
    api_key_id   uuid        not null,
    name         text        not null,
    key_hash     bytea       not null,
    created_at   timestamptz not null default now(),
    revoked_at   timestamptz,
    constraint api_key_pkey primary key (api_key_id),
    constraint api_key_hash_unique unique (key_hash),
    constraint api_key_hash_is_sha256 check (octet_length(key_hash) = 32)
);
-- One bootstrap key at a time: a new BRIDGE_API_KEY replaces the old one.
create unique index api_key_name_unique on api_key (name) where revoked_at is null;

comment on table api_key is 'Who may call the REST API.';
comment on column api_key.api_key_id is 'Our id, uuid v7; audit entries name it.';
comment on column api_key.name is 'bootstrap for the key from the environment.';
comment on column api_key.key_hash is 'SHA-256 of the key.';
comment on column api_key.created_at is 'When it was made.';
comment on column api_key.revoked_at is 'When it stopped working; null while it works.';
