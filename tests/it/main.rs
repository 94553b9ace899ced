//! One test binary: each file is a promise to users, kept against real parts: the program itself as a
//! process, a real Postgres, the simulated Genesys Cloud and a receiver that checks signatures on its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::as_conversions
)]

mod support;

mod avoids_peers_faults;
mod believes_what_can_be;
mod changes_webhooks_at_once;
mod checks_its_audit_on_demand;
mod console_buttons_in_a_browser;
mod console_deliveries;
mod console_in_a_browser;
mod console_operations;
mod console_pages_in_a_browser;
mod console_presence;
mod console_samples;
mod console_webhooks;
mod delivers_in_batches;
mod delivers_signed_posts;
mod drains_on_stop;
mod erases_a_person;
mod examines_a_source;
mod explains;
mod finds_its_database;
mod finds_the_primary;
mod finds_what_is_past;
mod fits_its_receivers;
mod follows_the_feed;
mod generates_clients;
mod gives_keys;
mod goes_through_poolers;
mod hands_its_audit_on;
mod hands_its_audit_on_safely;
mod is_read_by_collectors;
mod is_read_by_syslog_collectors;
mod keeps_each_day_by_itself;
mod keeps_order_per_agent;
mod keeps_secrets;
mod keeps_tenants_apart;
mod keeps_tokens;
mod keeps_what_was_sent;
mod keeps_within_limits;
mod knows_why_its_database_refuses;
mod leaves_failing_receivers_alone;
mod leaves_nothing_upstream;
mod listens_for_developers;
mod logs_trouble;
mod maps_agents;
mod matches_from_the_first;
mod matches_openapi;
mod narrows_by_state;
mod outlives_connections;
mod owns_what_it_made;
mod reaches_genesys_through_a_proxy;
mod recovers_missed_events;
mod refuses_inner_targets;
mod refuses_wrong_configuration;
mod registers_webhooks;
mod repeats_safely;
mod replicates_logically;
mod restores_from_dumps;
mod retries_all_that_match;
mod retries_then_gives_up;
mod revives_its_postgres;
mod rotates_the_master_key;
mod seals_its_audit;
mod sends_nothing_stale;
mod shares_a_database;
mod shares_places;
mod shows_the_present_first;
mod speaks_notifications;
mod speaks_other_formats;
mod speaks_realtime;
mod starts_beside_others;
mod survives_a_kill;
mod survives_a_panic;
mod survives_an_absent_standby;
mod survives_clock_jumps;
mod survives_database_loss;
mod survives_each_answer;
mod survives_hard_failovers;
mod survives_late_commits;
mod survives_lost_commits;
mod takes_settings;
mod takes_the_certificates_of_companies;
mod takes_what_people_paste;
mod tells_how_sources_stand;
mod tells_of_gaps;
mod tells_the_latest;
mod verifies_elsewhere;
mod withstands_callers;
mod withstands_upstream;
mod works_in_a_terminal;
mod writes_everything_down;
