//! `presence-bridge completions` and `presence-bridge man`: what a package installs with the program.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

/// For `--help`.
pub const COMPLETIONS_EXAMPLE: &str = "Examples:
  presence-bridge completions bash > ~/.local/share/bash-completion/completions/presence-bridge
  presence-bridge completions zsh > ~/.zfunc/_presence-bridge";
/// For `--help`.
pub const MAN_EXAMPLE: &str = "Example:
  presence-bridge man ~/.local/share/man/man1";

const NAME: &str = "presence-bridge";

/// Which shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub struct Man {
    /// Folder that gets a page for each command; it is made if it is not there.
    folder: PathBuf,
}

/// Prints completions of a command line.
///
/// # Errors
/// If stdout takes nothing.
pub fn completions(wanted: Completions, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(wanted.shell, &mut command, NAME, &mut text);
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes manual pages of a command line.
///
/// # Errors
/// If a file cannot be written.
pub fn man(wanted: Man, command: Command) -> anyhow::Result<ExitCode> {
    let folder = wanted.folder.display();
    std::fs::create_dir_all(&wanted.folder)
        .and_then(|()| clap_mangen::generate_to(command, &wanted.folder))
        .with_context(|| format!("{folder} takes no pages"))?;
    Ok(ExitCode::SUCCESS)
}
