//! Floor 1: the configuration, and the only place that reads the environment.
//!
//! Everything comes from variables (a `.env` file in the working directory stands behind the environment).
//! What is wrong is said in one line that names the variable and the rule, never a secret's value.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::access::tenant_quota::TenantQuota;
use crate::domain::access::token_bucket::CallRate;
use crate::domain::audit::syslog::{MESSAGE_MIN, Receiver};
use crate::domain::presence::source::{
    ENVIRONMENT_SOURCE_NAME, PROTOCOL_NOTIFICATIONS, PROTOCOL_REALTIME, SourceSettings,
};
use crate::domain::presence::topics::TopicMatrix;
use crate::domain::secret::{MasterKey, Secret};
use crate::domain::violation::Violation;
use crate::telemetry;

mod client;
mod database;
mod egress;
mod servers;
mod variables;

pub use client::{ClientSettings, LocalBridge};
pub use database::DATABASE_CONNECTIONS_MIN;
pub use egress::EgressProxy;
pub use servers::database_servers;
pub use variables::{Effective, VARIABLES, Variable, Variables};

/// Length that a chosen API key must have: 32 characters of a random key cannot be guessed.
const API_KEY_CHARS_MIN: usize = 32;
/// rsyslog cuts what is longer than 8,096 bytes, unless it is set up otherwise.
const SYSLOG_MAX_BYTES: usize = 8000;
/// What is wrong with a text that is no master key.
const NOT_A_KEY: &str = "must be 32 bytes in base64, such as `openssl rand -base64 32` gives";

/// A variable that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: String,
    /// The rule, without the value if that is a secret.
    pub rule: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.rule)
    }
}

/// How much may wait for the database in memory before sockets are dropped on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Presence changes.
    pub changes: usize,
    /// MiB that their frames take together.
    pub frames_mib: usize,
}

impl Default for Buffer {
    /// Two minutes of 500 changes a second.
    fn default() -> Self {
        Self { changes: 65_536, frames_mib: 128 }
    }
}

/// The configuration as the program uses it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Postgres; `None`: embedded.
    pub database_url: Option<Secret>,
    /// Connections to the database that one bridge has at most.
    pub database_connections: u32,
    /// The bridge is not ready unless commits wait for a standby.
    pub require_sync: bool,
    /// Presence changes that wait for the database at most.
    pub buffer: Buffer,
    /// Where the embedded Postgres and generated keys are kept.
    pub data_dir: PathBuf,
    /// Address of the REST API.
    pub listen: SocketAddr,
    /// Chosen admin key; `None`: generated.
    pub api_key: Option<Secret>,
    /// Chosen master key; `None`: generated (embedded database only).
    pub master_key: Option<MasterKey>,
    /// The key that a rotation puts in its place, in base64; `None`: generated.
    pub new_master_key: Option<Secret>,
    /// The only way out to receivers; `None`: straight.
    pub egress_proxy: Option<EgressProxy>,
    /// The only way to Genesys; `None`: straight.
    pub genesys_proxy: Option<EgressProxy>,
    /// Variables that name a proxy to other programs, and are not read.
    pub ignored_proxies: Vec<String>,
    /// Targets that webhooks may reach although they are not public.
    pub allow_targets: Vec<IpNet>,
    /// Proxies whose word counts on where a call comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Calls that one API key may make; `None`: any number.
    pub api_rate: Option<CallRate>,
    /// How much a tenant may have.
    pub tenant_quota: TenantQuota,
    /// How long a browser stays logged in to the console; `None`: there is no console.
    pub console: Option<Duration>,
    /// Webhooks that have figures of their own in `/metrics`, at most.
    pub metrics_webhooks: u32,
    /// Log filter.
    pub log: String,
    /// Days that events and audit entries are kept.
    pub retention_days: u32,
    /// Days that a delivery to a webhook that takes none (paused, not verified) is kept before it ends.
    pub parked_retention_days: u32,
    /// Who is pushed the audit log, if anybody is.
    pub syslog: Option<Receiver>,
    /// Longest message that is pushed to them.
    pub syslog_max_bytes: usize,
    /// The source described by the GENESYS_ variables, if any is set.
    pub source: Option<SourceSettings>,
    /// Every variable as it counts, without what is secret.
    pub effective: Vec<Effective>,
}

impl Config {
    /// Reads all variables and reports everything that is wrong with them.
    ///
    /// # Errors
    /// One entry for each variable that breaks its rule.
    pub fn from_variables(variables: &Variables) -> Result<Self, Vec<ConfigError>> {
        let mut read = Reader { variables, errors: unknown(variables) };
        let config = Self {
            database_url: read
                .parse("DATABASE_URL", None, |text| database::check(text).map(|()| Some(Secret::new(text)))),
            database_connections: read.parse("BRIDGE_DATABASE_CONNECTIONS", 12, database::connections),
            require_sync: read.boolean("BRIDGE_REQUIRE_SYNC"),
            buffer: buffer(&mut read),
            data_dir: PathBuf::from(variables.get("BRIDGE_DATA_DIR").unwrap_or("./data")),
            listen: listen(&mut read),
            api_key: read.parse("BRIDGE_API_KEY", None, |text| {
                let long = text.chars().count() >= API_KEY_CHARS_MIN;
                let printable = text.chars().all(|c| c.is_ascii_graphic());
                (long && printable)
                    .then(|| Some(Secret::new(text)))
                    .ok_or(format!("must have at least {API_KEY_CHARS_MIN} printable ASCII characters"))
            }),
            master_key: read.parse("BRIDGE_MASTER_KEY", None, |text| {
                MasterKey::from_base64(text).map(Some).ok_or_else(|| NOT_A_KEY.to_owned())
            }),
            new_master_key: read.parse("BRIDGE_NEW_MASTER_KEY", None, |text| {
                let key = MasterKey::from_base64(text).map(|_| Some(Secret::new(text)));
                key.ok_or_else(|| NOT_A_KEY.to_owned())
            }),
            egress_proxy: read.parse("BRIDGE_EGRESS_PROXY", None, proxy),
            genesys_proxy: read.parse("BRIDGE_GENESYS_PROXY", None, proxy),
            ignored_proxies: ignored_proxies(variables),
            allow_targets: read.parse("BRIDGE_ALLOW_TARGETS", Vec::new(), cidrs),
            trusted_proxies: read.parse("BRIDGE_TRUSTED_PROXIES", Vec::new(), cidrs),
            api_rate: read.parse("BRIDGE_API_RATE", Some(CallRate::DEFAULT), CallRate::read),
            tenant_quota: tenant_quota(&mut read),
            console: console(&mut read),
            metrics_webhooks: read.parse("BRIDGE_METRICS_WEBHOOKS", 0, |text| within(text, 0..=1000)),
            log: read.parse("BRIDGE_LOG", "info".to_owned(), |text| {
                telemetry::parse_filter(text).map(|_| text.to_owned())
            }),
            retention_days: read.parse("BRIDGE_RETENTION_DAYS", 30, days),
            parked_retention_days: read.parse("BRIDGE_PARKED_RETENTION_DAYS", 30, days),
            syslog: read.parse("BRIDGE_SYSLOG_URL", None, |text| {
                let rule = "must be udp://host:port, tcp://host:port or tls://host:port".to_owned();
                Receiver::parse(text).map(Some).ok_or(rule)
            }),
            syslog_max_bytes: read.parse("BRIDGE_SYSLOG_MAX_BYTES", SYSLOG_MAX_BYTES, |text| {
                within(text, MESSAGE_MIN..=1_048_576)?.try_into().map_err(|_| "is too large".to_owned())
            }),
            source: source(&mut read),
            effective: variables.effective(),
        };
        if variables.get("DATABASE_URL").is_some() && variables.get("BRIDGE_MASTER_KEY").is_none() {
            let rule =
                "required with DATABASE_URL: 32 bytes in base64, such as `openssl rand -base64 32` gives";
            read.wrong("BRIDGE_MASTER_KEY", rule);
        }
        let plain = read.boolean("BRIDGE_ALLOW_PLAIN_DATABASE");
        let url = config.database_url.as_ref().map(Secret::expose);
        if !plain && url.is_some_and(|url| !database::is_protected(url, variables)) {
            let rule = "leads to another machine without TLS; add sslmode=verify-full (or require), or set \
                        BRIDGE_ALLOW_PLAIN_DATABASE=true if nobody else reaches that network";
            read.wrong("DATABASE_URL", rule);
        }
        if read.errors.is_empty() { Ok(config) } else { Err(read.errors) }
    }
}

/// Address of the REST API alone, for a health check, which runs next to the bridge and may know nothing
/// else.
///
/// # Errors
/// If `BRIDGE_LISTEN` breaks its rule.
pub fn listen_address(variables: &Variables) -> Result<SocketAddr, ConfigError> {
    let mut read = Reader { variables, errors: Vec::new() };
    let address = listen(&mut read);
    read.errors.pop().map_or(Ok(address), Err)
}

fn listen(read: &mut Reader<'_>) -> SocketAddr {
    read.parse("BRIDGE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080)), |text| {
        text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned())
    })
}

fn buffer(read: &mut Reader<'_>) -> Buffer {
    let default = Buffer::default();
    let mut number = |name, default, range| {
        read.parse(name, default, |text| {
            within(text, range)?.try_into().map_err(|_| "is too large".to_owned())
        })
    };
    Buffer {
        changes: number("BRIDGE_BUFFER_CHANGES", default.changes, 1000..=1_000_000),
        frames_mib: number("BRIDGE_BUFFER_MIB", default.frames_mib, 16..=4096),
    }
}

/// How long a browser stays logged in to the console, if there is one.
fn console(read: &mut Reader<'_>) -> Option<Duration> {
    let on = read.parse("BRIDGE_CONSOLE", true, |text| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    });
    let hours = read.parse("BRIDGE_CONSOLE_SESSION_HOURS", 12, |text| within(text, 1..=720));
    on.then(|| Duration::from_secs(u64::from(hours) * 3600))
}

/// Variables with our prefixes that we do not know: most likely typing errors, so nothing may start.
fn unknown(variables: &Variables) -> Vec<ConfigError> {
    let known = |name: &str| {
        VARIABLES.iter().any(|variable| {
            name == variable.name || (variable.secret && name.strip_suffix("_FILE") == Some(variable.name))
        })
    };
    variables
        .names()
        .filter(|name| (name.starts_with("BRIDGE_") || name.starts_with("GENESYS_")) && !known(name))
        .map(|name| ConfigError {
            variable: name.to_owned(),
            rule: "unknown variable; `presence-bridge --help` lists those that exist".to_owned(),
        })
        .collect()
}

/// Reads variables one by one and collects what is wrong with them.
struct Reader<'a> {
    variables: &'a Variables,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn wrong(&mut self, variable: &str, rule: &str) {
        self.errors.push(ConfigError { variable: variable.to_owned(), rule: rule.to_owned() });
    }

    /// The default if the variable is not set or breaks its rule, which is then noted.
    fn parse<T>(&mut self, name: &str, default: T, read: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some(text) = self.variables.get(name) else {
            return default;
        };
        read(text).unwrap_or_else(|rule| {
            self.wrong(name, &rule);
            default
        })
    }

    fn number(&mut self, name: &str, default: i32) -> i32 {
        self.parse(name, default, |text| text.parse().map_err(|_| "must be a whole number".to_owned()))
    }

    fn boolean(&mut self, name: &str) -> bool {
        self.parse(name, false, |text| text.parse().map_err(|_| "must be true or false".to_owned()))
    }

    fn text(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(str::to_owned)
    }

    fn list(&self, name: &str) -> Vec<String> {
        list(self.variables.get(name).unwrap_or_default()).map(str::to_owned).collect()
    }
}

fn proxy(text: &str) -> Result<Option<EgressProxy>, String> {
    let rule = "must be http://host:port or http://user:password@host:port";
    EgressProxy::parse(text).map(Some).ok_or_else(|| rule.to_owned())
}

/// Many programs read these, so who sets them for all of a machine may think that we do.
fn ignored_proxies(variables: &Variables) -> Vec<String> {
    let others = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    others.into_iter().filter(|name| variables.get(name).is_some()).map(str::to_owned).collect()
}

fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    list(text)
        .map(|cidr| cidr.parse().map_err(|_| format!("{cidr} is not a CIDR; such as 10.0.0.0/8,fd00::/8")))
        .collect()
}

fn days(text: &str) -> Result<u32, String> {
    within(text, 1..=3650)
}

fn tenant_quota(read: &mut Reader<'_>) -> TenantQuota {
    let default = TenantQuota::default();
    TenantQuota {
        webhooks: read
            .parse("BRIDGE_WEBHOOKS_MAX", default.webhooks, |text| within(text, TenantQuota::WEBHOOKS)),
        filter_items: read.parse("BRIDGE_FILTER_ITEMS_MAX", default.filter_items, |text| {
            within(text, TenantQuota::FILTER_ITEMS)
        }),
    }
}

fn within(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The source that the GENESYS_ variables describe; none if none of them is set.
fn source(read: &mut Reader<'_>) -> Option<SourceSettings> {
    let is_set = |variable: &Variable| read.variables.get(variable.name).is_some();
    if !VARIABLES.iter().any(|variable| variable.name.starts_with("GENESYS_") && is_set(variable)) {
        return None;
    }
    let default = SourceSettings::default();
    let protocol = read.text("GENESYS_PROTOCOL").unwrap_or_else(|| PROTOCOL_NOTIFICATIONS.to_owned());
    let default_topics =
        if protocol == PROTOCOL_REALTIME { topics("routing:agent:state") } else { default.topic_matrix };
    let settings = SourceSettings {
        name: ENVIRONMENT_SOURCE_NAME.to_owned(),
        protocol,
        region: read.text("GENESYS_REGION"),
        api_url: read.text("GENESYS_API_URL"),
        login_url: read.text("GENESYS_LOGIN_URL"),
        client_id: read.text("GENESYS_CLIENT_ID").unwrap_or_default(),
        client_secret: Secret::new(read.text("GENESYS_CLIENT_SECRET").unwrap_or_default()),
        agents: read.list("GENESYS_AGENTS"),
        topic_matrix: read.parse("GENESYS_TOPICS", default_topics, topic_matrix),
        heartbeat_interval_ms: read.number("GENESYS_HEARTBEAT_INTERVAL_MS", default.heartbeat_interval_ms),
        all_users: read.boolean("GENESYS_ALL_USERS"),
        queues: read.list("GENESYS_QUEUES"),
        groups: read.list("GENESYS_GROUPS"),
        language: read.text("GENESYS_LANGUAGE").unwrap_or(default.language),
        stale_after_seconds: read.number("GENESYS_STALE_AFTER_SECONDS", default.stale_after_seconds),
        roster_interval_seconds: read
            .number("GENESYS_ROSTER_INTERVAL_SECONDS", default.roster_interval_seconds),
    };
    match settings.check() {
        Ok(settings) => Some(settings),
        Err(violations) => {
            for violation in violations {
                let variable = variable_of(&violation);
                if !read.errors.iter().any(|error| error.variable == variable) {
                    read.wrong(&variable, &violation.what);
                }
            }
            None
        }
    }
}

/// Topics as a list, or as a JSON object of lists.
fn topic_matrix(text: &str) -> Result<TopicMatrix, String> {
    if !text.starts_with('{') {
        return Ok(topics(text));
    }
    serde_json::from_str(text).map_err(|error| format!("must be a JSON object of topic lists: {error}"))
}

fn variable_of(violation: &Violation) -> String {
    match violation.field.split('/').next().unwrap_or_default() {
        "topic_matrix" => "GENESYS_TOPICS".to_owned(),
        field => format!("GENESYS_{}", field.to_uppercase()),
    }
}

fn topics(text: &str) -> TopicMatrix {
    TopicMatrix::of("topics", &list(text).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    fn errors(pairs: &[(&str, &str)]) -> Vec<String> {
        match Config::from_variables(&Variables::from_pairs(pairs.iter().copied())) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn nothing_set_is_a_working_configuration() {
        let config = Config::from_variables(&Variables::default()).unwrap();
        assert!(config.database_url.is_none() && config.source.is_none());
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn each_wrong_variable_is_named_once_and_no_secret_is_shown() {
        for (name, value) in [
            ("BRIDGE_LISTEN", "8080"),
            ("BRIDGE_API_KEY", "tooshort-CANARY"),
            ("BRIDGE_MASTER_KEY", "CANARY"),
            ("BRIDGE_NEW_MASTER_KEY", "CANARY"),
            ("BRIDGE_EGRESS_PROXY", "socks5://user:CANARY@proxy"),
            ("BRIDGE_GENESYS_PROXY", "https://user:CANARY@proxy"),
            ("BRIDGE_ALLOW_PLAIN_DATABASE", "perhaps"),
            ("BRIDGE_ALLOW_TARGETS", "10.0.0.0/8,ten"),
            ("BRIDGE_TRUSTED_PROXIES", "proxy.example"),
            ("BRIDGE_API_RATE", "fast"),
            ("BRIDGE_BUFFER_CHANGES", "999"),
            ("BRIDGE_BUFFER_MIB", "0.5"),
            ("BRIDGE_METRICS_WEBHOOKS", "1001"),
            ("BRIDGE_WEBHOOKS_MAX", "0"),
            ("BRIDGE_FILTER_ITEMS_MAX", "many"),
            ("BRIDGE_RETENTION_DAYS", "0"),
            ("BRIDGE_PARKED_RETENTION_DAYS", "never"),
            ("BRIDGE_SYSLOG_URL", "http://siem.example.com"),
            ("BRIDGE_SYSLOG_MAX_BYTES", "2047"),
            ("BRIDGE_LOG", "presence=loudest"),
            ("BRIDGE_LISTENN", "127.0.0.1:1"),
        ] {
            let said = errors(&[(name, value)]);
            assert_eq!(said.len(), 1, "{name}: {said:?}");
            assert!(said.iter().all(|line| line.starts_with(&format!("{name}: "))), "{said:?}");
            assert!(said.iter().all(|line| !line.contains("CANARY") && !line.contains('\n')), "{said:?}");
        }
    }

    #[test]
    fn an_own_database_needs_an_own_master_key() {
        let url = ("DATABASE_URL", "postgres://bridge:CANARY@db/bridge?sslmode=verify-full");
        assert_eq!(errors(&[url]).len(), 1);
        assert!(errors(&[url]).iter().all(|line| line.starts_with("BRIDGE_MASTER_KEY: ")));
        assert_eq!(errors(&[url, ("BRIDGE_MASTER_KEY", KEY)]), Vec::<String>::new());
        assert!(
            errors(&[("DATABASE_URL", "mysql://CANARY"), ("BRIDGE_MASTER_KEY", KEY)])
                .iter()
                .all(|line| line.starts_with("DATABASE_URL: ") && !line.contains("CANARY"))
        );
    }

    #[test]
    fn a_database_elsewhere_wants_tls_unless_it_is_said_not_to() {
        let url = ("DATABASE_URL", "postgres://bridge:CANARY@db/bridge");
        let said = errors(&[url, ("BRIDGE_MASTER_KEY", KEY)]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said.iter().all(|line| line.starts_with("DATABASE_URL: ") && !line.contains("CANARY")),
            "{said:?}"
        );
        let plain = ("BRIDGE_ALLOW_PLAIN_DATABASE", "true");
        assert_eq!(errors(&[url, plain, ("BRIDGE_MASTER_KEY", KEY)]), Vec::<String>::new());
    }

    #[test]
    fn a_source_from_the_environment_is_checked_like_one_from_the_api() {
        let whole = [
            ("GENESYS_REGION", "mypurecloud.de"),
            ("GENESYS_CLIENT_ID", "id"),
            ("GENESYS_CLIENT_SECRET", "secret"),
            ("GENESYS_AGENTS", "a, b,,c"),
        ];
        let config = Config::from_variables(&Variables::from_pairs(whole)).unwrap();
        assert_eq!(config.source.unwrap().agents, ["a", "b", "c"]);
        for (name, _) in whole.iter().skip(1) {
            let rest: Vec<_> = whole.iter().filter(|(other, _)| other != name).copied().collect();
            let said = errors(&rest);
            assert!(said.iter().any(|line| line.starts_with(&format!("{name}: "))), "{name}: {said:?}");
        }
    }

    #[test]
    fn what_nobody_says_of_a_source_follows_from_the_protocol() {
        let short = [
            ("GENESYS_REGION", "eu-central-1"),
            ("GENESYS_CLIENT_ID", "id"),
            ("GENESYS_CLIENT_SECRET", "secret"),
            ("GENESYS_ALL_USERS", "true"),
        ];
        let source = Config::from_variables(&Variables::from_pairs(short)).unwrap().source.unwrap();
        assert_eq!(source.protocol, PROTOCOL_NOTIFICATIONS);
        assert_eq!(source.region.as_deref(), Some("mypurecloud.de"));
        assert_eq!(source.topic_matrix, topics("activity"));
        assert!(source.all_users && source.agents.is_empty());
        assert_eq!((source.stale_after_seconds, source.roster_interval_seconds), (120, 600));
        assert_eq!(source.language, "en_US");

        let realtime = short.iter().copied().filter(|(name, _)| *name != "GENESYS_ALL_USERS");
        let realtime = realtime.chain([("GENESYS_PROTOCOL", "realtime"), ("GENESYS_AGENTS", "a")]);
        let source = Config::from_variables(&Variables::from_pairs(realtime)).unwrap().source.unwrap();
        assert_eq!(source.topic_matrix, topics("routing:agent:state"));
    }

    #[test]
    fn every_setting_of_notifications_can_be_given_and_is_checked() {
        let whole = [
            ("GENESYS_REGION", "mypurecloud.de"),
            ("GENESYS_CLIENT_ID", "id"),
            ("GENESYS_CLIENT_SECRET", "secret"),
            ("GENESYS_QUEUES", "q-1, q-2"),
            ("GENESYS_GROUPS", "g-1"),
            ("GENESYS_TOPICS", "presence,outofoffice"),
            ("GENESYS_LANGUAGE", "de_DE"),
            ("GENESYS_STALE_AFTER_SECONDS", "5"),
            ("GENESYS_ROSTER_INTERVAL_SECONDS", "86400"),
        ];
        let source = Config::from_variables(&Variables::from_pairs(whole)).unwrap().source.unwrap();
        assert_eq!((source.queues, source.groups), (vec!["q-1".into(), "q-2".into()], vec!["g-1".into()]));
        assert_eq!(source.topic_matrix, topics("presence,outofoffice"));
        assert_eq!((source.stale_after_seconds, source.roster_interval_seconds), (5, 86_400));
        assert_eq!(source.language, "de_DE");
        for (name, wrong) in [
            ("GENESYS_ALL_USERS", "yes"),
            ("GENESYS_QUEUES", "q.1"),
            ("GENESYS_GROUPS", "g?1"),
            ("GENESYS_TOPICS", "activity,presence"),
            ("GENESYS_LANGUAGE", "a language without end"),
            ("GENESYS_STALE_AFTER_SECONDS", "4"),
            ("GENESYS_ROSTER_INTERVAL_SECONDS", "1d"),
        ] {
            let mut pairs: Vec<_> = whole.iter().copied().filter(|(other, _)| *other != name).collect();
            pairs.push((name, wrong));
            let said = errors(&pairs);
            assert!(
                said.len() == 1 && said.iter().all(|line| line.starts_with(&format!("{name}: "))),
                "{said:?}"
            );
        }
    }

    #[test]
    fn debug_of_a_configuration_and_its_variables_shows_no_secret() {
        let pairs = [
            ("DATABASE_URL", "postgres://bridge:CANARY@127.0.0.1/b"),
            ("BRIDGE_API_KEY", "CANARY-CANARY-CANARY-CANARY-CANARY"),
            ("BRIDGE_MASTER_KEY", KEY),
            ("BRIDGE_NEW_MASTER_KEY", KEY),
            ("BRIDGE_EGRESS_PROXY", "http://user:CANARY@proxy:3128"),
            ("BRIDGE_GENESYS_PROXY", "http://user:CANARY@proxy:3128"),
            ("HTTPS_PROXY", "http://user:CANARY@proxy:3128"),
            ("GENESYS_REGION", "mypurecloud.de"),
            ("GENESYS_CLIENT_ID", "id"),
            ("GENESYS_CLIENT_SECRET", "CANARY"),
            ("GENESYS_ALL_USERS", "true"),
        ];
        let variables = Variables::from_pairs(pairs);
        let config = Config::from_variables(&variables).unwrap();
        let shown = format!("{variables:?} {variables:#?} {config:?} {config:#?}");
        assert!(!shown.contains("CANARY") && !shown.contains(KEY), "{shown}");
    }

    #[test]
    fn describe_masks_secrets() {
        let shown = Variables::from_pairs([("GENESYS_CLIENT_SECRET", "CANARY")]).describe().join("\n");
        assert!(!shown.contains("CANARY") && shown.contains("GENESYS_CLIENT_SECRET = (secret)"));
    }
}
