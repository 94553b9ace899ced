-- Why a receiver's last attempt failed, in words: the outcome class alone does not say what to mend.

alter table webhook_health
    add column last_reason text check (char_length(last_reason) <= 300);
comment on column webhook_health.last_reason is
    'Why the attempt of last_outcome failed, for people; null if the class says it all.';
