//! The audit log as rsyslog and syslog-ng read it, set up with the lines of docs/operations.md: one
//! record for each entry, whole or shortened, and nothing of one in another.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::neighbour::Neighbour;
use crate::support::{Bridge, database, eventually};

const DOCS: &str = include_str!("../../docs/operations.md");
/// Where those lines write to.
const FILE: &str = "/var/log/presence-bridge-audit.jsonl";
/// More than a datagram, a line or an escape would carry unharmed.
const TRICKY: &str = "Zoë\n€ ]\" \\ 12 <110>1 \u{1f600}";

/// The block of the docs that begins with this line.
fn lines(first: &str) -> &'static str {
    let block = DOCS.split_once(first).unwrap_or_else(|| panic!("no block begins with {first}")).1;
    block.split_once("```").unwrap().0
}

/// A running collector.
struct Collector(Neighbour);

impl Collector {
    /// `None` where the program cannot be had. `head` stands before the lines of the docs.
    async fn start(program: &str, head: &str) -> Option<Self> {
        let started = Neighbour::start(program, |command, dir, port| {
            let at = |name: &str| dir.join(name).display().to_string();
            let shown = lines(&format!("# {program}\n")).replace(FILE, &at("audit.jsonl"));
            let here = shown
                .replace("port=\"601\"", &format!("port=\"{port}\""))
                .replace("port(601)", &format!("port({port})"));
            assert_ne!(shown, here, "the port of the docs");
            std::fs::write(at("conf"), format!("{head}\n{here}")).unwrap();
            let root = Path::new(command.get_program()).ancestors().nth(2).unwrap().to_owned();
            let libraries = root.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH));
            match program {
                "rsyslogd" => {
                    command.args(["-n", "-i", "NONE", "-f", &at("conf"), "-M"]).arg(libraries.join("rsyslog"))
                }
                _ => command
                    .args(["-F", "--no-caps", "-f", &at("conf"), "-p", &at("pid")])
                    .args(["-c", &at("control"), "-R", &at("state")])
                    .arg("--module-path")
                    .arg(root.join("lib/syslog-ng/3.38")),
            };
        });
        started.await.map(Self)
    }

    /// The entries that it has written, by id; whatever is no entry fails the test.
    fn entries(&self) -> BTreeMap<i64, Value> {
        let (text, log) = (self.0.read("audit.jsonl"), self.0.read("output"));
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let entry = |line: &str| -> Value {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in {line:.200}; its log: {log}"))
        };
        let id = |entry: &Value| entry["id"].as_i64().unwrap();
        whole.lines().map(entry).map(|entry| (id(&entry), entry)).collect()
    }
}

/// Has a bridge with these variables push entries of all lengths; gives those that arrived with their length.
async fn pushed(collector: &Collector, max_bytes: &str) -> BTreeMap<usize, Value> {
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let receiver = format!("tcp://127.0.0.1:{}", collector.0.port);
    let variables = [("BRIDGE_SYSLOG_URL", receiver.as_str()), ("BRIDGE_SYSLOG_MAX_BYTES", max_bytes)];
    let _bridge = Bridge::start_on(&url, &variables).await;
    let write = "insert into audit_log (at, kind, data)
                 select now(), 'TRIED', jsonb_build_object('tricky', $1, 'long', repeat('€x', length / 4), 'length', length)
                 from unnest($2::int[]) length";
    let lengths: Vec<i32> =
        (0..200).map(|n| n * 40).chain([7400, 7440, 7480, 7520, 20_000, 40_000]).collect();
    sqlx::query(write).bind(TRICKY).bind(&lengths).execute(&pool).await.unwrap();
    let written: Vec<i64> = sqlx::query_scalar("select audit_id from audit_log where kind = 'TRIED'")
        .fetch_all(&pool)
        .await
        .unwrap();
    let entries = eventually("every entry is collected", || async {
        let entries = collector.entries();
        written.iter().all(|id| entries.contains_key(id)).then_some(entries)
    })
    .await;
    let tried = entries.into_values().filter(|entry| entry["kind"] == "TRIED");
    tried
        .map(|entry| {
            assert_eq!(entry["data"]["tricky"], TRICKY, "{entry:.200}");
            (usize::try_from(entry["data"]["length"].as_u64().unwrap()).unwrap(), entry)
        })
        .collect()
}

fn has_all(entry: &Value) -> bool {
    entry["data"]["long"].is_string() && entry["shortened"].is_null()
}

/// At its default an entry of 20 kB comes as one record, shortened.
async fn takes_the_default(program: &str, head: &str) {
    let Some(collector) = Collector::start(program, head).await else { return };
    let entries = pushed(&collector, "8000").await;
    assert!(has_all(&entries[&40]) && has_all(&entries[&7000]), "{program}: {}", entries[&7000]);
    for length in [20_000, 40_000] {
        let entry = &entries[&length];
        assert_eq!(entry["shortened"]["audit_id"], entry["id"], "{program}");
        assert!(entry["shortened"]["bytes"].as_u64() > u64::try_from(length).ok(), "{program}");
        assert_eq!(entry["data"], json!({"tricky": TRICKY, "length": length}), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_makes_one_record_of_each_entry() {
    let whole = async {
        // As the docs say for those who want long entries whole.
        let head = "global(maxMessageSize=\"64k\")";
        assert!(DOCS.contains(head));
        let Some(collector) = Collector::start("rsyslogd", head).await else { return };
        let entries = pushed(&collector, "64000").await;
        assert!(entries.len() > 200 && entries.values().all(has_all));
    };
    tokio::join!(takes_the_default("rsyslogd", ""), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_ng_makes_one_record_of_each_entry() {
    let head = "@version: 3.38";
    let whole = async {
        let Some(collector) = Collector::start("syslog-ng", head).await else { return };
        let entries = pushed(&collector, "64000").await;
        assert!(entries.len() > 200 && entries.values().all(has_all));
    };
    tokio::join!(takes_the_default("syslog-ng", head), whole);
}
