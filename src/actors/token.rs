//! Caches the token of one source. However many connections ask, there is one request at a time; the token is
//! renewed before it ends, and after a refusal nothing is asked for a while. Connections ask through
//! [`Tokens`].

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::clock;
use crate::domain::audit::{Entry, Kind, Level};
use crate::domain::ids::SourceId;
use crate::domain::secret::Secret;
use crate::genesys::protocol::{ErrorKind, Token, Upstream, UpstreamError};
use crate::genesys::reconnect::ReconnectBackoff;
use crate::genesys::session::TokenSerial;
use crate::metrics::Metrics;
use crate::random;
use crate::store::Store;

/// A token is renewed this long before its end, or a tenth of its life before if that is less.
const MARGIN_MAX: Duration = Duration::from_secs(60);
/// Shortest distance between two renewals.
const RENEWALS_APART: Duration = Duration::from_secs(1);
/// How often the actor checks whether anybody could still ask it.
const CHECK_ASKERS_EVERY: Duration = Duration::from_secs(2);

/// Asks for the token; answered when there is one, or with why there is none.
#[derive(Message)]
#[rtype(result = "Result<CachedToken, UpstreamError>")]
struct GetToken {
    /// A token that the platform did not accept: give another one.
    instead_of: Option<TokenSerial>,
}

/// Asks the token actor of a source. Clones ask the same one; it ends soon after the last of them.
#[derive(Clone)]
pub struct Tokens(Rc<Handle>);

struct Handle {
    source_id: SourceId,
    upstream: Rc<dyn Upstream>,
    store: Store,
    metrics: Metrics,
    actor: RefCell<Addr<TokenActor>>,
}

impl Tokens {
    /// Starts the actor, which asks the platform when it is asked.
    #[must_use]
    pub fn new(source_id: SourceId, upstream: Rc<dyn Upstream>, store: Store, metrics: Metrics) -> Self {
        let actor = TokenActor::new(source_id, upstream.clone(), store.clone(), metrics.clone()).start();
        Self(Rc::new(Handle { source_id, upstream, store, metrics, actor: RefCell::new(actor) }))
    }

    /// A token other than `instead_of`.
    ///
    /// # Errors
    /// If the platform gives none.
    pub async fn get(&self, instead_of: Option<TokenSerial>) -> Result<CachedToken, UpstreamError> {
        let asked = self.living_actor().send(GetToken { instead_of });
        asked.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The actor; one that died (actix ends an actor that panics) is replaced, or no connection of the source
    /// would ever have a token again.
    fn living_actor(&self) -> Addr<TokenActor> {
        let mut actor = self.0.actor.borrow_mut();
        if !actor.connected() {
            tracing::error!(source = %self.0.source_id, "token actor panicked; restarting it");
            let reason = "token";
            self.0.metrics.actors_restarted.of(reason).inc();
            let mut entry =
                Entry::new(clock::now(), Kind::ActorRestarted).level(Level::Error).data("actor", reason);
            entry.source_id = Some(self.0.source_id);
            let store = self.0.store.clone();
            actix::spawn(async move { drop(store.write_audit(&[entry]).await) });
            let Handle { source_id, upstream, store, metrics, .. } = &*self.0;
            *actor = TokenActor::new(*source_id, upstream.clone(), store.clone(), metrics.clone()).start();
        }
        actor.clone()
    }
}

#[derive(Clone, Debug)]
pub struct CachedToken {
    /// Names the token without showing it.
    pub serial: TokenSerial,
    pub secret: Secret,
    /// End of its life.
    pub ends: Instant,
}

struct TokenActor {
    source_id: SourceId,
    upstream: Rc<dyn Upstream>,
    store: Store,
    metrics: Metrics,
    current: Option<CachedToken>,
    serials: TokenSerial,
    /// Askers that wait for the request under way; `None` if none is.
    waiting: Option<Vec<oneshot::Sender<Result<CachedToken, UpstreamError>>>>,
    backoff: ReconnectBackoff,
    /// After a failure: the error, and until when nothing is asked.
    resting: Option<(UpstreamError, Instant)>,
}

impl TokenActor {
    fn new(source_id: SourceId, upstream: Rc<dyn Upstream>, store: Store, metrics: Metrics) -> Self {
        Self {
            source_id,
            upstream,
            store,
            metrics,
            current: None,
            serials: 0,
            waiting: None,
            backoff: ReconnectBackoff::default(),
            resting: None,
        }
    }

    /// The cached token, if it has not ended and is not the one that was refused.
    fn usable(&self, instead_of: Option<TokenSerial>) -> Option<CachedToken> {
        let current = self.current.as_ref()?;
        (current.ends > Instant::now() && Some(current.serial) != instead_of).then(|| current.clone())
    }

    /// Asks the platform, unless a request is under way.
    fn request(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.is_some() {
            return;
        }
        self.waiting = Some(Vec::new());
        let upstream = self.upstream.clone();
        let asked = async move { upstream.token().await };
        ctx.spawn(asked.into_actor(self).map(|answer, actor, ctx| actor.on_answer(answer, ctx)));
    }

    fn on_answer(&mut self, answer: Result<Token, UpstreamError>, ctx: &mut Context<Self>) {
        let answer = match answer {
            Ok(token) => {
                self.serials += 1;
                let ends = Instant::now() + token.lifetime;
                let cached = CachedToken { serial: self.serials, secret: token.secret, ends };
                self.current = Some(cached.clone());
                self.resting = None;
                self.backoff.reset();
                let margin = MARGIN_MAX.min(token.lifetime / 10);
                let renew_in = token.lifetime.saturating_sub(margin).max(RENEWALS_APART);
                let serial = cached.serial;
                ctx.run_later(renew_in, move |actor, ctx| actor.renew(serial, ctx));
                self.count("ok");
                let entry = Entry::new(clock::now(), Kind::TokenAcquired)
                    .data("expires_in", token.lifetime.as_secs());
                self.audit(entry, ctx);
                Ok(cached)
            }
            Err(error) => {
                let retry_after = match error.kind {
                    ErrorKind::RateLimited(wait) => wait.unwrap_or_default(),
                    _ => Duration::ZERO,
                };
                let rest = self.backoff.next(random::unit()).max(retry_after);
                self.resting = Some((error.clone(), Instant::now() + rest));
                if let Some(current) = &self.current {
                    // The present one stays in use until its end; a renewal is tried again.
                    let serial = current.serial;
                    ctx.run_later(rest, move |actor, ctx| actor.renew(serial, ctx));
                }
                self.count("failed");
                let entry = Entry::new(clock::now(), Kind::TokenFailed)
                    .level(Level::Error)
                    .data("error", error.to_string());
                self.audit(entry, ctx);
                Err(error)
            }
        };
        for waiter in self.waiting.take().unwrap_or_default() {
            let _ = waiter.send(answer.clone());
        }
    }

    /// Renews the token, if it is still this one.
    fn renew(&mut self, serial: TokenSerial, ctx: &mut Context<Self>) {
        if self.current.as_ref().is_some_and(|current| current.serial == serial) {
            self.request(ctx);
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.token_requests.of(outcome).inc();
    }

    fn audit(&self, mut entry: Entry, ctx: &mut Context<Self>) {
        entry.source_id = Some(self.source_id);
        let store = self.store.clone();
        let source = self.source_id;
        let write = async move {
            if let Err(error) = store.write_audit(&[entry]).await {
                tracing::warn!(%error, %source, "failed to write an audit entry about a token; the entry is lost");
            }
        };
        ctx.spawn(write.into_actor(self));
    }
}

impl Actor for TokenActor {
    type Context = Context<Self>;

    /// An actor lives for as long as a timer of it is set, and the renewal sets the next one: without this
    /// check the actor of a source that is gone or changed would ask for tokens for ever, with the secret it
    /// once had.
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(CHECK_ASKERS_EVERY, |_, ctx| {
            if !ctx.connected() {
                ctx.stop();
            }
        });
    }
}

impl Handler<GetToken> for TokenActor {
    type Result = ResponseFuture<Result<CachedToken, UpstreamError>>;

    fn handle(&mut self, ask: GetToken, ctx: &mut Self::Context) -> Self::Result {
        if let Some(cached) = self.usable(ask.instead_of) {
            return Box::pin(async move { Ok(cached) });
        }
        if self.waiting.is_none()
            && let Some((error, until)) = &self.resting
            && *until > Instant::now()
        {
            let error = error.clone();
            return Box::pin(async move { Err(error) });
        }
        self.request(ctx);
        let (answer, answered) = oneshot::channel();
        if let Some(waiting) = &mut self.waiting {
            waiting.push(answer);
        }
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(gone())) })
    }
}

/// Answer to a connection while the token actor is being replaced.
fn gone() -> UpstreamError {
    UpstreamError {
        kind: ErrorKind::Transport,
        status: None,
        what: "token: its actor is being restarted".to_owned(),
    }
}
