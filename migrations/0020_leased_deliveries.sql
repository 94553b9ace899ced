-- What a dispatcher holds is looked up by its id: at its end, after its death, after a commit whose answer was lost, and by
-- itself every few seconds (docs/adr/0026). Without an index each of these reads every open delivery.
create index delivery_leased_idx on delivery (leased_by) where leased_by is not null;
