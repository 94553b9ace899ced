//! Nobody edits the audit log without being found out: not the bridge by accident, not a superuser on
//! purpose.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use presence_bridge::actors::audit_sealer::Sealer;
use presence_bridge::domain::audit::seal::{Head, RowFault};
use presence_bridge::domain::secret::MasterKey;
use presence_bridge::metrics::Metrics;
use presence_bridge::store::Store;
use presence_bridge::store::audit::seals::AuditKeys;
use presence_bridge::store::audit::verify::{Fault, FaultKind};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use time::macros::date;

use crate::support::bridge::MASTER_KEY;
use crate::support::{Bridge, World, database, eventually};

/// A database with an audit log of its own, and what is needed to seal and to tamper.
struct Log {
    url: String,
    pool: PgPool,
    store: Store,
    keys: AuditKeys,
}

fn master_key() -> MasterKey {
    MasterKey::from_base64(MASTER_KEY).unwrap()
}

impl Log {
    async fn new() -> Self {
        let url = database::create().await;
        let store = Store::connect(url.parse().unwrap(), 4).await.unwrap();
        let key = store.audit_key(&master_key()).await.unwrap();
        Self { pool: database::pool(&url).await, url, store, keys: [key].into() }
    }

    /// The same with rows in twelve days, every seventh number left out, and a seal for each that many
    /// numbers.
    async fn of(rows: i64, a_seal: i64) -> Self {
        let log = Self::new().await;
        log.run("select make_day_partitions('2026-01-01', 12)").await;
        log.run(&format!(
            "insert into audit_log (audit_id, at, kind, level, tenant_id, source_id, webhook_id, event_id, delivery_id,
                                    agent_id, attempt, status, duration_ms, outcome, end_state, principal, data)
             select n, timestamptz '2026-01-01Z' + n * interval '12 days' / ({rows} + 1), 'DELIVERY_ATTEMPT', 'INFO',
                    gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),
                    'agent-' || n % 100, 1, 204, n % 300, 'ok', 'delivered', null,
                    jsonb_build_object('superseded', n % 3, 'text', repeat('x', (n % 50)::int))
             from generate_series(1, {rows}) n
             where n % 7 <> 3"
        ))
        .await;
        log.run(&format!("select setval('audit_log_id_seq', {rows})")).await;
        let (id, key) = log.keys.iter().next().unwrap();
        for through in (1..=rows).filter(|n| n % a_seal == 0 || *n == rows) {
            log.store.make_seal((*id, key), through, None).await.unwrap().unwrap();
        }
        log
    }

    fn sealer(&self) -> Sealer {
        Sealer::new(self.store.clone(), master_key(), Arc::default(), Metrics::new())
    }

    async fn run(&self, statement: &str) {
        self.tries(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn tries(&self, statement: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&self.pool).await.map(drop)
    }

    /// What a superuser does who knows how to get round triggers and foreign keys.
    async fn tamper(&self, statements: &str) {
        self.run(&format!("begin; set local session_replication_role = replica; {statements}; commit")).await;
    }

    async fn fault(&self) -> Option<Fault> {
        self.store.verify_audit(&self.keys, None).await.unwrap().fault
    }

    async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.url, arguments)
    }
}

fn cli(url: &str, arguments: &[&str]) -> Output {
    command(url, arguments).output().unwrap()
}

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_presence-bridge"));
    command
        .arg("audit")
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", url)
        .env("BRIDGE_MASTER_KEY", MASTER_KEY)
        .current_dir(std::env::temp_dir());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_edits_deletes_or_empties_it_is_refused_also_its_owner() {
    let log = Log::of(30, 10).await;
    let tables = ["audit_log", "audit_log_20260101", "audit_log_default"];
    for table in tables {
        log.run("insert into audit_log (at, kind) values ('2031-01-01Z', 'LATE')").await;
        for statement in [
            format!("update {table} set kind = 'x'"),
            format!("delete from {table}"),
            format!("truncate {table}"),
        ] {
            let error = log.tries(&statement).await.unwrap_err();
            assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}: {error}");
        }
    }
    log.run("select make_day_partitions('2027-01-01', 1)").await;
    assert!(log.tries("truncate audit_log_20270101").await.is_err(), "also one that was made later");
    for table in ["audit_seal", "audit_seal_day"] {
        for statement in [
            format!("update {table} set rows = 1"),
            format!("delete from {table}"),
            format!("truncate {table} cascade"),
        ] {
            assert!(log.tries(&statement).await.is_err(), "{statement}");
        }
    }
}

/// A way to tamper, and what must be said of it. Everything stays within three numbers of `id`, which is
/// there, and its seal.
async fn tamper_with(log: &Log, deed: u32, id: i64, seal: i64) -> (FaultKind, Option<i64>) {
    let columns = [
        "kind = kind || ' '",
        "level = case level when 'INFO' then 'WARN' else 'INFO' end",
        "at = at + interval '1 microsecond'",
        "at = timestamptz '2026-01-12 23:00Z'",
        "tenant_id = null",
        "source_id = gen_random_uuid()",
        "connection_id = gen_random_uuid()",
        "agent_id = null",
        "webhook_id = gen_random_uuid()",
        "event_id = gen_random_uuid()",
        "delivery_id = event_id",
        "attempt = attempt + 1",
        "status = 500",
        "duration_ms = null",
        "outcome = 'timeout'",
        "end_state = 'dead'",
        "principal = ''",
        "data = data || '{\"superseded\": 9}'",
        "data = data || '{\"more\": null}'",
    ];
    let edits = columns.len() as u32;
    let row = |fault: RowFault, id: i64| (FaultKind::Row(fault), Some(id));
    match deed {
        n if n < edits => {
            log.tamper(&format!("update audit_log set {} where audit_id = {id}", columns[n as usize])).await;
            row(RowFault::Edited, id)
        }
        n if n == edits => {
            log.tamper(&format!("delete from audit_log where audit_id = {id}")).await;
            row(RowFault::Deleted, id)
        }
        n if n == edits + 1 => {
            log.tamper(&format!(
                "insert into audit_log (audit_id, at, kind) select audit_id, at + interval '1 microsecond', 'FORGED'
                 from audit_log where audit_id = {id}"
            ))
            .await;
            row(RowFault::Inserted, id)
        }
        n if n == edits + 2 => {
            // The next number may not be there; then this one has moved.
            let other =
                log.number(&format!("select min(audit_id) from audit_log where audit_id > {id}")).await;
            log.tamper(&format!(
                "update audit_log set audit_id = -1 where audit_id = {id};
                 update audit_log set audit_id = {id} where audit_id = {other};
                 update audit_log set audit_id = {other} where audit_id = -1"
            ))
            .await;
            row(RowFault::Edited, id)
        }
        n if n == edits + 3 => {
            log.tamper(&format!(
                "update audit_log set kind = 'x' where audit_id = {id};
                 update audit_seal_listing set listing = '' where seal_id = {seal}"
            ))
            .await;
            (FaultKind::Rows, None)
        }
        n if n < edits + 10 => {
            let change = [
                "rows = rows + 1",
                "last_audit_id = last_audit_id - 1",
                "first_audit_id = first_audit_id + 1",
                "sealed_at = sealed_at + interval '1 microsecond'",
                "previous = sha256(previous)",
                "digest = sha256(digest)",
            ][(n - edits - 4) as usize];
            log.tamper(&format!("update audit_seal set {change} where seal_id = {seal}")).await;
            (FaultKind::SealEdited, None)
        }
        n if n == edits + 10 => {
            log.tamper(&format!("update audit_seal set mac = sha256(mac) where seal_id = {seal}")).await;
            (FaultKind::SealForged, None)
        }
        n if n == edits + 11 => {
            log.tamper(&format!("update audit_seal_day set digest = sha256(digest) where seal_id = {seal}"))
                .await;
            (FaultKind::SealEdited, None)
        }
        n if n == edits + 12 => {
            log.tamper(&format!("delete from audit_seal_day where seal_id = {seal}")).await;
            (FaultKind::SealEdited, None)
        }
        _ => {
            log.tamper(&format!("delete from audit_seal where seal_id = {seal}")).await;
            (FaultKind::SealMissing, None)
        }
    }
}

const DEEDS: u32 = 19 + 14;

/// Tampers at random that many times; each time it must be found and named. Verifies everything, or the seals
/// around.
async fn tamper_at_random(log: &Log, rounds: u64, a_seal: i64, everything: bool) {
    let rows = log.number("select max(last_audit_id) from audit_seal").await;
    log.run(
        "create unlogged table kept_row as select * from audit_log limit 0;
         create unlogged table kept_seal as select * from audit_seal limit 0;
         create unlogged table kept_day as select * from audit_seal_day limit 0;
         create unlogged table kept_listing as select * from audit_seal_listing limit 0",
    )
    .await;
    let mut chance = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: u64| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance % below
    };
    for round in 0..rounds {
        let deed = random(u64::from(DEEDS)) as u32;
        let mut id = 1 + random(rows as u64 - 3) as i64;
        id += i64::from(id % 7 == 3);
        // Both that change places lie in one seal, and a seal that is missing at the end is a truncated log.
        let seal = (id - 1) / a_seal + 1;
        if (deed == 21 && id % a_seal >= a_seal - 2) || (deed == DEEDS - 1 && seal * a_seal >= rows) {
            continue;
        }
        let (from, to) = (id - 3, id + 3);
        log.run(&format!(
            "truncate kept_row, kept_seal, kept_day, kept_listing;
             insert into kept_row select * from audit_log where audit_id between {from} and {to};
             insert into kept_seal select * from audit_seal where seal_id = {seal};
             insert into kept_day select * from audit_seal_day where seal_id = {seal};
             insert into kept_listing select * from audit_seal_listing where seal_id = {seal}"
        ))
        .await;
        let (what, audit_id) = tamper_with(log, deed, id, seal).await;
        let verdict = if everything {
            log.store.verify_audit(&log.keys, None).await.unwrap()
        } else {
            log.store.verify_seals(&log.keys, (seal - 1).max(1), seal + 1).await.unwrap()
        };
        let fault =
            verdict.fault.unwrap_or_else(|| panic!("round {round}: deed {deed} at {id} was not found"));
        assert_eq!(
            (fault.what, fault.seal_id, fault.audit_id),
            (what, seal, audit_id),
            "deed {deed} at {id}"
        );
        log.tamper(&format!(
            "delete from audit_log where audit_id between {from} and {to};
             insert into audit_log select * from kept_row;
             delete from audit_seal_listing where seal_id = {seal};
             insert into audit_seal_listing select * from kept_listing;
             delete from audit_seal_day where seal_id = {seal};
             insert into audit_seal_day select * from kept_day;
             delete from audit_seal where seal_id = {seal};
             insert into audit_seal select * from kept_seal"
        ))
        .await;
    }
    assert_eq!(log.fault().await, None, "all is as it was again");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_superuser_does_to_rows_and_seals_is_found_and_named() {
    let log = Log::of(700, 100).await;
    assert_eq!(log.fault().await, None);
    for deed in 0..DEEDS {
        let log = Log::of(60, 20).await;
        let (what, audit_id) = tamper_with(&log, deed, 25, 2).await;
        let fault = log.fault().await.unwrap_or_else(|| panic!("deed {deed} was not found"));
        assert_eq!((fault.what, fault.seal_id, fault.audit_id), (what, 2, audit_id), "deed {deed}");
    }
    tamper_at_random(&log, 300, 100, true).await;
}

/// Takes some minutes: `cargo test --release --test it -- --ignored ten_thousand`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn ten_thousand_tamperings_of_a_million_rows_are_found() {
    let log = Log::of(1_000_000, 1_000).await;
    tamper_at_random(&log, 10_000, 1_000, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_end_was_cut_off_is_known_by_an_earlier_head() {
    let log = Log::of(100, 20).await;
    let head = said(&log.cli(&["head"]));
    assert!(head.starts_with("5:"), "{head}");
    assert!(log.cli(&["verify", "--head", head.trim()]).status.success());
    let cut = "delete from audit_log where audit_id > 60; delete from audit_seal where seal_id > 3;
               delete from audit_seal_day where seal_id > 3; delete from audit_seal_listing where seal_id > 3";
    log.tamper(cut).await;
    assert!(log.cli(&["verify"]).status.success(), "by itself it looks whole");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &head).unwrap();
    let output = log.cli(&["verify", "--head", file.path().to_str().unwrap()]);
    assert_eq!((output.status.code(), said(&output).contains("its end was cut off")), (Some(1), true));
    // Sealed again by a bridge that does not know better, it is another chain.
    log.run("select setval('audit_log_id_seq', 60)").await;
    for _ in 0..2 {
        log.run("insert into audit_log (at, kind) values (now(), 'LATER')").await;
        log.sealer().round().await.unwrap();
    }
    let output = log.cli(&["verify", "--json", "--head", head.trim()]);
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["fault"]["what"], "rewritten", "{verdict}");
    assert_eq!(output.status.code(), Some(1));
    for wrong in ["5", "5:00", "x"] {
        assert_eq!(log.cli(&["verify", "--head", wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_seals_notices_that_the_last_seal_is_gone() {
    let log = Log::of(100, 50).await;
    let mut sealer = log.sealer();
    sealer.round().await.unwrap();
    log.tamper("delete from audit_seal where seal_id = 2; delete from audit_seal_day where seal_id = 2")
        .await;
    log.run("insert into audit_log (at, kind) values (now(), 'LATER')").await;
    let error = sealer.round().await.unwrap_err().to_string();
    assert!(error.contains("somebody rewrote the chain"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_put_in_the_place_of_ours_signs_nothing() {
    let log = Log::of(20, 10).await;
    let head: Head = said(&log.cli(&["head"])).trim().parse().unwrap();
    assert_eq!(head.seal_id, 2);
    log.run("update audit_key set sealed = set_byte(sealed, 40, 1 - get_byte(sealed, 40) % 2)").await;
    let output = log.cli(&["verify"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("seal 1 was not signed by this bridge"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_takes_is_missed_by_nobody_and_the_rest_still_verifies() {
    let log = Log::of(1200, 130).await;
    let drops = async |today, days| log.store.drop_audit_days(today, days, &master_key()).await.unwrap().done;
    assert_eq!(drops(date!(2026 - 01 - 04), 0).await, 3);
    let left = log.number("select count(*) from audit_log where at < '2026-01-04Z'").await;
    assert_eq!(left, 0);
    log.sealer().round().await.unwrap();
    let verdict = log.store.verify_audit(&log.keys, None).await.unwrap();
    assert_eq!(verdict.fault, None);
    let rows = log.number("select count(*) from audit_log").await;
    assert_eq!((verdict.rows, verdict.rows + verdict.rows_dropped), (rows, 1200 - 172 + 3));
    let told = log.number("select count(*) from audit_log where kind = 'AUDIT_DAY_DROPPED'").await;
    assert_eq!(told, 3, "it is itself in the chain");

    log.tamper("delete from audit_log where at >= '2026-01-05Z' and at < '2026-01-06Z'").await;
    let fault = log.fault().await.unwrap();
    assert_eq!(fault.what, FaultKind::Row(RowFault::Deleted), "a day that somebody else dropped is missed");
    log.tamper("insert into audit_dropped_day values ('2026-01-05', 9, 100, now(), sha256(''), 1)").await;
    assert_eq!(log.fault().await.unwrap().what, FaultKind::DropForged);
    log.tamper("delete from audit_dropped_day where day = '2026-01-05'").await;
    assert_eq!(drops(date!(2026 - 01 - 06), 0).await, 0, "what was tampered with is evidence and stays");
    assert_eq!(log.number("select count(*) from pg_tables where tablename = 'audit_log_20260105'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_a_row_that_is_not_sealed_yet_stays() {
    let log = Log::of(120, 120).await;
    log.run("insert into audit_log (at, kind) values ('2026-01-01 12:00Z', 'LATE')").await;
    let drops =
        async || log.store.drop_audit_days(date!(2026 - 01 - 02), 0, &master_key()).await.unwrap().done;
    assert_eq!(drops().await, 0);
    log.run("select drop_day_partitions('2026-01-02')").await;
    assert_eq!(log.number("select count(*) from pg_tables where tablename = 'audit_log_20260101'").await, 1);
    log.sealer().round().await.unwrap();
    assert_eq!(drops().await, 1);
    log.run("insert into audit_log (at, kind) values ('2026-01-01 12:00Z', 'LATER STILL')").await;
    log.sealer().round().await.unwrap();
    assert_eq!(log.fault().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_waited_for() {
    let log = Log::new().await;
    // As the bridge writes: within a larger statement, and plainly.
    for statement in [
        "with told as (insert into audit_log (at, kind) values (now(), 'LATE') returning audit_id)
         select audit_id from told",
        "insert into audit_log (at, kind) values (now(), 'LATE') returning audit_id",
    ] {
        let mut late = log.pool.begin().await.unwrap();
        let first: i64 = sqlx::query_scalar(statement).fetch_one(&mut *late).await.unwrap();
        log.run("insert into audit_log (at, kind) values (now(), 'EARLY')").await;
        assert_eq!(log.store.settled_through().await.unwrap(), None, "somebody may still write before it");
        let (settled, ()) = tokio::join!(log.store.settled_through(), async {
            late.commit().await.unwrap();
        });
        assert!(settled.unwrap().unwrap() > first);
        log.sealer().round().await.unwrap();
    }
    let verdict = log.store.verify_audit(&log.keys, None).await.unwrap();
    assert_eq!((verdict.fault, verdict.rows, verdict.unsealed), (None, 4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_many_write_and_some_give_up_every_row_is_sealed_once_and_none_comes_late() {
    let log = Log::new().await;
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let url = log.url.clone();
            tokio::spawn(async move {
                let pool = database::pool(&url).await;
                for n in 0..60 {
                    let mut tx = pool.begin().await.unwrap();
                    sqlx::query(
                        "insert into audit_log (at, kind) select now(), 'BUSY' from generate_series(1, 5)",
                    )
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                    if (n + writer) % 4 == 0 {
                        tx.rollback().await.unwrap();
                    } else {
                        tx.commit().await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut sealers = [log.sealer(), log.sealer()];
    while writers.iter().any(|writer| !writer.is_finished()) {
        let [one, other] = &mut sealers;
        let (one, other) = tokio::join!(one.round(), other.round());
        one.and(other).unwrap();
    }
    sealers[0].round().await.unwrap();
    let verdict = log.store.verify_audit(&log.keys, None).await.unwrap();
    assert_eq!((verdict.fault, verdict.rows, verdict.unsealed), (None, 6 * 45 * 5, 0));
    assert!(verdict.seals > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_seals_it_goes_on_where_it_was() {
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let many = "insert into audit_log (at, kind) select now(), 'MANY' from generate_series(1, 100000)";
    let mut bridge = Bridge::start_on(&url, &[]).await;
    for _ in 0..4 {
        sqlx::query(many).execute(&pool).await.unwrap();
        bridge.kill_and_restart().await;
    }
    eventually("all is sealed", || async {
        let left: i64 = sqlx::query_scalar(
            "select count(*) from audit_log where kind = 'MANY'
             and audit_id > (select coalesce(max(last_audit_id), 0) from audit_seal)",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (left == 0).then_some(())
    })
    .await;
    let output = cli(&url, &["verify"]);
    assert!(output.status.success() && said(&output).starts_with("OK: "), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_seals_what_it_does_and_hands_it_on_by_cursor() {
    let world = World::watching(&["ann"]).await;
    world.register("/hooks/a").await;
    let url = &world.bridge.database_url;
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let output = cli(url, &[&["export"], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let told = eventually("the registration is sealed and handed on", || async {
        let told = lines(&[]);
        told.iter().any(|line| line["kind"] == "WEBHOOK_CREATED").then_some(told)
    })
    .await;
    let ids: Vec<i64> = told.iter().map(|line| line["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted());
    let half = ids[ids.len() / 2].to_string();
    assert_eq!(lines(&["--since", &half])[0]["id"], ids[ids.len() / 2 + 1]);
    assert_eq!(lines(&["--until", "2020-01-01T00:00:00Z"]), Vec::<Value>::new());
    assert!(lines(&["--tenant", "00000000-0000-0000-0000-0000000000ff"]).is_empty());
    assert_eq!(cli(url, &["export", "--until", "yesterday"]).status.code(), Some(2));
    assert!(cli(url, &["verify"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_quietly_when_its_reader_has_seen_enough() {
    // More than a pipe takes in.
    let log = Log::of(2_000, 500).await;
    let mut export =
        command(&log.url, &["export"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(export.stdout.take().unwrap()).read_line(&mut first).unwrap();
    // `| head -1` has read its line and gone.
    let output = export.wait_with_output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&first).unwrap()["id"], 1);
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing is said");
    let whole = log.cli(&["export"]);
    assert!(whole.stdout.len() > 256 * 1024, "{} bytes: a pipe could take them all", whole.stdout.len());
}
