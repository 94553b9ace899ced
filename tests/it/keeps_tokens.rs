//! The token actor of a source's token, by itself: it is asked by many, asks for them once, and is neither
//! lost when it dies nor left behind when nobody needs it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use presence_bridge::actors::token::Tokens;
use presence_bridge::domain::ids::SourceId;
use presence_bridge::domain::secret::Secret;
use presence_bridge::genesys::protocol::{
    ConnectionSpec, Definition, ErrorKind, Frame, KeepaliveConfig, Listed, Person, Provisioned, Rejected,
    Snapshot, Step, Token, Upstream, UpstreamError, Watch, not_offered,
};
use presence_bridge::genesys::socket::Socket;
use presence_bridge::metrics::Metrics;
use presence_bridge::store::Store;

use crate::support::{database, eventually};

/// A platform that gives tokens as it was told, and nothing else.
struct Platform {
    asked: Cell<u32>,
    answers: RefCell<Vec<Answer>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Good(Duration),
    No,
    Panic,
}

const HOUR: Answer = Answer::Good(Duration::from_secs(3600));

impl Platform {
    /// Answers with these, the last one again and again.
    fn answering(answers: &[Answer]) -> Rc<Self> {
        let answers = RefCell::new(answers.iter().rev().copied().collect());
        Rc::new(Self { asked: Cell::new(0), answers })
    }
}

fn no() -> UpstreamError {
    UpstreamError { kind: ErrorKind::Unauthorized, status: Some(401), what: "no".to_owned() }
}

impl Upstream for Platform {
    fn token(&self) -> Step<'_, Token> {
        self.asked.set(self.asked.get() + 1);
        let mut answers = self.answers.borrow_mut();
        let answer = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0] };
        Box::pin(async move {
            tokio::task::yield_now().await;
            match answer {
                Answer::Good(lifetime) => Ok(Token { secret: Secret::new("token"), lifetime }),
                Answer::No => Err(no()),
                Answer::Panic => panic!("on purpose"),
            }
        })
    }

    fn verify<'a>(&'a self, _: &'a Secret) -> Step<'a, String> {
        Box::pin(async { Err(no()) })
    }

    fn provision<'a>(&'a self, _: &'a Secret, _: &'a ConnectionSpec) -> Step<'a, Provisioned> {
        Box::pin(async { Err(no()) })
    }

    fn list<'a>(&'a self, _: &'a Secret) -> Step<'a, Vec<Listed>> {
        Box::pin(async { Err(no()) })
    }

    fn delete<'a>(&'a self, _: &'a Secret, _: &'a str) -> Step<'a, ()> {
        Box::pin(async { Err(no()) })
    }

    fn dial<'a>(&'a self, _: &'a Provisioned) -> Step<'a, Socket> {
        Box::pin(async { Err(no()) })
    }

    fn read(&self, _: &str) -> Frame {
        Frame::Pong
    }

    fn keepalive(&self, heartbeat: Duration) -> KeepaliveConfig {
        KeepaliveConfig {
            silence: heartbeat,
            ping_every: heartbeat,
            ping_text: None,
            probe_every: None,
            resync: false,
        }
    }

    fn subscribe<'a>(&'a self, _: &'a Secret, _: &'a str, _: &'a ConnectionSpec) -> Step<'a, Vec<Rejected>> {
        not_offered("subscribe")
    }

    fn listens_to<'a>(&'a self, _: &'a Secret, _: &'a str) -> Step<'a, Option<HashSet<String>>> {
        not_offered("listens to")
    }

    fn snapshot<'a>(&'a self, _: &'a Secret, _: &'a [String]) -> Step<'a, Vec<Snapshot>> {
        not_offered("snapshot")
    }

    fn roster<'a>(&'a self, _: &'a Secret, _: &'a Watch) -> Step<'a, Vec<Person>> {
        not_offered("roster")
    }

    fn definitions<'a>(&'a self, _: &'a Secret) -> Step<'a, Vec<Definition>> {
        not_offered("definitions")
    }
}

async fn tokens_of(platform: &Rc<Platform>) -> Tokens {
    let url = database::create().await;
    let store = Store::connect(url.parse().unwrap(), 1).await.unwrap();
    Tokens::new(SourceId::generate(), platform.clone(), store, Metrics::new())
}

#[actix_web::test]
async fn a_storm_of_401_brings_one_new_token() {
    let platform = Platform::answering(&[HOUR]);
    let tokens = tokens_of(&platform).await;
    let first = join_all((0..10).map(|_| tokens.get(None))).await;
    assert!(first.iter().all(|held| held.as_ref().is_ok_and(|held| held.serial == 1)));
    let second = join_all((0..10).map(|_| tokens.get(Some(1)))).await;
    assert!(second.iter().all(|held| held.as_ref().is_ok_and(|held| held.serial == 2)));
    let late = tokens.get(Some(1)).await.unwrap();
    assert_eq!((late.serial, platform.asked.get()), (2, 2), "a late 401 for the old token asks nothing");
}

#[actix_web::test]
async fn a_no_is_told_to_all_and_not_asked_for_again_at_once() {
    let platform = Platform::answering(&[Answer::No]);
    let tokens = tokens_of(&platform).await;
    for _ in 0..3 {
        let all = join_all((0..10).map(|_| tokens.get(None))).await;
        assert!(all.iter().all(|held| held.as_ref().is_err_and(|error| *error == no())));
    }
    assert_eq!(platform.asked.get(), 1);
}

#[actix_web::test]
async fn a_refresh_that_fails_keeps_the_token_that_there_is() {
    let platform = Platform::answering(&[HOUR, Answer::No]);
    let tokens = tokens_of(&platform).await;
    tokens.get(None).await.unwrap();
    assert!(tokens.get(Some(1)).await.is_err());
    assert_eq!(tokens.get(None).await.unwrap().serial, 1);
}

#[actix_web::test]
async fn a_token_actor_that_died_is_replaced_when_it_is_asked_next() {
    let platform = Platform::answering(&[Answer::Panic, HOUR]);
    let tokens = tokens_of(&platform).await;
    assert!(tokens.get(None).await.is_err());
    assert!(tokens.get(None).await.is_ok());
}

#[actix_web::test]
async fn a_token_actor_that_nobody_can_ask_ends_though_its_token_wants_renewal() {
    let platform = Platform::answering(&[Answer::Good(Duration::from_secs(1))]);
    let tokens = tokens_of(&platform).await;
    tokens.get(None).await.unwrap();
    drop(tokens);
    eventually("the token actor releases the platform", || async {
        (Rc::strong_count(&platform) == 1).then_some(())
    })
    .await;
}
