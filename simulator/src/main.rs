//! `genesys-simulator`: Genesys Cloud and a CRM on the command line, and the demo that puts the bridge
//! between them.

mod program;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match program::run(program::Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            program::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
