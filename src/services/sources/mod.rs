//! Sources: the Genesys organisations that are watched.

use crate::domain::ids::SourceId;
use crate::domain::presence::source::{ENVIRONMENT_SOURCE_NAME, SourceSettings};
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::services::Result;
use crate::services::caller::Caller;
use crate::store::StoreError;
use crate::store::sources::Source;

pub mod examinations;

/// A source to be changed and its settings, for a front end to lay the given fields over them. A
/// `client_secret` that is given takes the place of the stored one, which then need not open.
///
/// # Errors
/// If there is no such source, it comes from the environment, its stored secret does not open, or the
/// database does not answer.
pub async fn begin_update(
    caller: &Caller,
    id: SourceId,
    client_secret: Option<Secret>,
) -> Result<(Source, SourceSettings)> {
    let source = caller.store.source(id).await?;
    if source.is_from_environment() {
        return Err(StoreError::Conflict(
            "the source is set by the environment of the process and can only be changed there".to_owned(),
        )
        .into());
    }
    let settings = settings_of(caller, &source, client_secret)?;
    Ok((source, settings))
}

/// The settings of a source; a `client_secret` that is given takes the place of the stored one.
///
/// # Errors
/// If its stored secret is wanted and does not open.
fn settings_of(caller: &Caller, source: &Source, client_secret: Option<Secret>) -> Result<SourceSettings> {
    let client_secret = match client_secret {
        Some(given) => given,
        None => source.client_secret(&caller.services.master_key).map_err(|error| {
            StoreError::Conflict(format!("the kept client_secret does not open ({error}); give it again"))
        })?,
    };
    Ok(source.settings(client_secret))
}

/// Holds the settings that a source shall have against the rules. `carried`: whose client secret they took
/// over, if none was given with them; it goes only where it went, since who changes an address may be
/// somebody who was never told it.
///
/// # Errors
/// Everything that is wrong.
pub fn check(
    caller: &Caller,
    settings: SourceSettings,
    carried: Option<&SourceSettings>,
) -> Result<SourceSettings, Vec<Violation>> {
    let mut wrong = Vec::new();
    if settings.name.trim() == ENVIRONMENT_SOURCE_NAME {
        wrong.push(Violation::new("name", "is kept for the source from the environment"));
    }
    match settings.check() {
        Ok(settings) => {
            wrong.extend(refused_addresses(caller, &settings));
            if carried.is_some_and(|carried| !settings.goes_where(carried)) {
                let what = "must be given again, since it would go to another address";
                wrong.push(Violation::new("client_secret", what));
            }
            if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
        }
        Err(violations) => {
            wrong.extend(violations);
            Err(wrong)
        }
    }
}

/// Addresses that whoever adds a source may not lead us to.
fn refused_addresses(caller: &Caller, settings: &SourceSettings) -> Vec<Violation> {
    let check = |(field, url): (&'static str, &Option<String>)| {
        let error = caller.services.targets.check_url(url.as_deref()?).err()?;
        Some(Violation::new(field, error.to_string()))
    };
    [("api_url", &settings.api_url), ("login_url", &settings.login_url)]
        .into_iter()
        .filter_map(check)
        .collect()
}

/// Adds a source; [`check`] has seen its settings.
///
/// # Errors
/// If the name is taken, or the database refuses.
pub async fn create(caller: &Caller, settings: &SourceSettings) -> Result<Source> {
    let master_key = &caller.services.master_key;
    Ok(caller.store.create_source(settings, master_key, caller.principal.as_str()).await?)
}

/// Gives a source new settings, if it still is as `before` shows it; [`check`] has seen them.
///
/// # Errors
/// If it is gone or was changed meanwhile, its new name is taken, or the database refuses.
pub async fn update(caller: &Caller, before: &Source, settings: &SourceSettings) -> Result<Source> {
    let master_key = &caller.services.master_key;
    Ok(caller.store.update_source(before, settings, master_key, caller.principal.as_str()).await?)
}

/// Removes a source; its connections end.
///
/// # Errors
/// If there is none, it comes from the environment, or the database refuses.
pub async fn delete(caller: &Caller, id: SourceId) -> Result<()> {
    Ok(caller.store.delete_source(id, caller.principal.as_str()).await?)
}
