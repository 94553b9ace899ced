//! The variables there are, and what they are set to: the only place that reads the environment.

use std::collections::BTreeMap;
use std::fmt;

use super::ConfigError;

/// One variable: name, default as shown, effect in a sentence, and whether its value is a secret.
#[derive(Debug)]
pub struct Variable {
    /// Its name in the environment.
    pub name: &'static str,
    /// What holds when it is unset.
    pub default: &'static str,
    /// Meaning and range, for `--help`.
    pub help: &'static str,
    /// Its value is never shown; `NAME_FILE` may hold a file's path instead.
    pub secret: bool,
}

const fn plain(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, secret: false }
}

const fn secret(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default, help, secret: true }
}

/// Every variable that the bridge reads; `--help`, `check-config` and the guard against typing errors go by
/// it.
pub const VARIABLES: &[Variable] = &[
    secret("DATABASE_URL", "embedded", "Postgres; unset: an embedded one under BRIDGE_DATA_DIR"),
    plain(
        "BRIDGE_ALLOW_PLAIN_DATABASE",
        "false",
        "true: DATABASE_URL may lead to another machine without TLS",
    ),
    plain(
        "BRIDGE_DATABASE_CONNECTIONS",
        "12",
        "connections to the database at most, from 8; fewer are used where the server allows fewer",
    ),
    plain(
        "BRIDGE_REQUIRE_SYNC",
        "false",
        "true: not ready unless commits in DATABASE_URL wait for a synchronous standby",
    ),
    plain(
        "BRIDGE_BUFFER_CHANGES",
        "65536",
        "presence changes that wait in memory while the database is unavailable, 1000 to 1000000",
    ),
    plain("BRIDGE_BUFFER_MIB", "128", "MiB that their frames may take, each rounded up to a KiB, 16 to 4096"),
    plain("BRIDGE_DATA_DIR", "./data", "where the embedded Postgres and generated keys are kept"),
    plain("BRIDGE_LISTEN", "127.0.0.1:8080", "address of the REST API and the console"),
    plain("BRIDGE_CONSOLE", "on", "off: there is no console at /console/"),
    plain(
        "BRIDGE_CONSOLE_SESSION_HOURS",
        "12",
        "how long a browser stays logged in to the console, up to 720",
    ),
    secret(
        "BRIDGE_API_KEY",
        "generated",
        "admin key, at least 32 characters; unset: made once, kept in the data directory",
    ),
    secret(
        "BRIDGE_MASTER_KEY",
        "generated",
        "32 bytes in base64 that seal secrets at rest; required with DATABASE_URL",
    ),
    secret("BRIDGE_NEW_MASTER_KEY", "generated", "the key that `rotate-master-key` is to put in its place"),
    plain(
        "BRIDGE_ALLOW_TARGETS",
        "none",
        "CIDRs that webhooks may reach although not public; http: only inside them",
    ),
    secret(
        "BRIDGE_EGRESS_PROXY",
        "none",
        "http://[user:password@]host:port that all POSTs to webhooks go through",
    ),
    secret(
        "BRIDGE_GENESYS_PROXY",
        "none",
        "http://[user:password@]host:port that all calls and sockets to Genesys go through",
    ),
    plain(
        "BRIDGE_TRUSTED_PROXIES",
        "none",
        "CIDRs of proxies whose X-Forwarded-For or Forwarded tells where a call comes from",
    ),
    plain("BRIDGE_API_RATE", "1000/10", "calls/seconds that one API key may make, or off"),
    plain("BRIDGE_WEBHOOKS_MAX", "20000", "webhooks that a tenant may have, 1 to 1000000"),
    plain(
        "BRIDGE_FILTER_ITEMS_MAX",
        "2000000",
        "items that the filters of all its webhooks may have together, 1 to 100000000",
    ),
    plain(
        "BRIDGE_METRICS_WEBHOOKS",
        "0",
        "webhooks with a backlog of their own in /metrics, those that wait longest, 0 to 1000",
    ),
    plain("BRIDGE_LOG", "info", "log filter, such as info,presence_bridge=debug"),
    plain("BRIDGE_RETENTION_DAYS", "30", "days that events and audit entries are kept, 1 to 3650"),
    plain(
        "BRIDGE_PARKED_RETENTION_DAYS",
        "30",
        "days that deliveries to a paused or unverified webhook wait before they expire, 1 to 3650",
    ),
    plain("BRIDGE_SYSLOG_URL", "none", "syslog receiver of the audit log: udp://, tcp:// or tls://host:port"),
    plain(
        "BRIDGE_SYSLOG_MAX_BYTES",
        "8000",
        "longest message over tcp:// and tls://, 2048 to 1048576; longer entries are shortened",
    ),
    plain("GENESYS_PROTOCOL", "notifications", "upstream protocol: notifications or realtime"),
    plain(
        "GENESYS_REGION",
        "none",
        "region by domain, host or AWS name, such as mypurecloud.de, api.mypurecloud.de or eu-central-1",
    ),
    plain("GENESYS_API_URL", "https://api.REGION", "address of the REST API upstream"),
    plain(
        "GENESYS_LOGIN_URL",
        "https://login.REGION",
        "address that issues tokens; with GENESYS_API_URL: that one",
    ),
    plain("GENESYS_CLIENT_ID", "none", "OAuth client id"),
    secret("GENESYS_CLIENT_SECRET", "none", "OAuth client secret"),
    plain("GENESYS_AGENTS", "none", "ids of the agents to watch, separated by commas"),
    plain("GENESYS_ALL_USERS", "false", "true: watch every active user (protocol notifications)"),
    plain("GENESYS_QUEUES", "none", "ids of queues whose members to watch (protocol notifications)"),
    plain("GENESYS_GROUPS", "none", "ids of groups whose members to watch (protocol notifications)"),
    plain(
        "GENESYS_ROSTER_INTERVAL_SECONDS",
        "600",
        "how often users, queues and groups are read again, 5 to 86400",
    ),
    plain(
        "GENESYS_TOPICS",
        "activity",
        "activity, or some of presence,routingStatus,outofoffice; protocol realtime: routing:agent:state",
    ),
    plain("GENESYS_LANGUAGE", "en_US", "language of presence labels"),
    plain(
        "GENESYS_STALE_AFTER_SECONDS",
        "120",
        "seconds without a live connection after which the source is stale, 5 to 86400",
    ),
    plain("GENESYS_HEARTBEAT_INTERVAL_MS", "15000", "how often upstream shall ping (protocol realtime)"),
];

/// Variables as found: name to value and where it came from.
#[derive(Clone, Default)]
pub struct Variables {
    values: BTreeMap<String, (String, &'static str)>,
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variables(…)")
    }
}

impl Variables {
    /// Reads the environment, and behind it `.env` in the working directory.
    ///
    /// # Errors
    /// If `.env` exists and cannot be read, or a `NAME_FILE` cannot be.
    pub fn read() -> Result<Self, ConfigError> {
        let mut variables = Self::read_as_set()?;
        variables.read_files()?;
        Ok(variables)
    }

    /// The same without the files that secrets may stand in, for commands that need none of the bridge's.
    ///
    /// # Errors
    /// If `.env` exists and cannot be read.
    pub fn read_as_set() -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        match dotenvy::from_path_iter(".env") {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|_| dotenv_error("a line is not NAME=value"))?;
                    values.insert(name, (value, ".env"));
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => return Err(dotenv_error("cannot be read")),
        }
        for (name, value) in std::env::vars_os() {
            if let (Ok(name), value) = (name.into_string(), value.to_string_lossy()) {
                values.insert(name, (value.into_owned(), "environment"));
            }
        }
        Ok(Self { values })
    }

    /// Takes variables from a list; for tests.
    #[must_use]
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values = pairs.into_iter().map(|(k, v)| (k.to_owned(), (v.to_owned(), "environment"))).collect();
        Self { values }
    }

    /// Puts the content of `NAME_FILE` in the place of `NAME`, for secrets.
    fn read_files(&mut self) -> Result<(), ConfigError> {
        for variable in VARIABLES.iter().filter(|variable| variable.secret) {
            let file = format!("{}_FILE", variable.name);
            let Some(path) = self.get(&file).map(str::to_owned) else {
                continue;
            };
            let content = std::fs::read_to_string(&path).map_err(|error| ConfigError {
                variable: file,
                rule: format!("{path} cannot be read: {error}"),
            })?;
            self.values.insert(variable.name.to_owned(), (content.trim().to_owned(), "file"));
        }
        Ok(())
    }

    /// A value that is set and not blank; an empty variable counts as unset, as docker-compose passes it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.trim()).filter(|value| !value.is_empty())
    }

    /// Names of all that is set, ours and others.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Every variable with its effective value, without what is secret.
    #[must_use]
    pub fn effective(&self) -> Vec<Effective> {
        let effective = |variable: &'static Variable| {
            let set = self.get(variable.name).zip(self.values.get(variable.name));
            let (value, origin) = match set {
                Some((_, (_, from))) if variable.secret => (None, *from),
                Some((value, (_, from))) => (Some(value.to_owned()), *from),
                None => (Some(variable.default.to_owned()), "default"),
            };
            Effective { variable, value, origin }
        };
        VARIABLES.iter().map(effective).collect()
    }

    /// One line a variable for `check-config`: effective value, secrets masked, and where it came from.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let line = |one: Effective| {
            let value = one.value.as_deref().unwrap_or("(secret)");
            format!("{} = {value}  [{}]", one.variable.name, one.origin)
        };
        self.effective().into_iter().map(line).collect()
    }
}

/// A variable as it counts.
#[derive(Clone, Debug)]
pub struct Effective {
    pub variable: &'static Variable,
    /// Its value; `None` for a secret that is set.
    pub value: Option<String>,
    /// Where it comes from: `environment`, `.env`, `file` or `default`.
    pub origin: &'static str,
}

fn dotenv_error(rule: &str) -> ConfigError {
    ConfigError { variable: ".env".to_owned(), rule: rule.to_owned() }
}
