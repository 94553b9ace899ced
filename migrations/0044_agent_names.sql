-- The presence board finds agents by a part of their name, among all that a tenant has: folding 18,000 names for each search
-- would take longer than reading them. An index would not help: row security lets no operator look into rows of others early.
alter table agent add column name_lower text generated always as (lower(name)) stored;
comment on column agent.name_lower is 'The name in lower case, for searches by a part of it.';
