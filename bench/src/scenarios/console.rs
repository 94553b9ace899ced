//! The console on the data of a large site while changes flow: how long each page takes; then what ten open
//! consoles cost the flow, in pairs that take turns in who comes first.
//!
//! Agents come from the simulated platform. All webhooks but one, and most audit entries, are inserted by
//! SQL: neither is what is measured.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::cloud::CloudOptions;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::harness::bridge::{API_KEY, Bridge, Launch};
use crate::harness::console::{Console, Live};
use crate::harness::machine;
use crate::harness::watch::Watch;
use crate::measuring::cpu::Usage;
use crate::measuring::figures::{Times, at, float};

/// Pages; what is in braces is taken from the data.
const PAGES: [&str; 24] = [
    "/console/",
    "/console/board",
    "/console/agents/{agent}",
    "/console/webhooks",
    "/console/webhooks/new",
    "/console/webhooks/{webhook}",
    "/console/deliveries",
    "/console/deliveries?webhook={webhook}",
    "/console/deliveries?webhook={listed}",
    "/console/deliveries?agent={agent}",
    "/console/deliveries?state=dead",
    "/console/deliveries/{delivery}",
    "/console/explain",
    "/console/explain?event={event}&webhook={webhook}",
    "/console/gaps",
    "/console/audit",
    "/console/audit?kind=DELIVERY_ATTEMPT",
    "/console/audit?kind=WEBHOOK_CREATED",
    "/console/audit?webhook={listed}",
    "/console/quarantine",
    "/console/sources",
    "/console/sources/{source}",
    "/console/keys",
    "/console/configuration",
];
/// What open consoles show, half of them each.
const OPEN: [&str; 2] = ["/console/", "/console/board"];
/// What a page may take at p95.
const P95_MAX_MS: f64 = 100.0;
/// How long preparations may take.
const PATIENCE: Duration = Duration::from_secs(900);
const WARM_UP: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Options {
    /// Agents; a channel takes a thousand.
    #[arg(long, default_value_t = 18_000)]
    agents: usize,
    #[arg(long, default_value_t = 10_000)]
    webhooks: u64,
    /// Audit entries of two days: of each event its arrival, and the one attempt of its delivery.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Changes a second, each for one webhook.
    #[arg(long, default_value_t = 500)]
    changes: u32,
    /// How often each page is read.
    #[arg(long, default_value_t = 100)]
    reads: u32,
    /// Open consoles, each logged in with a key of its own.
    #[arg(long, default_value_t = 10)]
    consoles: usize,
    /// All of them are logged in with one key, and share what is drawn.
    #[arg(long)]
    one_key: bool,
    /// Seconds of each measurement of the flow.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measurements without and with open consoles.
    #[arg(long, default_value_t = 5)]
    pairs: u32,
    /// Measures nothing: prints a link that opens the console, and lets changes flow until it is interrupted.
    #[arg(long)]
    look: bool,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let platform = CloudOptions { rate_limit: None, ..CloudOptions::default() };
    let (watch, _) = Watch::start(launch, options.agents, platform).await?;
    machine::print(&watch.bridge).await;
    watch.has_read(watch.channels, PATIENCE).await?;
    watch.register().await?;
    fill(&watch.bridge, options).await?;
    let mut keys = Vec::new();
    for console in 0..options.consoles {
        let wanted = json!({"name": format!("console {console}"), "scopes": ["read", "audit"]});
        let made = watch.bridge.post("/v1/api-keys", &wanted).await?;
        keys.push(made.get("key").and_then(Value::as_str).context("no key in the answer")?.to_owned());
    }
    let mut part = Part { watch, options, keys, n: 0 };
    part.watch.flow(options.changes, WARM_UP, &mut part.n).await?;
    if options.look {
        part.look().await?;
    } else {
        part.pages().await?;
        if options.pairs > 0 {
            part.pairs().await?;
        }
    }
    part.watch.bridge.stop().await
}

/// Inserts webhooks that no change matches and audit entries of their deliveries, and waits until these are
/// sealed.
async fn fill(bridge: &Bridge, options: &Options) -> anyhow::Result<()> {
    let (webhooks, entries) = (options.webhooks.saturating_sub(1), options.entries / 2);
    let start = Instant::now();
    bridge
        .sql(&format!(
            "insert into webhook (webhook_id, url, description, agents, state)
             select gen_random_uuid(), 'https://crm.example/hooks/' || n, 'Webhook number ' || n,
                    array['nobody-' || n], (array['active', 'active', 'active', 'paused', 'disabled'])[1 + n % 5]
             from generate_series(1, {webhooks}) n"
        ))
        .await?;
    bridge
        .sql(
            "insert into webhook_health (webhook_id, failures, failing_since, last_outcome, succeeded_at)
             select webhook_id, n % 3, case when n % 3 > 0 then now() - interval '1 hour' end,
                    case when n % 3 > 0 then 'server_error' else 'ok' end, now() - interval '1 hour'
             from (select webhook_id, row_number() over () n from webhook) w
             on conflict do nothing",
        )
        .await?;
    bridge.sql("select make_day_partitions((now() at time zone 'utc')::date - 2, 2)").await?;
    // Ids begin with their time, as those of the bridge do.
    bridge
        .sql(&format!(
            "with hook as (select webhook_id, row_number() over () - 1 as n from webhook),
                  agent as (select agent_id, source_id, row_number() over () - 1 as n from agent),
                  delivery as (
                      select n, (n::bigint * 7919) % {hooks} as hook, (n::bigint * 104729) % {agents} as agent,
                             now() - interval '2 days' + n * (interval '2 days' / {entries}) as at
                      from generate_series(0, {entries} - 1) n
                  )
             insert into audit_log (
                 at, kind, webhook_id, source_id, agent_id, event_id, delivery_id, attempt, status, duration_ms,
                 outcome, end_state, data)
             select d.at, e.kind, case when e.ends then h.webhook_id end, case when not e.ends then a.source_id end,
                    a.agent_id,
                    (t.time || '7' || substr(md5('e' || d.n), 1, 3) || '8' || substr(md5('e' || d.n), 4, 15))::uuid,
                    case when e.ends then
                        (t.time || '8' || substr(md5('d' || d.n), 1, 3) || '8' || substr(md5('d' || d.n), 4, 15))::uuid
                    end,
                    case when e.ends then 1 end, case when e.ends then 204 end, case when e.ends then 20 end,
                    case when e.ends then 'ok' end,
                    case when e.ends then case when d.n % 50 = 0 then 'dead' else 'delivered' end end,
                    '{{}}'
             from delivery d
             join hook h on h.n = d.hook
             join agent a on a.n = d.agent
             cross join lateral (
                 select lpad(to_hex((extract(epoch from d.at) * 1000)::bigint), 12, '0') as time) t
             cross join (values ('EVENT_RECEIVED', false), ('DELIVERY_ATTEMPT', true)) e (kind, ends)
             order by d.n, e.ends",
            hooks = webhooks + 1,
            agents = options.agents,
        ))
        .await?;
    bridge.sql("analyze").await?;
    println!(
        "{} webhooks and {} audit entries inserted in {:.1} s",
        webhooks,
        2 * entries,
        start.elapsed().as_secs_f64()
    );
    let last = bridge.sql("select max(audit_id) from audit_log").await?;
    let last = last.first().and_then(|row| row.first()).context("an empty audit log")?;
    let unsealed =
        format!("select 1 where not exists (select 1 from audit_seal where last_audit_id >= {last})");
    let by = Instant::now() + PATIENCE;
    while !bridge.sql(&unsealed).await?.is_empty() {
        ensure!(Instant::now() < by, "the audit log is not sealed");
        sleep(Duration::from_millis(500)).await;
    }
    println!("  sealed after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

struct Part<'a> {
    watch: Watch,
    options: &'a Options,
    /// A key for each open console.
    keys: Vec<String>,
    /// Changes so far.
    n: usize,
}

impl Part<'_> {
    /// Lets a person look at it.
    async fn look(&mut self) -> anyhow::Result<()> {
        let bridge = &self.watch.bridge;
        let made = bridge.post("/v1/console/login-links", &json!({})).await?;
        let link = made.get("url").and_then(Value::as_str).context("no url in the answer")?;
        println!("http://{}{link}   (Ctrl-C ends it)", bridge.listen);
        let mut interrupted = signal(SignalKind::interrupt())?;
        loop {
            let flow = self.watch.flow(self.options.changes, Duration::from_secs(1), &mut self.n);
            tokio::select! {
                flowed = flow => drop(flowed?),
                _ = interrupted.recv() => return Ok(()),
            }
        }
    }

    /// Reads each page again and again while changes flow.
    async fn pages(&mut self) -> anyhow::Result<()> {
        let paths = self.paths().await?;
        let console = Console::log_in(&self.watch.bridge, API_KEY).await?;
        let (watch, options, done) = (&self.watch, self.options, Cell::new(false));
        let n = Cell::new(self.n);
        let flow = async {
            let mut times = Vec::new();
            while !done.get() {
                let mut from = n.get();
                times.push(watch.flow(options.changes, Duration::from_secs(1), &mut from).await?);
                n.set(from);
            }
            anyhow::Ok(times)
        };
        let read = async {
            let result = read_all(&console, &paths, options.reads).await;
            done.set(true);
            result
        };
        let (flowed, read) = tokio::join!(flow, read);
        flowed?;
        self.n = n.get();
        read
    }

    /// Addresses of the pages, with ids that are there.
    async fn paths(&self) -> anyhow::Result<Vec<String>> {
        let bridge = &self.watch.bridge;
        let first = async |path: &str, field: &str| {
            let page = bridge.api.get(path).await?.json();
            let items = page.get("items").and_then(Value::as_array).with_context(|| format!("{page}"))?;
            let id = items.first().and_then(|item| item.get(field)).and_then(Value::as_str);
            anyhow::Ok(id.with_context(|| format!("{path} is empty"))?.to_owned())
        };
        let delivery = bridge.api.get("/v1/deliveries?state=delivered&limit=1").await?.json();
        let delivery = delivery.pointer("/items/0").context("no delivery")?;
        let of_delivery = |field: &str| delivery.get(field).and_then(Value::as_str).unwrap_or_default();
        let listed = first("/v1/webhooks?limit=2", "id").await?;
        let source = first("/v1/sources?limit=1", "id").await?;
        let agent = self.watch.agents.first().context("no agent")?;
        let words = [
            ("{agent}", agent.as_str()),
            ("{webhook}", of_delivery("webhook_id")),
            ("{listed}", &listed),
            ("{delivery}", of_delivery("id")),
            ("{event}", of_delivery("event_id")),
            ("{source}", &source),
        ];
        let filled = |page: &&str| {
            words.iter().fold((*page).to_owned(), |path, (word, value)| path.replace(word, value))
        };
        Ok(PAGES.iter().map(filled).collect())
    }

    /// Measures the flow without and with open consoles, in turn.
    async fn pairs(&mut self) -> anyhow::Result<()> {
        let mut ratios: [Vec<f64>; 3] = Default::default();
        for pair in 0..self.options.pairs {
            let with_first = pair % 2 == 1;
            let one = self.measure(with_first).await?;
            let other = self.measure(!with_first).await?;
            let (without, with) = if with_first { (other, one) } else { (one, other) };
            for (ratios, (without, with)) in ratios.iter_mut().zip(without.into_iter().zip(with)) {
                ratios.push(with / without);
            }
        }
        for (name, mut ratios) in ["p50", "p99", "CPU of bridge and Postgres"].into_iter().zip(ratios) {
            let each: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
            ratios.sort_by(f64::total_cmp);
            println!("ratio of {name}: median {:.2} of {}", at(&ratios, 0.5), each.join(", "));
        }
        Ok(())
    }

    /// p50, p99 and CPU of the flow, with or without open consoles.
    async fn measure(&mut self, with_consoles: bool) -> anyhow::Result<[f64; 3]> {
        let (watch, options) = (&self.watch, self.options);
        let mut live: Vec<Live> = Vec::new();
        if with_consoles {
            for (key, path) in self.keys.iter().zip(OPEN.iter().cycle()) {
                let key = if options.one_key { API_KEY } else { key };
                live.push(Console::log_in(&watch.bridge, key).await?.follow(path).await?);
            }
        }
        watch.flow(options.changes, WARM_UP, &mut self.n).await?;
        let (time, usage) = (Duration::from_secs(options.seconds), Usage::of(watch.bridge.pid()));
        let times = watch.flow(options.changes, time, &mut self.n).await?;
        let used = usage.until_now();
        let bytes = live.iter().map(Live::bytes).sum::<anyhow::Result<u64>>()?;
        println!(
            "{} consoles: {}; {}; memory {:.1} MiB; {:.0} KiB of live updates",
            live.len(),
            times.describe(),
            used.of_a_core(time),
            watch.bridge.rss_mib(),
            float(bytes) / 1024.0,
        );
        Ok([times.at(0.5), times.at(0.99), float(used.bridge_and_postgres_ms())])
    }
}

/// Reads each page as often as is wanted, one after the other, and prints how long that took.
async fn read_all(console: &Console, paths: &[String], reads: u32) -> anyhow::Result<()> {
    let (mut slowest, mut over, mut failed) = (0.0_f64, Vec::new(), Vec::new());
    for path in paths {
        let (mut times, mut size, mut wrong) = (Vec::new(), 0, None);
        for _ in 0..reads {
            let (status, took, bytes) = console.page(path).await?;
            times.push(took);
            size = bytes;
            wrong = wrong.or((status != 200).then_some(status));
        }
        if let Some(status) = wrong {
            failed.push(format!("{path} answered {status}"));
            continue;
        }
        let times = Times::of(times.into_iter());
        let p95 = times.at(0.95);
        println!(
            "  {path}: p50 {:.1} ms  p95 {p95:.1}  p99 {:.1}  max {:.1}  ({size} bytes)",
            times.at(0.5),
            times.at(0.99),
            times.at(1.0)
        );
        slowest = slowest.max(p95);
        if p95 > P95_MAX_MS {
            over.push(path.as_str());
        }
    }
    println!("slowest p95 of a page: {slowest:.1} ms; over {P95_MAX_MS} ms: {over:?}; failed: {failed:?}");
    Ok(())
}
