//! Floor 4: `presence-bridge rotate-master-key`. Seals everything in the database again, under another key,
//! in one transaction, then the key's file, if it is in one, is replaced. Cut off at whatever moment, it
//! leaves a database that the old key or the new one opens as a whole, both of which are still there, and
//! running it again ends it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::app::{self, config_error};
use crate::clock;
use crate::config::Config;
use crate::domain::secret::MasterKey;
use crate::keyfile::{self, KeyFile};
use crate::random;
use crate::store::rotation::RotationError;

/// Where the keys come from.
enum Keys {
    /// Both from variables: whoever set them puts the new one in the place of the old one.
    Given { old: MasterKey, new: MasterKey },
    /// In the data directory: `master.key`, and next to it the one that is to replace it.
    InFiles { old: MasterKey, new: MasterKey, path: PathBuf, new_path: PathBuf, old_path: PathBuf },
}

/// Changes the master key and says on standard output what it did.
///
/// # Errors
/// A `ConfigError` inside if the configuration is wrong. Then, and after every other error, nothing is
/// changed.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let (store, embedded) = app::open_store(&config).await?;
    let keys = keys(&config)?;
    let (Keys::Given { old, new } | Keys::InFiles { old, new, .. }) = &keys;
    let rotated = store.rotate_master_key(old, new, clock::now()).await;
    store.close().await;
    if let Some(server) = embedded {
        server.stop();
    }
    let done = rotated.map_err(|error| match error {
        RotationError::OtherKey(_) => {
            config_error("BRIDGE_MASTER_KEY", &format!("is the wrong one: {error}"))
        }
        error => anyhow::Error::from(error).context("the master key was not changed"),
    })?;
    let count: u64 = done.iter().map(|(_, count)| count).sum();
    let tables: Vec<_> = done.iter().map(|(table, count)| format!("{table} {count}")).collect();
    println!("{count} values are sealed under the new key now ({}).", tables.join(", "));
    match keys {
        Keys::Given { .. } => {
            println!(
                "Start the bridge with the new key as BRIDGE_MASTER_KEY, and without BRIDGE_NEW_MASTER_KEY."
            );
        }
        Keys::InFiles { path, new_path, old_path, .. } => {
            keyfile::replace(&path, &new_path, &old_path)
                .with_context(|| format!("{} could not be replaced; run this again", path.display()))?;
            println!("{} holds the new key.", path.display());
            println!(
                "Backups from before need the old one, {}; remove it when there are none.",
                old_path.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keys(config: &Config) -> anyhow::Result<Keys> {
    let given = config.new_master_key.as_ref().map(|text| text.expose());
    if let Some(old) = &config.master_key {
        let new = given.and_then(MasterKey::from_base64).ok_or_else(|| {
            config_error(
                "BRIDGE_NEW_MASTER_KEY",
                "required with BRIDGE_MASTER_KEY: the key to put in its place",
            )
        })?;
        differs(old, &new)?;
        return Ok(Keys::Given { old: old.clone(), new });
    }
    let path = config.data_dir.join("master.key");
    let new_path = path.with_extension("key.new");
    let old = app::master_key(config)?;
    // By its id, so that none takes the place of an older one.
    let id: String = old.id().iter().map(|byte| format!("{byte:02x}")).collect();
    let old_path = path.with_extension(format!("key.old-{id}"));
    let make = || given.map_or_else(|| BASE64.encode(random::bytes::<32>()), str::to_owned);
    let (KeyFile::Found(text) | KeyFile::Created(text)) = app::load_or_create_key(&new_path, make)?;
    if given.is_some_and(|given| given.trim() != text) {
        let rule =
            format!("is not the key in {}, which a rotation that was cut off has left", new_path.display());
        return Err(config_error("BRIDGE_NEW_MASTER_KEY", &rule));
    }
    let new = MasterKey::from_base64(&text).ok_or_else(|| {
        config_error("BRIDGE_DATA_DIR", &format!("{} does not hold 32 bytes in base64", new_path.display()))
    })?;
    differs(&old, &new)?;
    Ok(Keys::InFiles { old, new, path, new_path, old_path })
}

fn differs(old: &MasterKey, new: &MasterKey) -> anyhow::Result<()> {
    if old.id() == new.id() {
        return Err(config_error("BRIDGE_NEW_MASTER_KEY", "is the present key"));
    }
    Ok(())
}
