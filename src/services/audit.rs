//! The audit log, as far as more than a read is to it: its head, its export, and checks of all of it.

use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::time::{Instant, sleep};

use super::caller::Caller;
use super::{Result, ServiceError};
use crate::clock;
use crate::domain::audit::seal::Head;
use crate::domain::ids::{TenantId, VerificationId};
use crate::store::audit::export::{ExportFilter, Exported};
use crate::store::audit::seals::{AuditKeys, LastSeal};
use crate::store::audit::verifications::{End, Verification};
use crate::store::audit::verify::ChainCheck;
use crate::store::transaction::once_committed;
use crate::store::{Store, StoreError};

/// A check waits this many times as long as it has just worked, so that it takes a third of a core and of the
/// database's attention at most.
const REST: u32 = 2;
/// Longest wait.
const REST_MAX: Duration = Duration::from_secs(2);

/// Refuses other tenants than the operator's what is about the log of all tenants.
fn must_see_all(caller: &Caller) -> Result<()> {
    if caller.principal.tenant() == TenantId::DEFAULT {
        return Ok(());
    }
    Err(ServiceError::OperatorOnly(
        "The log is one for all tenants; its head and its checks are the operator's.",
    ))
}

/// Newest seal of the log; `None` before the first. It covers the entries of every tenant, and so tells how
/// many there are: only the operator's tenant may see it.
///
/// # Errors
/// If another tenant asks, or the database does not answer.
pub async fn head(caller: &Caller) -> Result<Option<LastSeal>> {
    must_see_all(caller)?;
    Ok(caller.store.last_seal().await?)
}

/// Begins to check the whole log in the background; `expected` is a head that was kept elsewhere.
///
/// # Errors
/// If another tenant than the operator's asks, a check is running, or the database refuses.
pub async fn start_verification(caller: &Caller, expected: Option<Head>) -> Result<Verification> {
    must_see_all(caller)?;
    let services = &caller.services;
    let store = services.whole_store.clone();
    let keys = store.audit_keys(&services.master_key).await?;
    let started = store.start_audit_verification(expected, caller.principal.as_str(), clock::now()).await?;
    let (background, id) = (services.background.clone(), started.verification_id);
    once_committed(move || drop(background.spawn(verify(store, keys, id, expected))));
    Ok(started)
}

/// Checks the log, with rests.
async fn verify(store: Store, keys: AuditKeys, id: VerificationId, expected: Option<Head>) {
    let mut check = ChainCheck::of_all(&keys, expected);
    let end = match check_with_rests(&store, &mut check, id).await {
        Ok(end) => end,
        Err(error) => {
            tracing::warn!(%error, "check of the audit log that was asked for failed; showing that it did");
            End::Failed("the database did not answer; start another check".to_owned())
        }
    };
    if let Err(error) = store.end_audit_verification(id, &end, check.so_far(), clock::now()).await {
        tracing::warn!(%error, "failed to note the end of a check of the audit log; it will be taken for lost");
    }
}

async fn check_with_rests(
    store: &Store,
    check: &mut ChainCheck<'_>,
    id: VerificationId,
) -> Result<End, StoreError> {
    loop {
        let began = Instant::now();
        if !check.step(store).await? {
            return Ok(End::Done);
        }
        let worked = began.elapsed();
        if !store.note_audit_verification(id, check.so_far(), clock::now()).await? {
            return Ok(End::Canceled);
        }
        sleep((worked * REST).min(REST_MAX)).await;
    }
}

/// A page of checks, newest first.
///
/// # Errors
/// If another tenant than the operator's asks, or the database does not answer.
pub async fn verifications(
    caller: &Caller,
    before: Option<VerificationId>,
    limit: i64,
) -> Result<Vec<Verification>> {
    must_see_all(caller)?;
    Ok(caller.services.whole_store.audit_verifications(before, limit, clock::now()).await?)
}

/// One check, and how far it is.
///
/// # Errors
/// If another tenant than the operator's asks, there is none, or the database does not answer.
pub async fn verification(caller: &Caller, id: VerificationId) -> Result<Verification> {
    must_see_all(caller)?;
    Ok(caller.services.whole_store.audit_verification(id, clock::now()).await?)
}

/// Asks for the end of a check.
///
/// # Errors
/// If another tenant than the operator's asks, there is none, or the database refuses.
pub async fn cancel_verification(caller: &Caller, id: VerificationId) -> Result<Verification> {
    must_see_all(caller)?;
    let principal = caller.principal.as_str();
    Ok(caller.services.whole_store.cancel_audit_verification(id, principal, clock::now()).await?)
}

/// Whose entries are exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// The caller's tenant's.
    #[default]
    Own,
    /// Another tenant's.
    Of(TenantId),
    /// Everybody's.
    All,
}

/// What is exported.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportInput {
    /// Begin behind this entry.
    pub after: i64,
    /// Only entries before this time.
    pub until: Option<time::OffsetDateTime>,
    pub whose: Whose,
}

/// Sealed entries, page by page, oldest first; pages may be empty. It is read as it is taken.
///
/// # Errors
/// If somebody else than the operator asks for entries of another tenant, or the database does not answer.
pub async fn export(
    caller: &Caller,
    input: ExportInput,
) -> Result<impl Stream<Item = Result<Vec<Exported>>> + use<>> {
    let own = caller.principal.tenant();
    let tenant = match input.whose {
        Whose::Own => Some(own),
        Whose::Of(tenant) => Some(tenant),
        Whose::All => None,
    };
    if tenant != Some(own) {
        caller.principal.must_be_operator()?;
    }
    let filter = ExportFilter { tenant: tenant.map(|tenant| tenant.0), until: input.until };
    let store = caller.services.whole_store.clone();
    let begun = store.begin_export(input.after, filter).await?;
    Ok(stream::try_unfold((begun, store), |(mut export, store)| async move {
        let page = export.next(&store).await?;
        Ok(page.map(|rows| (rows, (export, store))))
    }))
}
