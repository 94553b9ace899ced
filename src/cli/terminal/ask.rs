//! Questions to the person at the terminal.

use std::io::{self, IsTerminal, Write};

use super::print::remark;
use crate::config::ConfigError;
use crate::domain::secret::Secret;

/// Asks whether to go on, unless `yes` was said before. Nobody is asked through a pipe: a script says so.
///
/// # Errors
/// A [`ConfigError`] inside if nobody can be asked.
pub fn go_on(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        let rule = "required where nobody can be asked; nothing was done".to_owned();
        return Err(ConfigError { variable: "--yes".to_owned(), rule }.into());
    }
    write!(io::stderr(), "{} [y/N] ", super::text::plain(question))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let agreed = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    if !agreed {
        remark("Nothing was done.");
    }
    Ok(agreed)
}

/// Reads a secret: from the terminal without an echo, or all of stdin where that is none.
///
/// # Errors
/// If it cannot be read.
pub fn secret(what: &str) -> io::Result<Secret> {
    let text = if io::stdin().is_terminal() {
        write!(io::stderr(), "{what}: ")?;
        console_terminal::Term::stderr().read_secure_line()?
    } else {
        io::read_to_string(io::stdin())?
    };
    Ok(Secret::new(text.trim()))
}
