//! Deleting upstream what a connection made there.

use super::token::{Held, Tokens};
use crate::genesys::protocol::{ErrorKind, Upstream, UpstreamError};

/// Ids, and what became of deleting each.
pub type Deletions = Vec<(String, Result<(), UpstreamError>)>;

/// Deletes connections upstream, one after the other, until one gets no answer at all: the others would get none
/// either, and each would cost a connection that could see the whole time of a call. They are not among the results.
pub async fn delete(upstream: &dyn Upstream, token: &Held, ids: Vec<String>) -> Deletions {
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

/// Deletes with a token of its own, and once more with another one what was answered with 401.
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
