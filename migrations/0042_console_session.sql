-- Sessions of the console (docs/adr/0046): a browser holds a sealed cookie that names a session; the session is here, so
-- that a logout and the revocation of its key count at every process at once.

create table console_session (
    session_id uuid        not null,
    api_key_id uuid        not null,
    started_at timestamptz not null,
    ends_at    timestamptz not null,
    constraint console_session_pkey primary key (session_id),
    constraint console_session_api_key_fkey foreign key (api_key_id) references api_key (api_key_id)
);
create index console_session_key_idx on console_session (api_key_id);
create index console_session_ends_idx on console_session (ends_at);
comment on table console_session is 'A browser that is logged in to the console with an API key.';
comment on column console_session.session_id is 'Our id, uuid v7; the cookie holds it, sealed.';
comment on column console_session.api_key_id is 'The key that it acts with; its revocation ends it.';
comment on column console_session.started_at is 'When somebody logged in.';
comment on column console_session.ends_at is 'When it ends by itself.';

create table console_login_link (
    token_hash bytea       not null,
    api_key_id uuid        not null,
    ends_at    timestamptz not null,
    constraint console_login_link_pkey primary key (token_hash),
    constraint console_login_link_api_key_fkey foreign key (api_key_id) references api_key (api_key_id)
);
create index console_login_link_ends_idx on console_login_link (ends_at);
comment on table console_login_link is 'Links that log a browser in once; gone with their use.';
comment on column console_login_link.token_hash is 'SHA-256 of what the link holds.';
comment on column console_login_link.api_key_id is 'The key that made it; the session acts with it.';
comment on column console_login_link.ends_at is 'When it ends unused.';
