//! Floor 1: keys that the bridge makes for itself at the first start and keeps in files that only its user
//! can read.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A key from its file, or a new one.
#[derive(PartialEq, Eq)]
pub enum KeyFile {
    /// It was there.
    Found(String),
    /// It was made, and is stored now.
    Created(String),
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Found(_)) { "Found(…)" } else { "Created(…)" })
    }
}

/// Reads the key from `path`, or makes one and stores it there with mode 0600.
///
/// # Errors
/// If the file can be neither read nor made.
pub fn read_or_create(path: &Path, make: impl FnOnce() -> String) -> io::Result<KeyFile> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(KeyFile::Found(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let key = make();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    Ok(KeyFile::Created(key))
}

/// Puts the key of `new` in the place of `path`, and a copy of the former one in `old`. Whenever this is cut
/// off, calling it again completes it.
///
/// # Errors
/// If a file cannot be moved.
pub fn replace(path: &Path, new: &Path, old: &Path) -> io::Result<()> {
    // A copy rather than a move, so that there is a key at `path` at every moment.
    let mut former = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(old)?;
    former.write_all(fs::read_to_string(path)?.as_bytes())?;
    former.sync_all()?;
    fs::rename(new, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
