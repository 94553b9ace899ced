//! A webhook with millions of open deliveries changes, and the others notice how much: its removal, its
//! disabling by a 410, its resume with batches, and a start of the bridge. Of each the time until it is
//! answered, the deliveries of another webhook meanwhile, and the time until everything is done that follows
//! from it.
//!
//! The open deliveries are inserted by SQL, as an outage of days leaves it: ten deliveries to a lane, of
//! which the first has a date.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use genesys_simulator::crm::{Behaviour, CrmOptions};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::harness::bridge::Launch;
use crate::harness::machine;
use crate::harness::world::World;

/// The webhook whose deliveries are timed.
const WELL: &str = "/b";
/// How long all that follows may take.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How long POSTs to the other webhook may take to arrive.
const POSTS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    #[arg(long, default_value_t = 50)]
    agents: usize,
    /// Open deliveries of the webhook that is removed, of the one that is disabled, and at the start.
    #[arg(long, default_value_t = 2_000_000)]
    open: u64,
    /// Open deliveries of the one that is resumed.
    #[arg(long, default_value_t = 400_000)]
    suspended: u64,
    /// Changes a second, each to the other webhook.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Seconds of the measurement before, and of each one at least.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub async fn run(launch: &Launch, options: &Options) -> anyhow::Result<()> {
    let mut world = World::start(launch, options.agents, CrmOptions::default()).await?;
    machine::print(&world.bridge).await;
    world.register(WELL, json!({})).await?;
    let mut part = Part { world, options, n: 0 };
    part.measure("nothing is open", "select 1 where false").await?;
    part.removal().await?;
    part.disabling().await?;
    part.resume().await?;
    part.start().await?;
    part.world.bridge.stop().await
}

struct Part<'a> {
    world: World,
    options: &'a Options,
    /// Changes so far.
    n: u64,
}

impl Part<'_> {
    async fn removal(&mut self) -> anyhow::Result<()> {
        let hook =
            self.filled("/removed", json!({}), "(now() + interval '1 hour')", self.options.open).await?;
        let answer = Instant::now();
        let reply = self.world.bridge.api.delete(&format!("/v1/webhooks/{hook}")).await?;
        println!("DELETE: answered {} after {}", reply.status, millis(answer.elapsed()));
        self.measure("until all have ended", &any_open(&hook)).await
    }

    /// Its receiver answers a test with 410.
    async fn disabling(&mut self) -> anyhow::Result<()> {
        let path = "/disabled";
        self.world.crm.always(path, Behaviour::status(410));
        let hook = self.filled(path, json!({}), "(now() + interval '1 hour')", self.options.open).await?;
        let asked = Instant::now();
        self.world.bridge.post(&format!("/v1/webhooks/{hook}/test"), &json!({})).await?;
        while self.state(&hook).await? != "disabled" {
            ensure!(asked.elapsed() < PATIENCE, "it is not disabled");
            sleep(Duration::from_millis(5)).await;
        }
        println!("410: disabled after {}", millis(asked.elapsed()));
        self.measure("until all have ended", &any_open(&hook)).await?;
        self.forget(&hook).await
    }

    async fn resume(&mut self) -> anyhow::Result<()> {
        let batch = json!({"batch": {"max_items": 1000, "max_wait_ms": 0}});
        let hook = self.filled("/resumed", batch, "'infinity'", self.options.suspended).await?;
        let asked = Instant::now();
        self.world.bridge.post(&format!("/v1/webhooks/{hook}/resume"), &json!({})).await?;
        println!("resume with batches: answered after {}", millis(asked.elapsed()));
        let suspended =
            format!("select 1 from delivery where webhook_id = '{hook}' and due_at = 'infinity' limit 1");
        self.measure("until none is suspended", &suspended).await?;
        // Their events are gone, so each ends unsent.
        self.measure("until all have ended", &any_open(&hook)).await?;
        self.forget(&hook).await
    }

    /// The bridge is killed and started again while a paused webhook has very much open.
    async fn start(&mut self) -> anyhow::Result<()> {
        let hook = self.filled("/paused", json!({}), "'infinity'", self.options.open).await?;
        self.world.bridge.kill().await?;
        let started = Instant::now();
        self.world.bridge.start_again()?;
        self.world.bridge.ready(PATIENCE).await?;
        println!("start: ready after {}", millis(started.elapsed()));
        let agents = self.options.agents;
        let seen = self.world.genesys.wait_until(|seen| seen.connected() == agents, PATIENCE).await;
        ensure!(seen.is_ok(), "the sockets did not open");
        self.measure("after it", "select 1 where false").await?;
        self.forget(&hook).await
    }

    /// Registers a webhook that no change matches, pauses it, opens `many` deliveries of it, and leaves it
    /// paused if they are suspended; gives its id.
    async fn filled(
        &mut self,
        path: &str,
        mut settings: Value,
        due_at: &str,
        many: u64,
    ) -> anyhow::Result<String> {
        if let Some(fields) = settings.as_object_mut() {
            fields.insert("agents".to_owned(), json!(["nobody"]));
        }
        let hook = self.world.register(path, settings).await?;
        if due_at == "'infinity'" {
            self.world.bridge.post(&format!("/v1/webhooks/{hook}/pause"), &json!({})).await?;
        }
        let batched = path == "/resumed";
        let dated = if batched { "true" } else { "n % 10 = 0" };
        let start = Instant::now();
        self.world
            .bridge
            .sql(&format!(
                "insert into delivery (
                     delivery_id, webhook_id, lane, position, event_id, event_received_at, due_at, created_at)
                 select gen_random_uuid(), '{hook}', 1000000 + n / 10, n, gen_random_uuid(),
                        now() - interval '1 hour', case when {dated} then {due_at}::timestamptz end, now() - interval '1 hour'
                 from generate_series(0, {many} - 1) n"
            ))
            .await?;
        self.world.bridge.sql("analyze delivery").await?;
        println!("{path}: {many} open deliveries, inserted in {:.1} s", start.elapsed().as_secs_f64());
        Ok(hook)
    }

    /// Changes at the rate until the query gives nothing, and for the measurement's time at least.
    async fn measure(&mut self, what: &str, left: &str) -> anyhow::Result<()> {
        let (world, options, first) = (&self.world, self.options, self.n);
        let (start, done, n) = (Instant::now(), Cell::new(false), Cell::new(first));
        let play = async {
            let mut ticks = interval(Duration::from_secs(1) / options.rate.max(1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (mut from, mut to) = (None, 0);
            while !done.get() || n.get() - first < u64::from(options.rate) * options.seconds {
                ticks.tick().await;
                to = world.change(n.get());
                from = from.or(Some(to));
                n.set(n.get() + 1);
            }
            (from.unwrap_or(to + 1), to)
        };
        let watch = async {
            let result = async {
                while !world.bridge.sql(left).await?.is_empty() {
                    ensure!(start.elapsed() < PATIENCE, "{what}: it takes more than {PATIENCE:?}");
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(start.elapsed())
            };
            let result = result.await;
            done.set(true);
            result
        };
        let ((from, to), took) = tokio::join!(play, watch);
        let took = took?;
        self.n = n.get();
        let wanted = self.n - first;
        let times = world.times(&(from..=to), |path| path == WELL, wanted, POSTS_WITHIN).await;
        let times = times.with_context(|| what.to_owned())?;
        println!("  {what}: {:.1} s; {WELL} meanwhile: {}", took.as_secs_f64(), times.describe());
        world.crm.forget();
        Ok(())
    }

    async fn state(&self, hook: &str) -> anyhow::Result<String> {
        let webhook = self.world.bridge.api.get(&format!("/v1/webhooks/{hook}")).await?.json();
        Ok(webhook.get("state").and_then(Value::as_str).context("no state in the answer")?.to_owned())
    }

    /// Removes a webhook and waits until nothing of it is open.
    async fn forget(&self, hook: &str) -> anyhow::Result<()> {
        let reply = self.world.bridge.api.delete(&format!("/v1/webhooks/{hook}")).await?;
        ensure!(reply.status == 204, "DELETE answered {}: {}", reply.status, reply.excerpt());
        let by = Instant::now() + PATIENCE;
        while !self.world.bridge.sql(&any_open(hook)).await?.is_empty() {
            ensure!(Instant::now() < by, "something of {hook} is still open");
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }
}

fn any_open(hook: &str) -> String {
    format!("select 1 from delivery where webhook_id = '{hook}' limit 1")
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
