//! Floor 4: `presence-bridge audit …`, for auditors and for whoever collects logs. A bridge may run at the
//! same time.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use crate::app;
use crate::cli::pipe;
use crate::cli::terminal::progress;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::domain::audit::seal::Head;
use crate::domain::secret::MasterKey;
use crate::store::Store;
use crate::store::audit::export::ExportFilter;
use crate::store::audit::verify::{ChainCheck, ChainVerdict};

/// How often `--follow` looks for more.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check every row and every seal; exit code 0 if all are as they were, 1 if not.
    Verify {
        /// A head that was kept elsewhere, or a file that holds it: finds that the end is cut off or the
        /// chain was made again.
        #[arg(long)]
        head: Option<String>,
        /// Say it in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the head: the number of the last seal and its digest, to be kept elsewhere.
    Head,
    /// Write sealed entries to stdout, one JSON object a line, oldest first.
    Export {
        /// Begin behind this entry: the id of the last line that was taken.
        #[arg(long, value_name = "CURSOR", default_value_t = 0)]
        since: i64,
        /// Only entries before this time (RFC 3339).
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<OffsetDateTime>,
        /// Go on with new entries as they are sealed.
        #[arg(long, conflicts_with = "until")]
        follow: bool,
        /// Only entries of this tenant.
        #[arg(long, value_name = "ID")]
        tenant: Option<Uuid>,
    },
}

fn parse_time(text: &str) -> Result<OffsetDateTime, String> {
    clock::read_rfc3339(text).ok_or_else(|| "no RFC 3339 time such as 2026-01-31T09:30:00Z".to_owned())
}

/// Runs one of the commands on a database that a bridge may use at the same time.
///
/// # Errors
/// A [`ConfigError`] inside if the configuration or the command line is wrong.
pub async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    let expected = match &command {
        Command::Verify { head: Some(head), .. } => Some(read_head(head)?),
        _ => None,
    };
    let master_key = app::master_key(&config)?;
    let (store, embedded) = app::open_for_cli(&config).await?;
    let done = match command {
        Command::Verify { json, .. } => verify(&store, &master_key, expected, json).await,
        Command::Head => head(&store).await,
        Command::Export { since, until, follow, tenant } => {
            export(&store, since, ExportFilter { tenant, until }, follow).await
        }
    };
    store.close().await;
    if let Some(server) = embedded {
        server.stop();
    }
    Ok(if done? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_head(given: &str) -> Result<Head, ConfigError> {
    let config_error = |rule: String| ConfigError { variable: "--head".to_owned(), rule };
    let text = if Path::new(given).is_file() {
        std::fs::read_to_string(given)
            .map_err(|error| config_error(format!("{given} cannot be read: {error}")))?
    } else {
        given.to_owned()
    };
    text.parse().map_err(|rule: &str| config_error(rule.to_owned()))
}

async fn verify(
    store: &Store,
    master_key: &MasterKey,
    expected: Option<Head>,
    as_json: bool,
) -> anyhow::Result<bool> {
    if !store.is_sealed_under(master_key).await.context("the audit log cannot be read")? {
        let rule = "is not the key that secrets in this database were sealed with".to_owned();
        return Err(ConfigError { variable: "BRIDGE_MASTER_KEY".to_owned(), rule }.into());
    }
    let keys = store.audit_keys(master_key).await?;
    let seals = store.last_seal().await?.and_then(|last| u64::try_from(last.head.seal_id).ok());
    let bar = progress::bar("seals", seals);
    let mut check = ChainCheck::of_all(&keys, expected);
    while check.step(store).await? {
        bar.set_position(check.so_far().seals.unsigned_abs());
    }
    bar.finish_and_clear();
    let verdict = *check.so_far();
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", as_json_of(&verdict))?;
    } else {
        write!(out, "{}", in_words(&verdict))?;
    }
    Ok(verdict.fault.is_none())
}

fn as_json_of(verdict: &ChainVerdict) -> serde_json::Value {
    json!({
        "ok": verdict.fault.is_none(),
        "seals": verdict.seals,
        "rows": verdict.rows,
        "rows_erased": verdict.rows_erased,
        "rows_dropped": verdict.rows_dropped,
        "heads_lost": verdict.heads_lost,
        "lost_head": verdict.lost_head.map(|lost| lost.head.to_string()),
        "unsealed": verdict.unsealed,
        "head": verdict.head.map(|head| head.to_string()),
        "fault": verdict.fault.map(|fault| json!({
            "what": fault.what.as_str(),
            "seal": fault.seal_id,
            "id": fault.audit_id,
            "day": fault.day.map(|day| day.to_string()),
        })),
    })
}

fn in_words(verdict: &ChainVerdict) -> String {
    let ChainVerdict { seals, rows, rows_erased, rows_dropped, unsealed, .. } = verdict;
    let head = verdict.head.map_or("none".to_owned(), |head| head.to_string());
    let lost = verdict.lost_head.map_or(String::new(), |lost| {
        let (seal, head) = (lost.continues_from, lost.head);
        format!("a failover of the database lost the head {head}; the chain goes on from seal {seal}\n")
    });
    match &verdict.fault {
        None => format!(
            "OK: {rows} rows in {seals} seals are as they were sealed\n\
             of {rows_erased} of them the particulars were erased by this bridge\n\
             {unsealed} newest rows are not sealed yet, {rows_dropped} were dropped with their day by retention\n\
             {lost}head {head}\n"
        ),
        Some(fault) => format!(
            "BAD: {fault}\nup to there {rows} rows in {seals} seals are as they were sealed; last good head {head}\n"
        ),
    }
}

async fn head(store: &Store) -> anyhow::Result<bool> {
    match store.last_seal().await.context("the audit log cannot be read")? {
        Some(last) => println!("{}", last.head),
        None => eprintln!("presence-bridge: nothing is sealed yet"),
    }
    Ok(true)
}

/// A reader that has seen enough (`| head`) ends it quietly.
async fn export(store: &Store, since: i64, wanted: ExportFilter, follow: bool) -> anyhow::Result<bool> {
    match export_all(store, since, wanted, follow).await {
        Err(error) if pipe::is_broken(&error) => Ok(true),
        other => other,
    }
}

async fn export_all(store: &Store, since: i64, wanted: ExportFilter, follow: bool) -> anyhow::Result<bool> {
    let mut out = BufWriter::new(io::stdout());
    // Rows on the screen show by themselves how far it is.
    let bar = (!follow && !io::stdout().is_terminal()).then(|| progress::bar("rows", None));
    let mut after = since;
    loop {
        let mut export = match store.begin_export(after, wanted).await {
            Err(error) if follow && error.is_transient() => {
                sleep(FOLLOW_EVERY).await;
                continue;
            }
            export => export.context("the audit log cannot be read")?,
        };
        loop {
            let rows = match export.next(store).await {
                Err(error) if follow && error.is_transient() => break,
                rows => rows?,
            };
            let Some(rows) = rows else { break };
            for row in &rows {
                serde_json::to_writer(&mut out, row)?;
                out.write_all(b"\n")?;
            }
            out.flush()?;
            if let Some(bar) = &bar {
                bar.inc(u64::try_from(rows.len()).unwrap_or_default());
            }
        }
        after = export.after();
        if !follow {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            let waiting = store.unsealed_rows().await?;
            if waiting > 0 {
                eprintln!(
                    "presence-bridge: {waiting} newest rows are not sealed yet and come with the next export"
                );
            }
            return Ok(true);
        }
        sleep(FOLLOW_EVERY).await;
    }
}
