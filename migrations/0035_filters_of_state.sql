-- Filters by more of an agent's state than the presence, and by what the presence changed from and to.

alter table webhook
    add column queues text[] not null default '{}',
    add column routing_statuses text[] not null default '{}',
    add column transitions text[] not null default '{}';
comment on column webhook.queues is 'Only changes of agents that work in one of these queues, or have just left one; empty: all.';
comment on column webhook.routing_statuses is 'Only changes to a state with one of these routing statuses; empty: all.';
comment on column webhook.transitions is
    'Only changes of the system presence like these, such as "AWAY -> ON_QUEUE" or "* -> ON_QUEUE"; empty: all.';

-- Their items count too. A generated column cannot be changed, only made again.
drop index webhook_quota_idx;
alter table webhook drop column filter_items;
alter table webhook
    add column filter_items integer not null generated always as (
        cardinality(agents) + cardinality(topics) + cardinality(presences) + cardinality(sources)
        + cardinality(queues) + cardinality(routing_statuses) + cardinality(transitions)) stored;
comment on column webhook.filter_items is 'Items of its filters, which the quota of its tenant counts.';
create index webhook_quota_idx on webhook (tenant_id) include (filter_items) where deleted_at is null;
