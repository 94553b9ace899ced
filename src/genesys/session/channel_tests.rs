//! A session in protocol `notifications`: probes, pings of its own kind, hand-overs.

use time::Duration as Span;
use time::macros::datetime;

use super::*;
use crate::domain::presence::connection::CloseCause;
use crate::domain::secret::Secret;
use crate::genesys::protocol::{Frame, Provisioned, Standing};

const CHANNEL: KeepaliveConfig = KeepaliveConfig {
    silence: Duration::from_secs(35),
    ping_every: Duration::from_millis(17_500),
    ping_text: Some(r#"{"message":"ping"}"#),
    probe_every: Some(Duration::from_secs(60)),
    resync: true,
};
const START: OffsetDateTime = datetime!(2026-11-24 09:00 UTC);

struct Story {
    session: Session,
    start: Instant,
    passed: Duration,
}

impl Story {
    fn on(&mut self, input: Input) -> Vec<Effect> {
        let now = Now { at: START + self.passed, tick: self.start + self.passed };
        self.session.on(self.session.epoch(), input, now, 0.0)
    }

    fn after(&mut self, seconds: f64, input: Input) -> Vec<Effect> {
        self.passed += Duration::from_secs_f64(seconds);
        self.on(input)
    }

    /// An open socket on a channel with this lifetime.
    fn open(lifetime: Option<Duration>) -> (Self, Vec<Effect>) {
        let session = Session::new(CHANNEL, Vec::new());
        let mut story = Self { session, start: Instant::now(), passed: Duration::ZERO };
        story.on(Input::Start);
        story.on(Input::Token(Ok(1)));
        story.on(Input::Verified(Ok("client".to_owned())));
        let socket_url = Secret::new("wss://x");
        let made =
            Provisioned { upstream_id: "channel".to_owned(), socket_url, lifetime, rejected: Vec::new() };
        story.on(Input::Provisioned(Ok(made)));
        let effects = story.on(Input::Dialled(Ok(())));
        (story, effects)
    }
}

fn heartbeat() -> Input {
    Input::Text(String::new(), Frame::Heartbeat)
}

fn error(kind: ErrorKind) -> UpstreamError {
    UpstreamError { kind, status: None, what: "it failed".to_owned() }
}

fn gap(effects: &[Effect]) -> Option<(Span, &'static str)> {
    effects.iter().find_map(|effect| match effect {
        Effect::GapOpened { from, cause } => Some((*from - START, cause.as_str())),
        _ => None,
    })
}

fn rotates(effects: &[Effect]) -> Option<&'static str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Rotate { cause } => Some(cause.as_str()),
        _ => None,
    })
}

fn timer(effects: &[Effect], wanted: Timer) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::SetTimer(timer, after) if *timer == wanted => Some(*after),
        _ => None,
    })
}

#[test]
fn an_open_channel_reads_present_states_and_plans_its_replacement() {
    let (_, effects) = Story::open(Some(Duration::from_secs(1000)));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Resync)));
    assert_eq!(timer(&effects, Timer::Rotate), Some(Duration::from_secs(750)));
    assert_eq!(timer(&effects, Timer::Probe), Some(Duration::from_secs(60)));
    let (_, effects) = Story::open(None);
    assert_eq!(timer(&effects, Timer::Rotate), None);
}

#[test]
fn replacements_of_channels_that_began_together_are_spread() {
    let (mut story, _) = Story::open(None);
    story.session.lifetime = Some(Duration::from_secs(1000));
    let mut out = Vec::new();
    story.session.opened(Now { at: START, tick: story.start }, 0.999, &mut out);
    let last = timer(&out, Timer::Rotate).unwrap();
    assert!((Duration::from_secs(890)..Duration::from_secs(900)).contains(&last), "{last:?}");
}

#[test]
fn expiry_and_maintenance_ask_for_a_replacement_while_the_socket_lives() {
    let (mut story, _) = Story::open(Some(Duration::from_secs(1000)));
    assert_eq!(rotates(&story.after(750.0, Input::Timer(Timer::Rotate))), Some("expiry"));
    let announced = story.after(1.0, Input::Text(String::new(), Frame::Closing));
    assert_eq!(rotates(&announced), Some("maintenance"));
    assert_eq!(gap(&announced), None);
    assert_eq!(story.session.phase(), Phase::Open);
}

#[test]
fn a_successor_asks_for_another_token_and_the_one_replaced_leaves_without_a_gap() {
    let (mut story, _) = Story::open(None);
    let mut successor =
        Story { session: story.session.successor(), start: story.start, passed: story.passed };
    let first = successor.on(Input::Start);
    assert!(first.iter().any(|effect| matches!(effect, Effect::GetToken { instead_of: Some(1) })));
    let ended = story.on(Input::Terminate(CloseCause::Rotated));
    assert_eq!(gap(&ended), None);
    assert!(ended.iter().any(|effect| matches!(effect, Effect::Close(1000, _))));
    assert!(ended.iter().any(|effect| matches!(effect, Effect::ShutDown(ids) if ids == &["channel"])));
}

#[test]
fn a_channel_that_is_gone_was_blind_since_it_was_last_seen_upstream() {
    let (mut story, _) = Story::open(None);
    story.after(60.0, Input::Timer(Timer::Probe));
    story.after(1.0, Input::Probed(Ok(Standing::Whole)));
    // The socket goes on as if nothing had happened.
    story.after(58.0, heartbeat());
    story.after(1.0, Input::Timer(Timer::Probe));
    let effects = story.after(1.0, Input::Probed(Ok(Standing::Gone)));
    assert_eq!(gap(&effects), Some((Span::seconds(59), "displaced")));
    let audited = effects.iter().any(|effect| {
        matches!(effect, Effect::Audit(entry) if entry.kind == Kind::ChannelDisplaced && entry.level == Level::Error)
    });
    assert!(audited);
    assert_eq!(story.session.phase(), Phase::BackingOff);
}

#[test]
fn a_channel_whose_subscriptions_were_taken_was_blind_since_it_was_last_seen_whole() {
    let (mut story, _) = Story::open(None);
    story.after(60.0, Input::Timer(Timer::Probe));
    story.after(1.0, Input::Probed(Ok(Standing::Whole)));
    story.after(60.0, Input::Timer(Timer::Probe));
    story.after(1.0, Input::Probed(Ok(Standing::Changing)));
    // One agent's update says nothing of the others.
    story.after(57.0, Input::Text(String::new(), Frame::Update(Box::default())));
    let effects = story.after(1.0, Input::Probed(Ok(Standing::Taken { agents: 2 })));
    assert_eq!(gap(&effects), Some((Span::seconds(59), "subscriptions_taken")));
    let audited = effects.iter().any(|effect| {
        matches!(effect, Effect::Audit(entry) if entry.kind == Kind::ChannelDisplaced && entry.level == Level::Error)
    });
    assert!(audited);
    assert_eq!(story.session.phase(), Phase::BackingOff);
}

#[test]
fn an_update_proves_a_channel_and_a_heartbeat_does_not() {
    let (mut story, _) = Story::open(None);
    story.after(10.0, Input::Text(String::new(), Frame::Update(Box::default())));
    story.after(10.0, heartbeat());
    let effects = story.on(Input::Text(String::new(), Frame::Dead { cause: GapCause::Displaced }));
    assert_eq!(gap(&effects), Some((Span::seconds(9), "displaced")));
}

#[test]
fn what_came_last_may_have_been_sent_before_the_channel_was_gone() {
    // It was displaced while the update was under way to us: blind since before it came, but not since before
    // it opened.
    let (mut story, _) = Story::open(None);
    story.after(10.0, Input::Text("{}".to_owned(), Frame::Update(Box::default())));
    let effects = story.after(0.2, Input::Text(String::new(), Frame::Dead { cause: GapCause::Displaced }));
    assert_eq!(gap(&effects), Some((Span::seconds(9), "displaced")));
    let (mut story, _) = Story::open(None);
    let effects = story.after(0.2, Input::Text(String::new(), Frame::Dead { cause: GapCause::Displaced }));
    assert_eq!(gap(&effects), Some((Span::ZERO, "displaced")));
}

#[test]
fn a_revoked_token_is_not_used_for_the_next_try() {
    let (mut story, _) = Story::open(None);
    story.on(Input::Text(String::new(), Frame::Dead { cause: GapCause::TokenRevoked }));
    let next = story.after(2.0, Input::Timer(Timer::Retry));
    assert!(next.iter().any(|effect| matches!(effect, Effect::GetToken { instead_of: Some(1) })));
    let (mut story, _) = Story::open(None);
    // The channel has died with it, whatever the socket says: at the latest when it was last seen.
    let probed = story.after(60.0, Input::Probed(Err(error(ErrorKind::Unauthorized))));
    assert_eq!(gap(&probed), Some((Span::ZERO, "token_revoked")));
}

#[test]
fn a_probe_that_fails_says_nothing_and_is_made_again() {
    let (mut story, _) = Story::open(None);
    let effects = story.on(Input::Probed(Err(error(ErrorKind::TimedOut))));
    assert_eq!(gap(&effects), None);
    assert_eq!(timer(&effects, Timer::Probe), Some(Duration::from_secs(60)));
}

#[test]
fn the_round_trip_is_taken_from_ping_and_pong_messages() {
    let (mut story, _) = Story::open(None);
    let asked = story.after(17.5, Input::Timer(Timer::Ping));
    assert!(
        asked
            .iter()
            .any(|effect| matches!(effect, Effect::SendText(text) if text == r#"{"message":"ping"}"#))
    );
    story.after(0.025, Input::Text(String::new(), Frame::Pong));
    // A pong that answers nothing measures nothing.
    story.after(5.0, Input::Text(String::new(), Frame::Pong));
    assert_eq!(story.session.latency().samples(), 1);
    assert!((story.session.latency().average_ms() - 25.0).abs() < 0.001);
}

#[test]
fn a_socket_that_has_heartbeats_but_answers_no_ping_is_left() {
    let (mut story, _) = Story::open(None);
    story.after(17.5, Input::Timer(Timer::Ping));
    story.after(17.0, heartbeat());
    assert_eq!(gap(&story.after(0.5, Input::Timer(Timer::Ping))), None);
    story.after(17.0, heartbeat());
    let effects = story.after(0.5, Input::Timer(Timer::Ping));
    assert_eq!(gap(&effects), Some((Span::seconds_f64(51.0), "silence")));
}

#[test]
fn a_socket_that_gives_no_sign_of_life_when_it_is_replaced_was_blind_since_the_last_one() {
    let (mut story, _) = Story::open(None);
    story.after(10.0, heartbeat());
    assert_eq!(gap(&story.after(12.0, Input::Unproven)), Some((Span::seconds(9), "silence")));
}

#[test]
fn thirty_five_seconds_of_silence_are_death() {
    let (mut story, _) = Story::open(None);
    story.after(10.0, heartbeat());
    assert_eq!(
        timer(&story.after(25.0, Input::Timer(Timer::Watchdog)), Timer::Watchdog),
        Some(Duration::from_secs(10))
    );
    assert_eq!(gap(&story.after(10.0, Input::Timer(Timer::Watchdog))), Some((Span::seconds(9), "silence")));
}

#[test]
fn a_refused_upgrade_makes_a_new_channel_on_a_new_token() {
    let (mut story, _) = Story::open(None);
    story.on(Input::Text(String::new(), Frame::Dead { cause: GapCause::ChannelGone }));
    story.after(2.0, Input::Timer(Timer::Retry));
    story.on(Input::Token(Ok(1)));
    story.on(Input::Deleted(Vec::new()));
    let socket_url = Secret::new("wss://x");
    let made =
        Provisioned { upstream_id: "second".to_owned(), socket_url, lifetime: None, rejected: Vec::new() };
    story.on(Input::Provisioned(Ok(made)));
    story.on(Input::Dialled(Err(error(ErrorKind::Unauthorized))));
    let next = story.after(5.0, Input::Timer(Timer::Retry));
    assert!(next.iter().any(|effect| matches!(effect, Effect::GetToken { instead_of: Some(1) })));
}
