//! Examinations of a source's settings: the way to Genesys is gone step by step before anything is stored.
//! They live in the memory of this process and are forgotten after minutes.

use std::sync::Arc;

use crate::clock;
use crate::domain::audit::{Entry, Kind};
use crate::domain::ids::{ExaminationId, SourceId};
use crate::domain::presence::source::SourceSettings;
use crate::domain::secret::Secret;
use crate::examinations::{Draft, Examination, Refused};
use crate::services::caller::Caller;
use crate::services::{Result, ServiceError};
use crate::store::StoreError;
use crate::store::sources::Source;

/// A source whose settings are examined, and its settings, for a front end to lay the given fields over them.
/// A `client_secret` that is given takes the place of the stored one.
///
/// # Errors
/// If there is no such source, its stored secret does not open, or the database does not answer.
pub async fn begin_of(
    caller: &Caller,
    id: SourceId,
    client_secret: Option<Secret>,
) -> Result<(Source, SourceSettings)> {
    let source = caller.store.source(id).await?;
    let settings = super::settings_of(caller, &source, client_secret)?;
    Ok((source, settings))
}

/// Begins to examine settings; [`check`](super::check) has seen them. `source`: whose they are to be.
///
/// # Errors
/// If as many examinations run as may, the process ends, or the database refuses.
pub async fn begin(
    caller: &Caller,
    settings: SourceSettings,
    source: Option<&Source>,
) -> Result<Arc<Examination>> {
    let mut entry = Entry::new(clock::now(), Kind::SourceExamined)
        .data("name", settings.name.as_str())
        .data("region", settings.region.as_deref())
        .data("api_url", settings.api_url.as_deref())
        .data("login_url", settings.login_url.as_deref());
    entry.source_id = source.map(|source| source.source_id);
    entry.principal = Some(caller.principal.as_str().to_owned());
    let is_kept = source.is_some_and(|source| {
        let secret = source.client_secret(&caller.services.master_key);
        secret.is_ok_and(|secret| source.settings(secret) == settings)
    });
    let begun = caller.services.examinations.begin(Draft {
        tenant: caller.principal.tenant(),
        source: source.map(|source| (source.source_id, source.version)),
        is_kept,
        // Whoever configures the process may lead it anywhere.
        guarded: !(is_kept && source.is_some_and(Source::is_from_environment)),
        settings,
    });
    let begun = begun.map_err(|refused| match refused {
        Refused::TooMany => ServiceError::Store(StoreError::Conflict(
            "as many examinations run as may at once; wait until one has ended".to_owned(),
        )),
        Refused::Stopping => ServiceError::TooSlow("the process is stopping"),
    })?;
    caller.store.write_audit(&[entry]).await?;
    Ok(begun)
}

/// One examination of the caller's tenant.
///
/// # Errors
/// If this process knows none, for example because it was forgotten.
pub fn find(caller: &Caller, id: ExaminationId) -> Result<Arc<Examination>> {
    let found = caller.services.examinations.find(id, caller.principal.tenant());
    found.ok_or(ServiceError::Store(StoreError::NotFound("examination")))
}
