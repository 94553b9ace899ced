//! The rules of the original specification (docs/realtime.md) and the guards against its defects: lists of
//! inputs and the effects that must follow.

use bytes::Bytes;
use time::macros::datetime;

use super::*;
use crate::domain::presence::connection::{CloseCause, MalformedReason};
use crate::genesys::protocol::{Frame, KeepaliveConfig, Provisioned, Standing};
use crate::genesys::socket::Closed;

/// Protocol `realtime` with a heartbeat of 15 s.
const REALTIME: KeepaliveConfig = KeepaliveConfig {
    silence: Duration::from_secs(35),
    ping_every: Duration::from_millis(7_500),
    ping_text: None,
    probe_every: None,
    resync: false,
};

/// A session with a clock of its own.
struct Story {
    session: Session,
    start: Instant,
    passed: Duration,
    jitter: f64,
}

impl Story {
    fn new() -> Self {
        Self::with_leftovers(&[])
    }

    fn with_leftovers(leftovers: &[&str]) -> Self {
        let leftovers = leftovers.iter().map(|id| (*id).to_owned()).collect();
        Self::with_keepalive(REALTIME, leftovers)
    }

    fn with_keepalive(keepalive: KeepaliveConfig, leftovers: Vec<String>) -> Self {
        let session = Session::new(keepalive, leftovers);
        Self { session, start: Instant::now(), passed: Duration::ZERO, jitter: 0.0 }
    }

    fn now(&self) -> Now {
        Now { at: datetime!(2026-11-23 15:00 UTC) + self.passed, tick: self.start + self.passed }
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.passed += Duration::from_secs(seconds);
        self
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        let now = self.now();
        self.session.on(self.session.epoch(), input, now, self.jitter)
    }

    fn on_old(&mut self, epoch: u64, input: Input) -> Vec<Effect> {
        let now = self.now();
        self.session.on(epoch, input, now, self.jitter)
    }

    /// Goes on to an open socket on the upstream connection `id`, deleting what has to be deleted.
    fn open(&mut self, id: &str) -> &mut Self {
        if self.session.phase() == Phase::Idle {
            self.on(Input::Start);
        } else {
            self.on(Input::Timer(Timer::Retry));
        }
        let serial = self.session.token.unwrap_or(1);
        self.on(Input::Token(Ok(serial)));
        if self.session.phase() == Phase::Verify {
            self.on(Input::Verified(Ok("user".to_owned())));
        }
        if self.session.phase() == Phase::Clean {
            let results = self.session.stale().iter().map(|id| (id.clone(), Ok(()))).collect();
            self.on(Input::Deleted(results));
        }
        self.on(Input::Provisioned(Ok(made(id))));
        self.on(Input::Dialled(Ok(())));
        assert_eq!(self.session.phase(), Phase::Open);
        self
    }
}

fn made(id: &str) -> Provisioned {
    Provisioned {
        upstream_id: id.to_owned(),
        socket_url: crate::domain::secret::Secret::new("wss://x"),
        lifetime: None,
        rejected: Vec::new(),
    }
}

fn error(kind: ErrorKind) -> UpstreamError {
    UpstreamError { kind, status: None, what: "it failed".to_owned() }
}

fn closed(code: u16) -> Input {
    Input::Closed(Closed { code, reason: String::new(), violation: false })
}

fn kinds(effects: &[Effect]) -> Vec<Kind> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Audit(entry) = e { Some(entry.kind) } else { None })
        .collect()
}

fn retry_in(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(
        |e| {
            if let Effect::SetTimer(Timer::Retry, after) = e { Some(*after) } else { None }
        },
    )
}

macro_rules! assert_some_effect {
    ($effects:expr, $pattern:pat $(if $guard:expr)?) => {
        let effects = &$effects;
        assert!(effects.iter().any(|effect| matches!(effect, $pattern $(if $guard)?)), "{effects:?}");
    };
}

#[test]
fn the_steps_come_in_the_specified_order() {
    let mut story = Story::new();
    assert_some_effect!(story.on(Input::Start), Effect::GetToken { instead_of: None });
    assert_some_effect!(story.on(Input::Token(Ok(1))), Effect::Verify);
    assert_some_effect!(story.on(Input::Verified(Ok("user".to_owned()))), Effect::Provision);
    assert_some_effect!(story.on(Input::Provisioned(Ok(made("a")))), Effect::Dial(_));
    let opened = story.on(Input::Dialled(Ok(())));
    assert_eq!(kinds(&opened), [Kind::WsOpen]);
    assert_eq!((story.session.phase(), story.session.upstream_id()), (Phase::Open, Some("a")));
}

#[test]
fn every_close_that_we_did_not_ask_for_is_followed_by_another_try() {
    for code in [1000, 1001, 1005, 1006, 1011, 1012, 4999] {
        let mut story = Story::new();
        let effects = story.open("a").on(closed(code));
        assert_eq!(kinds(&effects), [Kind::WsClose, Kind::ReconnectScheduled], "{code}");
        assert_eq!(retry_in(&effects), Some(Duration::from_secs(1)), "{code}");
        assert_some_effect!(effects, Effect::GapOpened { cause: GapCause::SocketClosed, .. });
    }
}

#[test]
fn delays_grow_by_the_seeds_formula_and_never_end() {
    let mut story = Story::new();
    story.on(Input::Start);
    let mut delays = Vec::new();
    for _ in 0..7 {
        let failed = story.on(Input::Token(Err(error(ErrorKind::Transport))));
        delays.extend(retry_in(&failed).map(|delay| delay.as_secs()));
        story.on(Input::Timer(Timer::Retry));
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn attempts_count_from_zero_only_after_a_healthy_minute() {
    let mut story = Story::new();
    story.open("a").on(closed(1006));
    let soon = story.open("b").wait(59).on(closed(1006));
    assert_eq!(retry_in(&soon), Some(Duration::from_secs(2)), "an open socket alone resets nothing");
    story.open("c").wait(60).on(Input::Timer(Timer::Healthy));
    assert_eq!(retry_in(&story.on(closed(1006))), Some(Duration::from_secs(1)));
}

#[test]
fn a_failed_handshake_is_tried_again_with_another_connection() {
    let mut story = Story::new();
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    story.on(Input::Verified(Ok("user".to_owned())));
    story.on(Input::Provisioned(Ok(made("a"))));
    let failed = story.on(Input::Dialled(Err(error(ErrorKind::Transport))));
    assert_eq!(kinds(&failed), [Kind::WsInitError, Kind::ReconnectFailed, Kind::ReconnectScheduled]);
    story.on(Input::Timer(Timer::Retry));
    assert_some_effect!(story.on(Input::Token(Ok(1))), Effect::Delete(ids) if ids == &["a"]);
    assert_some_effect!(story.on(Input::Deleted(vec![("a".to_owned(), Ok(()))])), Effect::Provision);
}

#[test]
fn each_reconnect_deletes_what_it_replaces() {
    let mut story = Story::new();
    story.open("a").on(closed(1006));
    story.on(Input::Timer(Timer::Retry));
    assert_some_effect!(story.on(Input::Token(Ok(1))), Effect::Delete(ids) if ids == &["a"]);
    let deleted = story.on(Input::Deleted(vec![("a".to_owned(), Ok(()))]));
    assert_eq!(kinds(&deleted), [Kind::UpstreamDeleted]);
    assert!(story.session.stale().is_empty());
}

#[test]
fn what_could_not_be_deleted_is_remembered() {
    let mut story = Story::with_leftovers(&["old"]);
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    story.on(Input::Verified(Ok("user".to_owned())));
    let failed = story.on(Input::Deleted(vec![("old".to_owned(), Err(error(ErrorKind::Status)))]));
    assert_eq!(kinds(&failed), [Kind::UpstreamDeleteFailed]);
    assert_some_effect!(failed, Effect::Provision);
    assert_eq!(story.session.stale(), ["old"]);
}

#[test]
fn a_401_brings_one_new_token_and_then_patience() {
    let mut story = Story::new();
    story.open("a").on(closed(1006));
    story.on(Input::Timer(Timer::Retry));
    story.on(Input::Token(Ok(1)));
    story.on(Input::Deleted(vec![("a".to_owned(), Ok(()))]));
    let expired = story.on(Input::Provisioned(Err(error(ErrorKind::Unauthorized))));
    assert_some_effect!(expired, Effect::GetToken { instead_of: Some(1) });
    assert_some_effect!(story.on(Input::Token(Ok(2))), Effect::Verify);
    story.on(Input::Verified(Ok("user".to_owned())));
    let again = story.on(Input::Provisioned(Err(error(ErrorKind::Unauthorized))));
    assert!(retry_in(&again).is_some(), "no second refresh in one try: {again:?}");
}

#[test]
fn a_token_is_verified_once() {
    let mut story = Story::new();
    story.open("a").on(closed(1006));
    story.on(Input::Timer(Timer::Retry));
    let known = story.on(Input::Token(Ok(1)));
    assert!(!known.iter().any(|effect| matches!(effect, Effect::Verify)), "{known:?}");
}

#[test]
fn a_403_is_final_but_for_a_slow_timer() {
    let mut story = Story::new();
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    let refused = story.on(Input::Verified(Err(error(ErrorKind::Forbidden))));
    assert_eq!(kinds(&refused), [Kind::ConnectionRefused]);
    assert_eq!(retry_in(&refused), Some(REFUSED_RETRY));
    assert_eq!(story.session.phase().state().as_str(), "refused");
    assert!(story.session.reason().is_some());
}

#[test]
fn at_the_limit_only_our_own_leftovers_are_deleted() {
    let mut story = Story::with_leftovers(&["ours", "gone"]);
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    story.on(Input::Verified(Ok("user".to_owned())));
    let failed = |id: &str| (id.to_owned(), Err(error(ErrorKind::Status)));
    story.on(Input::Deleted(vec![failed("ours"), failed("gone")]));
    assert_some_effect!(story.on(Input::Provisioned(Err(error(ErrorKind::Limit)))), Effect::List);
    let listing = Listing {
        existing: ["ours", "another's", "lost"].map(str::to_owned).to_vec(),
        lost: vec!["lost".to_owned()],
    };
    let listed = story.on(Input::Listed(Ok(listing)));
    assert_eq!(kinds(&listed), [Kind::LimitMet]);
    assert_some_effect!(listed, Effect::Delete(ids) if ids == &["ours", "lost"]);
    let deleted = |id: &str| (id.to_owned(), Ok(()));
    let backed_off = story.on(Input::Deleted(vec![deleted("ours"), deleted("lost")]));
    assert!(retry_in(&backed_off).is_some());
    assert!(story.session.stale().is_empty());
}

#[test]
fn a_rate_limit_is_obeyed() {
    let mut story = Story::new();
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    let limited = ErrorKind::RateLimited(Some(Duration::from_secs(90)));
    assert_eq!(retry_in(&story.on(Input::Verified(Err(error(limited))))), Some(Duration::from_secs(90)));
}

#[test]
fn json_pings_are_answered_and_pongs_that_nobody_asked_for_measure_nothing() {
    let mut story = Story::new();
    let ping = Frame::Ping { answer: "pong!".to_owned() };
    assert_some_effect!(story.open("a").on(Input::Text(String::new(), ping)), Effect::SendText(text) if text == "pong!");
    story.on(Input::Text(String::new(), Frame::Pong));
    story.on(Input::Ponged(Bytes::from_static(b"unasked")));
    assert_eq!(story.session.latency().samples(), 0);
}

#[test]
fn a_round_trip_is_measured_from_our_ping_to_its_pong() {
    let mut story = Story::new();
    let effects = story.open("a").on(Input::Timer(Timer::Ping));
    let payload = effects.iter().find_map(|e| if let Effect::Ping(p) = e { Some(p.clone()) } else { None });
    story.passed += Duration::from_millis(120);
    story.on(Input::Ponged(payload.clone().unwrap()));
    story.on(Input::Ponged(payload.unwrap()));
    let latency = story.session.latency();
    assert_eq!((latency.samples(), latency.average_ms()), (1, 120.0));
}

#[test]
fn silence_is_death_after_two_heartbeats_and_five_seconds() {
    let mut story = Story::new();
    let update = || Input::Text("{}".to_owned(), Frame::Update(Box::default()));
    story.open("a").wait(20).on(update());
    let early = story.wait(15).on(Input::Timer(Timer::Watchdog));
    assert_some_effect!(early, Effect::SetTimer(Timer::Watchdog, rest) if *rest == Duration::from_secs(20));
    let dead = story.wait(20).on(Input::Timer(Timer::Watchdog));
    assert_eq!(kinds(&dead), [Kind::HeartbeatMissed, Kind::ReconnectScheduled]);
    assert_some_effect!(dead, Effect::Drop);
    let from = datetime!(2026-11-23 15:00:19 UTC);
    assert_some_effect!(dead, Effect::GapOpened { from: at, cause: GapCause::Silence } if *at == from);
}

#[test]
fn terminating_closes_deletes_and_tells() {
    let mut story = Story::new();
    let effects = story.open("a").on(Input::Terminate(CloseCause::Terminated));
    assert_some_effect!(effects, Effect::Close(1000, "Client initiated shutdown"));
    assert_some_effect!(effects, Effect::ShutDown(ids) if ids == &["a"]);
    story.on(Input::Deleted(vec![("a".to_owned(), Ok(()))]));
    let over = story.on(Input::ShutDown);
    assert_eq!(kinds(&over), [Kind::ConnectionTerminated]);
    assert_some_effect!(over, Effect::Finished);
    assert_eq!(story.session.phase().state().as_str(), "terminated");
}

#[test]
fn no_timer_resurrects_a_terminated_connection() {
    let mut story = Story::new();
    story.open("a").on(closed(1006));
    let backing_off = story.session.epoch();
    story.on(Input::Terminate(CloseCause::Terminated));
    assert!(story.on_old(backing_off, Input::Timer(Timer::Retry)).is_empty());
    assert!(story.on(Input::Timer(Timer::Retry)).is_empty());
    story.on(Input::ShutDown);
    assert!(story.on(Input::Timer(Timer::Retry)).is_empty());
    assert!(story.on(Input::Terminate(CloseCause::Terminated)).is_empty());
}

#[test]
fn a_connection_that_was_made_too_late_is_deleted_again() {
    let mut story = Story::new();
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    story.on(Input::Verified(Ok("user".to_owned())));
    let asked_in = story.session.epoch();
    let ending = story.on(Input::Terminate(CloseCause::Terminated));
    assert!(
        !ending.iter().any(|effect| matches!(effect, Effect::ShutDown(_))),
        "the end waits for the answer: {ending:?}"
    );
    let late = story.on_old(asked_in, Input::Provisioned(Ok(made("late"))));
    assert_some_effect!(late, Effect::ShutDown(ids) if ids == &["late"]);
    assert_eq!(story.session.stale(), ["late"]);
}

#[test]
fn a_provisioning_that_fails_late_lets_the_end_go_on() {
    let mut story = Story::new();
    story.on(Input::Start);
    story.on(Input::Token(Ok(1)));
    story.on(Input::Verified(Ok("user".to_owned())));
    let asked_in = story.session.epoch();
    story.on(Input::Terminate(CloseCause::Replaced));
    let late = story.on_old(asked_in, Input::Provisioned(Err(error(ErrorKind::TimedOut))));
    assert_some_effect!(late, Effect::ShutDown(ids) if ids.is_empty());
    assert_some_effect!(story.on(Input::ShutDown), Effect::Finished);
}

#[test]
fn what_never_started_can_be_cleaned_up_after() {
    let mut story = Story::with_leftovers(&["old"]);
    assert_some_effect!(
        story.on(Input::Terminate(CloseCause::Terminated)),
        Effect::ShutDown(ids) if ids == &["old"]
    );
}

#[test]
fn clients_that_are_told_to_wait_the_same_do_not_come_back_together() {
    let wait_with = |jitter| {
        let mut story = Story::new();
        story.jitter = jitter;
        story.on(Input::Start);
        let limited = ErrorKind::RateLimited(Some(Duration::from_secs(60)));
        retry_in(&story.on(Input::Token(Err(error(limited))))).unwrap()
    };
    assert_eq!(wait_with(0.0), Duration::from_secs(60));
    assert_eq!(wait_with(0.5), Duration::from_secs(63));
}

#[test]
fn frames_of_a_socket_that_was_left_count_for_nothing() {
    let mut story = Story::new();
    let first = story.open("a").session.epoch();
    story.on(closed(1006));
    story.open("b");
    let update = Input::Text("{}".to_owned(), Frame::Update(Box::default()));
    assert!(story.on_old(first, update).is_empty());
    assert!(story.on_old(first, closed(1000)).is_empty());
    assert_eq!(story.session.phase(), Phase::Open);
}

#[test]
fn no_room_for_updates_costs_the_socket_and_is_told() {
    let mut story = Story::new();
    let effects = story.open("a").on(Input::QueueFull);
    assert_eq!(kinds(&effects), [Kind::Backpressure, Kind::ReconnectScheduled]);
    assert_some_effect!(effects, Effect::GapOpened { cause: GapCause::Backpressure, .. });
}

#[test]
fn a_gap_for_want_of_room_begins_before_the_update_that_was_lost() {
    let mut story = Story::new();
    let update = Input::Text("{}".to_owned(), Frame::Update(Box::default()));
    story.open("a").wait(10).on(update);
    let lost = story.on(Input::QueueFull);
    let from = datetime!(2026-11-23 15:00:09 UTC);
    assert_some_effect!(lost, Effect::GapOpened { from: at, .. } if *at == from);
}

#[test]
fn malformed_frames_are_kept_with_their_bytes() {
    let mut story = Story::new();
    story.open("a");
    let kept =
        story.on(Input::Text("hello".to_owned(), Frame::Malformed { reason: MalformedReason::NotJson }));
    assert_eq!(kinds(&kept), [Kind::FrameRejected]);
    assert!(format!("{kept:?}").contains("hello"));
    let binary = story.on(Input::Binary(Bytes::from_static(&[0, 159, 146, 150])));
    assert_some_effect!(binary, Effect::Audit(entry) if *entry.kept.as_ref().unwrap().bytes == [0, 159, 146, 150]);
}

/// A platform that takes every step, closes the socket as soon as it is open, and lets nothing be deleted: an
/// hour of it.
#[test]
fn a_platform_that_closes_at_once_for_an_hour_is_asked_ever_more_rarely_and_costs_little() {
    let mut story = Story::new();
    story.jitter = 0.5;
    let (mut dialled, mut gaps, mut entries, mut longest) = (0_u32, 0_u32, 0_usize, Duration::ZERO);
    while story.passed < Duration::from_secs(3600) {
        let input = if dialled == 0 { Input::Start } else { Input::Timer(Timer::Retry) };
        let mut effects = story.on(input);
        effects.extend(story.on(Input::Token(Ok(1))));
        effects.extend(story.on(Input::Verified(Ok("user".to_owned()))));
        if story.session.phase() == Phase::Clean {
            let refused = |id: &String| (id.clone(), Err(error(ErrorKind::Status)));
            let results = story.session.stale().iter().map(refused).collect();
            effects.extend(story.on(Input::Deleted(results)));
        }
        dialled += 1;
        effects.extend(story.on(Input::Provisioned(Ok(made(&format!("c-{dialled}"))))));
        effects.extend(story.on(Input::Dialled(Ok(()))));
        assert_eq!(story.session.phase(), Phase::Open, "try {dialled}");
        let end = story.on(closed(1000));
        gaps += u32::try_from(end.iter().filter(|e| matches!(e, Effect::GapOpened { .. })).count()).unwrap();
        let wait = retry_in(&end).expect("another try");
        assert!(wait <= Duration::from_secs(30), "{wait:?}");
        longest = longest.max(wait);
        effects.extend(end);
        entries += kinds(&effects).len();
        story.passed += wait;
    }
    // 1.15, 2.15, 4.15, 8.15, 16.15 s, and from then on 25.5 s: never from the start again.
    assert_eq!((dialled, gaps, story.session.attempts()), (145, 145, 145));
    assert!(longest > Duration::from_secs(20));
    assert_eq!(story.session.stale().len(), LEFTOVERS_MAX, "what cannot be deleted does not pile up");
    assert!(story.session.stale().contains(&"c-145".to_owned()), "the newest are remembered");
    assert!(entries < 145 * (LEFTOVERS_MAX + 10), "{entries} entries");
}

#[test]
fn an_end_that_is_announced_again_and_again_is_written_down_once() {
    let mut story = Story::new();
    story.open("c-1");
    let announced = |story: &mut Story| kinds(&story.on(Input::Text("{}".to_owned(), Frame::Closing)));
    assert_eq!(announced(&mut story), [Kind::MaintenanceAnnounced]);
    for _ in 0..1000 {
        assert_eq!(announced(&mut story), []);
    }
    story.on(closed(1001));
    story.wait(2).open("c-2");
    assert_eq!(announced(&mut story), [Kind::MaintenanceAnnounced]);
}

proptest::proptest! {
    /// Whatever a platform does in whatever order, a session never fails, never waits longer than its longest
    /// wait, and remembers no more than it must.
    #[test]
    fn no_order_of_events_breaks_a_session(steps in proptest::collection::vec((0_u8..22, 0_u64..120, 0.0_f64..1.0), 0..200)) {
        let mut story = Story::with_keepalive(REALTIME, vec!["left".to_owned()]);
        let mut old = 0;
        for (step, seconds, jitter) in steps {
            story.jitter = jitter;
            story.wait(seconds);
            let kind = [ErrorKind::Unauthorized, ErrorKind::Forbidden, ErrorKind::Limit, ErrorKind::Transport,
                ErrorKind::RateLimited(Some(Duration::from_secs(seconds)))][usize::from(step) % 5];
            let input = match step {
                0 | 1 => Input::Start,
                2 => Input::Token(Ok(seconds)),
                3 => Input::Token(Err(error(kind))),
                4 => Input::Verified(Ok("user".to_owned())),
                5 => Input::Verified(Err(error(kind))),
                6 => Input::Listed(Ok(Listing {
                    existing: vec!["left".to_owned(), "other".to_owned()],
                    lost: vec![format!("lost-{seconds}")],
                })),
                7 => Input::Deleted(vec![("left".to_owned(), Ok(())), ("other".to_owned(), Err(error(kind)))]),
                8 => Input::Provisioned(Ok(made(&format!("c-{seconds}")))),
                9 => Input::Provisioned(Err(error(kind))),
                10 => Input::Dialled(Ok(())),
                11 => Input::Dialled(Err(error(kind))),
                12 => Input::Text("{}".to_owned(), Frame::Closing),
                13 => Input::Text("{}".to_owned(), Frame::Dead { cause: GapCause::Displaced }),
                14 => Input::Text("{}".to_owned(), Frame::Pong),
                15 => Input::Ponged(Bytes::copy_from_slice(&seconds.to_be_bytes())),
                16 => closed(u16::try_from(seconds).unwrap()),
                17 => Input::Timer([Timer::Retry, Timer::Watchdog, Timer::Ping, Timer::Healthy, Timer::Probe,
                    Timer::Rotate][usize::try_from(seconds % 6).unwrap()]),
                18 => Input::Probed(match seconds % 5 {
                    0 => Ok(Standing::Whole),
                    1 => Ok(Standing::Changing),
                    2 => Ok(Standing::Taken { agents: 1 }),
                    3 => Ok(Standing::Gone),
                    _ => Err(error(kind)),
                }),
                19 => Input::QueueFull,
                20 => Input::Timer(Timer::Retry),
                _ => Input::Unproven,
            };
            let effects = if jitter < 0.1 { story.on_old(old, input) } else { story.on(input) };
            old = story.session.epoch();
            if let Some(wait) = retry_in(&effects) {
                proptest::prop_assert!(wait <= REFUSED_RETRY);
            }
            proptest::prop_assert!(story.session.stale().len() <= LEFTOVERS_MAX);
            let opens = effects.iter().filter(|effect| matches!(effect, Effect::Dial(_))).count();
            proptest::prop_assert!(opens <= 1);
        }
    }
}
