//! Bridges that one has a name for: their addresses and keys, in a file that only its user can read.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::secret::Secret;

/// What group and others may not have.
const OTHERS: u32 = 0o077;

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The profile that counts if none is named.
    pub default: Option<String>,
    /// Profiles by name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// A bridge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its address.
    pub url: String,
    /// A key to it.
    pub api_key: Secret,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfilesError {
    /// Others may read it.
    #[error("others may read it (mode {0:04o}), and it holds keys: chmod 600")]
    Open(u32),
    /// It is not what this program writes.
    #[error("line {0} is not as `presence-bridge profile set` writes it")]
    Malformed(usize),
    /// The system says no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Profiles {
    /// Reads them; none if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, or could be read by others.
    pub fn read(path: &Path) -> Result<Self, ProfilesError> {
        let mode = match fs::metadata(path) {
            Ok(found) => found.permissions().mode() & 0o7777,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        if mode & OTHERS != 0 {
            return Err(ProfilesError::Open(mode));
        }
        let text = fs::read_to_string(path)?;
        // The library's own message would quote the line, and with it the key.
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ProfilesError::Malformed(before.matches('\n').count() + 1)
        })
    }

    /// Writes them, so that the file is always whole and never readable by others.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ProfilesError> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(fs::rename(&new, path)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_is_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/profiles.toml");
        assert!(Profiles::read(&path).unwrap().profiles.is_empty());
        let mut profiles = Profiles { default: Some("a".to_owned()), ..Profiles::default() };
        let profile = Profile { url: "https://a".to_owned(), api_key: Secret::new("k\"\n") };
        profiles.profiles.insert("a".to_owned(), profile);
        for _ in 0..2 {
            profiles.write(&path).unwrap();
            let read = Profiles::read(&path).unwrap();
            assert_eq!(read.default.as_deref(), Some("a"));
            assert_eq!(read.profiles.get("a").unwrap().api_key.expose(), "k\"\n");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiles.toml");
        Profiles::default().write(&path).unwrap();
        for (mode, fits) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Profiles::read(&path).is_ok(), fits, "{mode:o}");
        }
    }

    #[test]
    fn a_malformed_file_is_told_by_its_line_and_without_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiles.toml");
        Profiles::default().write(&path).unwrap();
        fs::write(&path, "[profiles.a]\nurl = \"u\"\napi_key = CANARY\n").unwrap();
        let said = Profiles::read(&path).unwrap_err().to_string();
        assert!(said.starts_with("line 3 ") && !said.contains("CANARY"), "{said}");
    }
}
