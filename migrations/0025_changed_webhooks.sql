-- Which webhooks have changed since, so that writers of events read the filters of those alone (docs/adr/0031); and how much each
-- one's filters hold, so that a tenant's can be counted.

alter table webhook
    add column filter_items integer not null generated always as (
        cardinality(agents) + cardinality(topics) + cardinality(presences) + cardinality(sources)) stored,
    add column changed_generation bigint;
comment on column webhook.filter_items is 'Items of its filters, which the quota of its tenant counts.';
comment on column webhook.changed_generation is
    'Number of its last change among all webhooks'' (webhook_generation); null only while its first is uncommitted.';

update webhook w
set changed_generation = n.number
from (
    select webhook_id, row_number() over (order by webhook_id) + (select generation from webhook_generation) as number
    from webhook) n
where n.webhook_id = w.webhook_id;
update webhook_generation set generation = generation + (select count(*) from webhook);

create unique index webhook_changed_idx on webhook (changed_generation);
create index webhook_quota_idx on webhook (tenant_id) include (filter_items) where deleted_at is null;

drop trigger webhook_added on webhook;
drop trigger webhook_changed on webhook;
drop function raise_webhook_generation;

-- Gives the change its number. At the commit: the row of webhook_generation is locked from here until the transaction has ended,
-- so numbers become visible in their order, and whoever knows all up to one misses none before it.
create function number_webhook_change() returns trigger
language plpgsql as $$
declare
    number bigint;
begin
    -- A transaction's last change of a webhook counts.
    if not exists (select from webhook where webhook_id = new.webhook_id and version = new.version) then
        return null;
    end if;
    update webhook_generation set generation = generation + 1 returning generation into number;
    update webhook set changed_generation = number where webhook_id = new.webhook_id;
    return null;
end
$$;
comment on function number_webhook_change is 'Gives a change of a webhook the next number, when it is committed.';

-- Not for snapshot_next, which moves while a snapshot is written.
create constraint trigger webhook_changed after insert or update of version on webhook
    deferrable initially deferred
    for each row execute function number_webhook_change();

-- Writers would go on owing it: what is gone says nothing of its change.
create function refuse_webhook_delete() returns trigger
language plpgsql as $$
begin
    raise exception 'rows of webhook stay; set deleted_at and raise version';
end
$$;
comment on function refuse_webhook_delete is 'Keeps removed webhooks'' rows, by which writers of events notice the removal.';
create trigger webhook_stays before delete on webhook
    for each row execute function refuse_webhook_delete();

comment on table webhook_generation is 'One row: the number of the last change of a webhook.';
comment on column webhook_generation.generation is
    'Raised when a registration, or a raise of a version, is committed; shared by writers of events until they have ended.';
