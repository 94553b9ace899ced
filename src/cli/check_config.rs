//! `presence-bridge check-config`: the configuration alone.

use std::process::ExitCode;

use crate::config::{Config, ConfigError, Variables};

/// Checks the configuration and prints it, without what is secret.
///
/// # Errors
/// Everything that is wrong with it.
pub fn run(variables: &Variables) -> Result<ExitCode, Vec<ConfigError>> {
    Config::from_variables(variables)?;
    for line in variables.describe() {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}
