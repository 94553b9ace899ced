//! Deletes connections upstream.

use crate::actors::token::{CachedToken, Tokens};
use crate::genesys::protocol::{ErrorKind, Upstream, UpstreamError};

/// Upstream ids, and the result of deleting each.
pub type Deletions = Vec<(String, Result<(), UpstreamError>)>;

/// Deletes connections one after the other, until one gets no answer at all: the others would get none
/// either, and each would keep a working connection waiting for the whole time of a call. They are not among
/// the results.
pub async fn delete(upstream: &dyn Upstream, token: &CachedToken, ids: Vec<String>) -> Deletions {
    let mut results = Vec::with_capacity(ids.len());
    for id in ids {
        let result = upstream.delete(&token.secret, &id).await;
        let unanswered = result
            .as_ref()
            .is_err_and(|error| matches!(error.kind, ErrorKind::TimedOut | ErrorKind::Transport));
        results.push((id, result));
        if unanswered {
            break;
        }
    }
    results
}

/// Deletes with a token of its own, and tries again with another token what was answered with 401.
pub async fn delete_at_the_end(upstream: &dyn Upstream, tokens: &Tokens, ids: Vec<String>) -> Deletions {
    let refused = |ids: Vec<String>, error: &UpstreamError| -> Deletions {
        ids.into_iter().map(|id| (id, Err(error.clone()))).collect()
    };
    let token = match tokens.get(None).await {
        Ok(token) => token,
        Err(error) => return refused(ids, &error),
    };
    let (again, mut done): (Deletions, Deletions) = delete(upstream, &token, ids)
        .await
        .into_iter()
        .partition(|(_, result)| matches!(result, Err(error) if error.kind == ErrorKind::Unauthorized));
    if !again.is_empty() {
        let ids = again.into_iter().map(|(id, _)| id).collect();
        done.extend(match tokens.get(Some(token.serial)).await {
            Ok(token) => delete(upstream, &token, ids).await,
            Err(error) => refused(ids, &error),
        });
    }
    done
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::domain::secret::Secret;
    use crate::genesys::protocol::{
        ConnectionSpec, Definition, Frame, KeepaliveConfig, Listed, Person, Provisioned, Rejected, Snapshot,
        Step, Token, Watch, not_offered,
    };
    use crate::genesys::socket::Socket;

    /// Answers each deletion with the next of these, and remembers which were asked for.
    struct Platform(RefCell<Vec<Result<(), ErrorKind>>>, RefCell<Vec<String>>);

    #[rustfmt::skip]
    impl Upstream for Platform {
        fn token(&self) -> Step<'_, Token> { not_offered("") }
        fn verify<'a>(&'a self, _: &'a Secret) -> Step<'a, String> { not_offered("") }
        fn provision<'a>(&'a self, _: &'a Secret, _: &'a ConnectionSpec) -> Step<'a, Provisioned> { not_offered("") }
        fn list<'a>(&'a self, _: &'a Secret) -> Step<'a, Vec<Listed>> { not_offered("") }
        fn delete<'a>(&'a self, _: &'a Secret, id: &'a str) -> Step<'a, ()> {
            self.1.borrow_mut().push(id.to_owned());
            let answer = self.0.borrow_mut().remove(0);
            Box::pin(async move {
                answer.map_err(|kind| UpstreamError { kind, status: None, what: "it failed".to_owned() })
            })
        }
        fn dial<'a>(&'a self, _: &'a Provisioned) -> Step<'a, Socket> { not_offered("") }
        fn read(&self, _: &str) -> Frame { Frame::Heartbeat }
        fn keepalive(&self, _: Duration) -> KeepaliveConfig { unreachable!("nothing is kept alive here") }
        fn subscribe<'a>(&'a self, _: &'a Secret, _: &'a str, _: &'a ConnectionSpec) -> Step<'a, Vec<Rejected>> { not_offered("") }
        fn listens_to<'a>(&'a self, _: &'a Secret, _: &'a str) -> Step<'a, Option<HashSet<String>>> { not_offered("") }
        fn snapshot<'a>(&'a self, _: &'a Secret, _: &'a [String]) -> Step<'a, Vec<Snapshot>> { not_offered("") }
        fn roster<'a>(&'a self, _: &'a Secret, _: &'a Watch) -> Step<'a, Vec<Person>> { not_offered("") }
        fn definitions<'a>(&'a self, _: &'a Secret) -> Step<'a, Vec<Definition>> { not_offered("") }
    }

    #[tokio::test]
    async fn deletions_end_at_the_first_that_gets_no_answer() {
        let ids = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let token = CachedToken { serial: 1, secret: Secret::new("token"), ends: Instant::now() };
        for (answers, asked) in [
            (vec![Ok(()), Err(ErrorKind::Status), Ok(())], 3),
            (vec![Ok(()), Err(ErrorKind::TimedOut)], 2),
            (vec![Err(ErrorKind::Transport)], 1),
        ] {
            let platform = Platform(RefCell::new(answers), RefCell::default());
            let results = delete(&platform, &token, ids()).await;
            assert_eq!((results.len(), platform.1.borrow().len()), (asked, asked));
        }
    }
}
