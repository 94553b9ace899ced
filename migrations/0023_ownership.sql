-- Whose the things are that the bridge makes outside: which process made them, and of which database that process was.
-- See docs/adr/0033.

create table database_identity (
    system_identifier text,
    database_oid      bigint not null
);
comment on table database_identity is 'One row, from the first start on: the database that this is. A restored copy brings that of its original.';
comment on column database_identity.system_identifier is 'What pg_control_system() says of the cluster; null if the user may not ask.';
comment on column database_identity.database_oid is 'Of the database within its cluster.';

alter table dispatcher add column process_id uuid;
comment on column dispatcher.process_id is 'The process that it runs in, which its database sessions carry in application_name; null in rows of former versions.';

alter table connection add column recorded_by uuid;
comment on column connection.recorded_by is 'The process that wrote down upstream_connection_id and stale_upstream_ids last; null before this column.';

alter table api_key add column recorded_by uuid;
comment on column api_key.recorded_by is 'Of a bootstrap key: the process that started with it last; null for other keys.';

-- Each process that generated its key has one.
drop index api_key_name_unique;
create unique index api_key_name_unique on api_key (tenant_id, name) where revoked_at is null and name <> 'bootstrap';

-- Whether a process of this database lives: a dispatcher of its shows signs of life, and it is connected. A process that was
-- killed is not connected any more from that moment on, long before its dispatcher counts as dead.
create function process_lives(process uuid) returns boolean
language sql stable as $$
    select exists (select from dispatcher d where d.process_id = process and d.alive_until >= now())
       and exists (
           select
           from pg_stat_activity a
           where a.datname = current_database()
             and a.application_name = 'presence-bridge ' || process)
$$;

create table provisioning (
    provisioning_id uuid        not null,
    connection_id   uuid        not null,
    source_id       uuid        not null,
    agent_id        text        not null,
    process_id      uuid        not null,
    begun_at        timestamptz not null,
    constraint provisioning_pkey primary key (provisioning_id),
    constraint provisioning_connection_fkey foreign key (connection_id) references connection (connection_id)
        on delete cascade
);
create index provisioning_connection_idx on provisioning (connection_id);
create index provisioning_source_idx on provisioning (source_id);
comment on table provisioning is 'Requests for a connection upstream whose answer is not written down (protocol realtime): it may exist there.';
comment on column provisioning.provisioning_id is 'Our id, uuid v7.';
comment on column provisioning.connection_id is 'For which connection it was asked.';
comment on column provisioning.source_id is 'Whose credentials it used.';
comment on column provisioning.agent_id is 'The Genesys user it was to watch.';
comment on column provisioning.process_id is 'The process that asked.';
comment on column provisioning.begun_at is 'Just before it asked.';

-- jsonb would sort the groups of the matrix by their names.
alter table source
    drop constraint source_topic_matrix_is_object,
    alter column topic_matrix type json using topic_matrix::json,
    add constraint source_topic_matrix_is_object check (json_typeof(topic_matrix) = 'object');
comment on column source.topic_matrix is 'Object of topic lists as the operator wrote it, in its order; flattened when a connection is provisioned.';
