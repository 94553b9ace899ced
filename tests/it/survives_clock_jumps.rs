//! The clock of the bridge's machine jumps, in both directions: nothing comes early, late, twice or out of
//! order.
//!
//! libfaketime stands between the bridge's process and its wall clock; the monotonic clock is left alone, as
//! a jump leaves it. Postgres, the simulator and the receiver keep the true clock.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use genesys_simulator::clock::rfc3339_ms;
use genesys_simulator::cloud::Place;
use genesys_simulator::crm::check::Findings;
use genesys_simulator::crm::{Behaviour, Post};
use serde_json::json;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::support::cloud::{CloudWorld, options};
use crate::support::crowd::{Crowd, ended_twice};
use crate::support::look::{all, assert_sequences_have_no_holes, feed};
use crate::support::{Bridge, SOON, database, eventually};

const HOUR: i64 = 3600;
const DAYS: i64 = 3 * 24 * HOUR;
/// Wait after a first failure, and how long a state must last at the webhook that wants so.
const WAIT: Duration = Duration::from_secs(4);
const DEBOUNCE: Duration = Duration::from_secs(2);
/// How far an attempt may be from its planned time.
const ERROR_MAX: Duration = Duration::from_secs(2);
const STATES: [&str; 2] = ["BUSY", "AWAY"];

/// A wall clock that is moved while a process looks at it.
struct FakeClock {
    dir: TempDir,
    library: String,
}

impl FakeClock {
    /// One that is that many seconds ahead of the true clock.
    fn ahead_by(seconds: i64) -> Self {
        let dir = tempfile::Builder::new().prefix("pb-clock-").tempdir().unwrap();
        let clock = Self { dir, library: library() };
        clock.set(seconds);
        clock
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Jumps. The file is exchanged whole: a half-written one would be a jump of its own.
    fn set(&self, seconds: i64) {
        std::fs::write(self.file("next"), format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(self.file("next"), self.file("now")).unwrap();
    }

    /// Variables for the process.
    fn variables(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file("now")),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Where the library lies that moves a process' clock.
fn library() -> String {
    let name = "faketime/libfaketimeMT.so.1";
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let dirs = dirs.chain(["/usr/lib64", "/usr/local/lib"].map(PathBuf::from));
    let found = dirs.chain([PathBuf::from("/usr/lib")]).map(|dir| dir.join(name)).find(|path| path.exists());
    let found = found.expect(
        "libfaketime is missing, which moves a process' clock for this test: run scripts/setup test, or install your \
         system's package of it (Debian: faketime)",
    );
    found.to_str().unwrap().to_owned()
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// Waits until the process sees the clock that it was given, of which its HTTP answers tell: else all this
/// proves nothing.
async fn lives_by(bridge: &Bridge, ahead: i64) {
    eventually("the process sees the clock that it was given", || async {
        let answer = bridge.send_raw("GET", "/healthz", &[], None).await;
        let told = answer.headers.get("date")?.to_str().ok()?;
        let seen = OffsetDateTime::parse(told, &Rfc2822).ok()? - OffsetDateTime::now_utc();
        ((seen - time::Duration::seconds(ahead)).unsigned_abs() < Duration::from_secs(30)).then_some(())
    })
    .await;
}

/// What was asked of upstream so far: tokens, channels, sockets.
fn asked(world: &CloudWorld) -> (u64, u64, u64, u64) {
    let seen = world.cloud.snapshot();
    let tally = &seen.tally;
    (seen.requests(Place::Login), tally.tokens_issued, tally.channels_made, tally.sockets_opened)
}

/// How far apart two times are, whichever is first.
fn apart(one: Duration, other: Duration) -> Duration {
    one.abs_diff(other)
}

/// Jumps from each of these (seconds ahead of the true clock) to the next, while a retry and a debounced
/// state are pending and changes flow, and proves that nobody notices.
async fn nobody_notices(jumps: &[i64]) {
    let began = OffsetDateTime::now_utc();
    let clock = FakeClock::ahead_by(jumps[0]);
    let agents = ["ann", "bob", "cid"];
    let list = agents.join(",");
    let mut variables = clock.variables();
    variables.push(("GENESYS_AGENTS".to_owned(), list));
    let world = CloudWorld::starting(options(&agents), &borrowed(&variables)).await;
    world.sees(agents.len()).await;
    let retries = json!({"retry_schedule_seconds": [WAIT.as_secs(), 60, 60], "max_age_seconds": 600});
    world.register("/hooks/fails", retries.clone()).await;
    world.register("/hooks/flows", retries).await;
    let dwells = json!({"min_dwell_ms": DEBOUNCE.as_millis(), "agents": ["ann"], "max_age_seconds": 600});
    world.register("/hooks/dwells", dwells).await;
    let asked_before = asked(&world);
    let mut sent = Vec::new();
    for (jump, state) in jumps[1..].iter().zip(STATES.iter().cycle()) {
        let posts_before = world.crm.received("/hooks/fails").len();
        world.crm.next("/hooks/fails", [Behaviour::status(503)]);
        let change = world.cloud.set_presence("ann", state).await;
        sent.push(change.number);
        let first =
            world.crm.wait_until(|posts| of(posts, "/hooks/fails").len() > posts_before, SOON).await.unwrap();
        let refused = of(&first, "/hooks/fails")[posts_before].clone();
        world.bridge_waits(refused.webhook_id()).await;

        clock.set(*jump);

        for n in 0..20 {
            for agent in ["bob", "cid"] {
                sent.push(world.cloud.push_presence(agent, STATES[n % 2]));
            }
            // Spread over the wait, so that some meet each side of whatever the jump does.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        lives_by(&world.bridge, *jump).await;
        let told = |posts: &[Arc<Post>], path: &str| {
            of(posts, path).into_iter().find(|p| p.n() == Some(change.number) && p.accepted())
        };
        let posts = world
            .crm
            .wait_until(
                |posts| told(posts, "/hooks/fails").is_some() && told(posts, "/hooks/dwells").is_some(),
                SOON,
            )
            .await
            .unwrap_or_else(|_| panic!("after a jump to {jump} s what was planned does not come"));
        let retried = told(&posts, "/hooks/fails").unwrap();
        assert_eq!(retried.webhook_id(), refused.webhook_id());
        let waited = retried.arrived - refused.arrived;
        assert!(apart(waited, WAIT) <= ERROR_MAX, "after a jump to {jump} s it was retried after {waited:?}");
        let dwelt = told(&posts, "/hooks/dwells").unwrap().arrived - change.sent;
        assert!(apart(dwelt, DEBOUNCE) <= ERROR_MAX, "after a jump to {jump} s a state dwelt {dwelt:?}");
    }
    let pool = database::pool(&world.bridge.database_url).await;
    eventually("nothing is pending", || async {
        let open: i64 = sqlx::query_scalar("select count(*) from delivery").fetch_one(&pool).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
    for (path, planned) in [("/hooks/fails", jumps.len() - 1), ("/hooks/flows", 0)] {
        let posts = world.crm.received(path);
        let findings = Findings::of(&posts, sent.iter().copied());
        assert!(findings.is_clean(), "{path}: {findings:#?}");
        assert_eq!(posts.len(), sent.len() + planned, "{path}: each once, but for the planned retries");
    }
    assert_eq!(asked(&world), asked_before, "upstream notices nothing");
    assert_eq!(ended_twice(&pool).await, []);
    for kind in ["ATTEMPT_LOST", "GAP_DETECTED", "ACTOR_RESTARTED"] {
        assert_eq!(all(&world.bridge, &format!("/v1/audit?kind={kind}")).await.len(), 0, "{kind}");
    }
    // What happened is found by its true time, in its order.
    let mut events = feed(&world.bridge).await;
    assert_sequences_have_no_holes(&events);
    events.retain(|event| event["origin"] == "live");
    assert_eq!(events.len(), sent.len());
    let span = |kind: &str| {
        let (since, until) =
            (rfc3339_ms(began), rfc3339_ms(OffsetDateTime::now_utc() + Duration::from_secs(1)));
        format!("/v1/audit?kind={kind}&since={since}&until={until}")
    };
    let told = all(&world.bridge, &span("EVENT_RECEIVED")).await;
    let told: BTreeMap<_, _> = told.iter().map(|entry| (entry["event_id"].to_string(), ())).collect();
    assert!(
        events.iter().all(|event| told.contains_key(&event["event_id"].to_string())),
        "found by its time"
    );
    let astray: i64 =
        sqlx::query_scalar("select count(*) from event_default").fetch_one(&pool).await.unwrap();
    assert_eq!(astray, 0, "each day has its partition");
}

fn of(posts: &[Arc<Post>], path: &str) -> Vec<Arc<Post>> {
    posts.iter().filter(|post| post.path() == path).cloned().collect()
}

impl CloudWorld {
    /// Waits until a delivery waits for its next attempt.
    async fn bridge_waits(&self, delivery: &str) {
        eventually("it waits for its next attempt", || async {
            let delivery = self.bridge.get(&format!("/v1/deliveries/{delivery}")).await.json();
            (delivery["state"] == "waiting" && delivery["attempts_begun"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_clock_jumps_by_an_hour_or_a_second() {
    nobody_notices(&[0, HOUR, 0, -HOUR, 0, -1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_that_the_clock_jumps_by_three_days() {
    nobody_notices(&[0, DAYS, 0, -DAYS, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_clock_three_days_ahead_drops_nothing_and_signs_with_the_true_time() {
    let database_url = database::create().await;
    let pool = database::pool(&database_url).await;
    let made = |days: i32| {
        let make = "select make_day_partitions((now() - $1 * interval '1 day')::date, 3)";
        sqlx::query(make).bind(days).execute(&pool)
    };
    made(2).await.unwrap();
    let days = || async {
        let kept = "select count(*) from pg_inherits where inhparent = 'event'::regclass
                    and inhrelid::regclass::text in ('event_' || to_char(now() at time zone 'utc', 'YYYYMMDD'),
                        'event_' || to_char(now() at time zone 'utc' - interval '1 day', 'YYYYMMDD'))";
        sqlx::query_scalar::<_, i64>(kept).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(days().await, 2);
    let clock = FakeClock::ahead_by(DAYS);
    let mut variables = clock.variables();
    variables.push(("BRIDGE_RETENTION_DAYS".to_owned(), "1".to_owned()));
    let crowd = Crowd::on(&database_url, 1, &borrowed(&variables)).await;
    lives_by(&crowd.bridge, DAYS).await;
    let hook = crowd.register("/hooks/a", json!({})).await;
    let asked = crowd.bridge.post(&format!("/v1/webhooks/{hook}/test"), &json!({})).await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    let posts = crowd.crm.wait_for(1, SOON).await.unwrap();
    assert_eq!(*posts[0].verdict, Ok(()), "a receiver with the true clock trusts it");
    eventually("the retention job has been", || async {
        crowd.bridge.log().contains("day partitions").then_some(())
    })
    .await;
    assert_eq!(days().await, 2, "retention goes by the true day");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_with_the_true_clock_does_not_take_what_is_in_the_hands_of_one_whose_clock_is_behind() {
    for offset in [-HOUR, HOUR] {
        let clock = FakeClock::ahead_by(0);
        let database_url = database::create().await;
        let crowd = Crowd::on(&database_url, 1, &borrowed(&clock.variables())).await;
        let neighbour = Bridge::start_on(&database_url, &[]).await;
        clock.set(offset);
        lives_by(&crowd.bridge, offset).await;
        for (path, bridge) in [("/hooks/a", &crowd.bridge), ("/hooks/b", &neighbour)] {
            let hook = crowd.register(path, json!({})).await;
            // Longer than a lease: who counts as dead is found out meanwhile.
            crowd.crm.always(path, Behaviour::status(204).after(Duration::from_secs(9)));
            let asked = bridge.post(&format!("/v1/webhooks/{hook}/test"), &json!({})).await;
            assert_eq!(asked.status, 202, "{}", asked.text());
        }
        crowd.drained().await;
        assert_eq!(crowd.crm.count(), 2, "each once, with a clock that is {offset} s ahead");
        assert_eq!(all(&neighbour, "/v1/audit?kind=ATTEMPT_LOST").await.len(), 0);
        drop(neighbour);
    }
}
