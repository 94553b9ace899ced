//! Rules for the settings of a source, whether they come from the environment or over the API.

use url::Url;

use crate::domain::closed_set::closed_set;
use crate::domain::ids::canonical_guid;
use crate::domain::presence::regions;
use crate::domain::presence::topics::{self, TopicMatrix};
use crate::domain::secret::Secret;
use crate::domain::violation::{Violation, check_text, check_texts};

/// Name of the source that the environment sets; nobody else may take it.
pub const ENVIRONMENT_SOURCE_NAME: &str = "default";
/// Genesys Cloud's public Notifications API: channels that watch many agents each.
pub const PROTOCOL_NOTIFICATIONS: &str = "notifications";
/// The protocol of the original specification (docs/realtime.md): one connection per agent.
pub const PROTOCOL_REALTIME: &str = "realtime";
/// Default of `heartbeat_interval_ms`, as in the original specification.
pub const HEARTBEAT_INTERVAL_MS_DEFAULT: i32 = 15_000;

/// Default language of presence labels.
pub const LANGUAGE_DEFAULT: &str = "en_US";
/// Default seconds without a live connection after which a source is stale.
pub const STALE_AFTER_SECONDS_DEFAULT: i32 = 120;
/// Default seconds between two readings of rosters.
pub const ROSTER_INTERVAL_SECONDS_DEFAULT: i32 = 600;

/// Upstream allows 10 connections per user of the credentials, and a connection watches one agent.
const REALTIME_AGENTS_MAX: usize = 10;
/// 18 channels of 1,000 agents each (genesys/plan.rs).
const NOTIFICATIONS_AGENTS_MAX: usize = 18_000;
/// Queues, and groups, whose members one source watches.
const ROSTERS_MAX: usize = 100;
const SECONDS: std::ops::RangeInclusive<i32> = 5..=86_400;
const LANGUAGE_CHARS_MAX: usize = 20;
/// Upstream's limit of topics per connection.
const REALTIME_TOPICS_MAX: usize = 100;
const HEARTBEAT_INTERVAL_MS: std::ops::RangeInclusive<i32> = 1_000..=300_000;
const NAME_CHARS_MAX: usize = 100;
const ID_CHARS_MAX: usize = 200;
/// A topic's name has at most 200 characters, of which `v2.users.` and the parts take some.
const NOTIFICATIONS_ID_CHARS_MAX: usize = 100;
const SECRET_CHARS_MAX: usize = 1000;
const URL_CHARS_MAX: usize = 2048;
const REGION_CHARS_MAX: usize = 253;

/// Column `source.origin`, field `origin` of the API: where the settings of a source are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceOrigin {
    /// In the environment of the process.
    Environment,
    /// Over the API.
    Api,
}

closed_set!(SourceOrigin { Environment = "environment", Api = "api" });

/// Settings of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// Unique name, which events carry.
    pub name: String,
    pub protocol: String,
    /// Genesys domain such as `mypurecloud.de`; `None` if `api_url` stands for it.
    pub region: Option<String>,
    /// REST address, if it is not the region's.
    pub api_url: Option<String>,
    /// Token address, if it is not the protocol's own.
    pub login_url: Option<String>,
    pub client_id: String,
    pub client_secret: Secret,
    /// Genesys users to watch.
    pub agents: Vec<String>,
    /// Object of topic lists.
    pub topic_matrix: TopicMatrix,
    /// How often upstream shall ping, in milliseconds (protocol `realtime`).
    pub heartbeat_interval_ms: i32,
    /// Watch every active user (protocol `notifications`, as the next two).
    pub all_users: bool,
    /// Watch the members of these queues.
    pub queues: Vec<String>,
    /// Watch the members of these groups.
    pub groups: Vec<String>,
    /// Language of presence labels.
    pub language: String,
    /// Seconds without a live connection after which the source is stale.
    pub stale_after_seconds: i32,
    /// How often rosters are read again, in seconds.
    pub roster_interval_seconds: i32,
}

impl Default for SourceSettings {
    /// Protocol `notifications`, watching no agent.
    fn default() -> Self {
        Self {
            name: String::new(),
            protocol: PROTOCOL_NOTIFICATIONS.to_owned(),
            region: None,
            api_url: None,
            login_url: None,
            client_id: String::new(),
            client_secret: Secret::new(""),
            agents: Vec::new(),
            topic_matrix: TopicMatrix::default(),
            heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS_DEFAULT,
            all_users: false,
            queues: Vec::new(),
            groups: Vec::new(),
            language: LANGUAGE_DEFAULT.to_owned(),
            stale_after_seconds: STALE_AFTER_SECONDS_DEFAULT,
            roster_interval_seconds: ROSTER_INTERVAL_SECONDS_DEFAULT,
        }
    }
}

impl SourceSettings {
    /// Checks the settings; on success repeats are gone, GUIDs are in lower case, a region is named by its domain, and an empty
    /// topic matrix has become the one that the protocol `notifications` begins with.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(mut self) -> Result<Self, Vec<Violation>> {
        let mut found = Vec::new();
        check_text("name", &self.name, NAME_CHARS_MAX, &mut found);
        if ![PROTOCOL_NOTIFICATIONS, PROTOCOL_REALTIME].contains(&self.protocol.as_str()) {
            found.push(Violation::new("protocol", "is not known; there are notifications and realtime"));
        }
        self.check_addresses(&mut found);
        check_text("client_id", &self.client_id, ID_CHARS_MAX, &mut found);
        check_text("client_secret", self.client_secret.expose(), SECRET_CHARS_MAX, &mut found);
        if self.protocol == PROTOCOL_REALTIME {
            self.check_agents(&mut found);
            self.check_topics(&mut found);
        } else {
            self.check_watch(&mut found);
            self.check_parts(&mut found);
        }
        check_text("language", &self.language, LANGUAGE_CHARS_MAX, &mut found);
        for (field, seconds) in [
            ("stale_after_seconds", self.stale_after_seconds),
            ("roster_interval_seconds", self.roster_interval_seconds),
        ] {
            if !SECONDS.contains(&seconds) {
                found.push(Violation::new(field, "is not between 5 and 86400"));
            }
        }
        if !HEARTBEAT_INTERVAL_MS.contains(&self.heartbeat_interval_ms) {
            found.push(Violation::new("heartbeat_interval_ms", "is not between 1000 and 300000"));
        }
        if found.is_empty() { Ok(self) } else { Err(found) }
    }

    /// Whether what is sent to Genesys, the client secret among it, goes to the same addresses as that of
    /// `other`; both are checked.
    #[must_use]
    pub fn goes_where(&self, other: &Self) -> bool {
        (&self.region, &self.api_url, &self.login_url) == (&other.region, &other.api_url, &other.login_url)
    }

    fn check_addresses(&mut self, found: &mut Vec<Violation>) {
        let known = self.region.as_deref().and_then(regions::domain);
        match &self.region {
            Some(_) if known.is_some() => self.region = known.map(str::to_owned),
            // Where api_url is given, no address follows from the region (tokens come from there too), and it
            // may be any.
            Some(_) if self.protocol == PROTOCOL_NOTIFICATIONS && self.api_url.is_none() => {
                let what = format!("is no region of Genesys Cloud; there are {}", regions::list());
                found.push(Violation::new("region", what));
            }
            Some(region) if !is_domain(region) => {
                let what =
                    format!("is no domain and no region of Genesys Cloud; there are {}", regions::list());
                found.push(Violation::new("region", what));
            }
            None if self.api_url.is_none() => {
                found.push(Violation::new("region", "is missing, and so is api_url"));
            }
            _ => {}
        }
        for (field, url) in [("api_url", &self.api_url), ("login_url", &self.login_url)] {
            if let Some(what) = url.as_deref().and_then(wrong_with_base_url) {
                found.push(Violation::new(field, what));
            }
        }
    }

    fn check_agents(&mut self, found: &mut Vec<Violation>) {
        if self.agents.is_empty() {
            found.push(Violation::new("agents", "is empty"));
        }
        for (field, given) in [
            ("all_users", self.all_users),
            ("queues", !self.queues.is_empty()),
            ("groups", !self.groups.is_empty()),
        ] {
            if given {
                found.push(Violation::new(field, "is for protocol notifications"));
            }
        }
        let given = canonical(std::mem::take(&mut self.agents));
        self.agents = check_texts("agents", given, REALTIME_AGENTS_MAX, ID_CHARS_MAX, found);
    }

    fn check_watch(&mut self, found: &mut Vec<Violation>) {
        if self.agents.is_empty() && !self.all_users && self.queues.is_empty() && self.groups.is_empty() {
            found.push(Violation::new("agents", "is empty, and so are all_users, queues and groups"));
        }
        for (field, list, items_max) in [
            ("agents", &mut self.agents, NOTIFICATIONS_AGENTS_MAX),
            ("queues", &mut self.queues, ROSTERS_MAX),
            ("groups", &mut self.groups, ROSTERS_MAX),
        ] {
            // An id is a part of a topic's name, where other characters have a meaning.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let unusable = list.iter().position(|id| !id.chars().all(plain));
            let before = found.len();
            *list = check_texts(
                field,
                canonical(std::mem::take(list)),
                items_max,
                NOTIFICATIONS_ID_CHARS_MAX,
                found,
            );
            if let Some(index) = unusable
                && found.len() == before
            {
                let what = "has other characters than letters, digits, - and _";
                found.push(Violation::new(format!("{field}/{index}"), what));
            }
        }
    }

    fn check_parts(&mut self, found: &mut Vec<Violation>) {
        if self.topic_matrix.is_empty() {
            self.topic_matrix = topics::all_parts();
        }
        if let Err(error) = topics::notification_parts(&self.topic_matrix) {
            found.push(Violation::new("topic_matrix", error.to_string()));
        }
    }

    fn check_topics(&self, found: &mut Vec<Violation>) {
        match topics::flatten(&self.topic_matrix) {
            Err(error) => found.push(Violation::new("topic_matrix", error.to_string())),
            Ok(topics) => {
                if topics.len() > REALTIME_TOPICS_MAX {
                    found.push(Violation::new(
                        "topic_matrix",
                        format!("has more than {REALTIME_TOPICS_MAX} topics"),
                    ));
                }
                if topics.iter().any(|topic| topic.trim().is_empty() || topic.chars().any(char::is_control)) {
                    found.push(Violation::new(
                        "topic_matrix",
                        "has a topic that is empty or has control characters",
                    ));
                }
            }
        }
    }
}

fn canonical(ids: Vec<String>) -> Vec<String> {
    ids.into_iter().map(canonical_guid).collect()
}

fn is_domain(text: &str) -> bool {
    text.chars().count() <= REGION_CHARS_MAX
        && text.contains('.')
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
}

/// Paths are appended to a base address, so it may carry a path but nothing behind it. Plain http is allowed:
/// simulators speak it; what is sent there is the operator's decision.
fn wrong_with_base_url(text: &str) -> Option<&'static str> {
    if text.chars().count() > URL_CHARS_MAX {
        return Some("is too long");
    }
    let Ok(url) = Url::parse(text) else {
        return Some("is not an absolute URL");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Some("is not an http or https URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("has a user or password in it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Some("has a query or fragment");
    }
    let path = url.path().trim_end_matches('/').to_ascii_lowercase();
    if path.ends_with("/api/v2") {
        return Some("ends with /api/v2, which the bridge adds by itself; leave it out");
    }
    if path.ends_with("/oauth/token") {
        return Some("ends with /oauth/token, which the bridge adds by itself; leave it out");
    }
    url.host().is_none().then_some("has no host")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn good() -> SourceSettings {
        SourceSettings {
            name: "service-desk".into(),
            protocol: "realtime".into(),
            region: Some("mypurecloud.de".into()),
            api_url: None,
            login_url: None,
            client_id: "id".into(),
            client_secret: Secret::new("canary"),
            agents: vec!["a".into()],
            topic_matrix: TopicMatrix::of("presence", &["routing:agent:state"]),
            ..SourceSettings::default()
        }
    }

    fn fields(settings: SourceSettings) -> Vec<String> {
        settings.check().unwrap_err().into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn good_settings_pass_and_lose_repeats() {
        let agents = vec!["a".into(), "b".into(), "a".into()];
        let checked = SourceSettings { agents, ..good() }.check().unwrap();
        assert_eq!(checked.agents, ["a", "b"]);
    }

    #[test]
    fn everything_wrong_is_named_at_once_and_no_secret_is_shown() {
        let wrong = SourceSettings {
            name: String::new(),
            protocol: "smoke".into(),
            region: None,
            language: String::new(),
            stale_after_seconds: 4,
            login_url: Some("https://u:p@h/".into()),
            client_secret: Secret::new("canary\n"),
            agents: Vec::new(),
            topic_matrix: TopicMatrix::default(),
            heartbeat_interval_ms: 999,
            ..good()
        };
        let found = wrong.check().unwrap_err();
        assert!(!format!("{found:?}").contains("canary"));
        let names: Vec<_> = found.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            names,
            [
                "name",
                "protocol",
                "region",
                "login_url",
                "client_secret",
                "agents",
                "language",
                "stale_after_seconds",
                "heartbeat_interval_ms"
            ]
        );
    }

    fn notifications() -> SourceSettings {
        SourceSettings {
            protocol: "notifications".into(),
            topic_matrix: TopicMatrix::default(),
            agents: vec!["a".into()],
            ..good()
        }
    }

    #[test]
    fn notifications_watch_somebody_by_one_way_at_least() {
        let nobody = SourceSettings { agents: Vec::new(), ..notifications() };
        assert_eq!(fields(nobody.clone()), ["agents"]);
        for good in [
            SourceSettings { all_users: true, ..nobody.clone() },
            SourceSettings { queues: vec!["q".into()], ..nobody.clone() },
            SourceSettings { groups: vec!["g".into(), "g".into()], ..nobody.clone() },
        ] {
            let checked = good.check().unwrap();
            assert_eq!(checked.topic_matrix, topics::all_parts());
            assert!(checked.groups.len() < 2);
        }
        for wrong in ["a.b", "a?b", "a&b", "a/b", "a b"] {
            let agents = vec!["fine".to_owned(), wrong.to_owned()];
            assert_eq!(fields(SourceSettings { agents, ..notifications() }), ["agents/1"], "{wrong}");
        }
        // Places are those of the list as it was given, repeats and all.
        let agents = vec!["a".into(), "a".into(), "b.c".into()];
        assert_eq!(fields(SourceSettings { agents, ..notifications() }), ["agents/2"]);
        for wrong in [" ", "a\u{7}b", &"a".repeat(101)] {
            let queues = vec![wrong.to_owned()];
            assert_eq!(fields(SourceSettings { queues, ..notifications() }), ["queues/0"], "once: {wrong:?}");
        }
        let realtime = SourceSettings { all_users: true, queues: vec!["q".into()], ..good() };
        assert_eq!(fields(realtime), ["all_users", "queues"]);
    }

    #[test]
    fn notifications_want_a_region_that_exists_or_an_address() {
        let region = |region: &str| SourceSettings { region: Some(region.into()), ..notifications() };
        assert_eq!(region("eu-central-1").check().unwrap().region.as_deref(), Some("mypurecloud.de"));
        assert_eq!(fields(region("mypurecloud.example")), ["region"]);
        let url = || Some("http://127.0.0.1:1".to_owned());
        let without_api = SourceSettings { login_url: url(), ..region("mypurecloud.example") };
        assert_eq!(fields(without_api), ["region"], "the address of the REST API would follow from it");
        assert_eq!(fields(SourceSettings { region: None, login_url: url(), ..notifications() }), ["region"]);
        let elsewhere = SourceSettings { region: None, api_url: url(), login_url: url(), ..notifications() };
        assert!(elsewhere.check().is_ok());
        let by_one_address = SourceSettings { api_url: url(), ..region("mypurecloud.example") };
        assert!(by_one_address.check().is_ok());
    }

    #[test]
    fn a_region_that_there_is_not_is_answered_with_those_that_there_are() {
        for settings in [notifications(), good()] {
            let pasted =
                SourceSettings { region: Some("https://apps.usw2.pure.cloud/".into()), ..settings.clone() };
            assert_eq!(pasted.check().unwrap().region.as_deref(), Some("usw2.pure.cloud"));
            let wrong = SourceSettings { region: Some("https://mypurecloud".into()), ..settings };
            let what = wrong.check().unwrap_err().remove(0).what;
            assert!(
                what.contains("mypurecloud.de (eu-central-1)") && what.contains("usw2.pure.cloud"),
                "{what}"
            );
        }
    }

    #[test]
    fn a_guid_is_watched_once_whatever_its_case() {
        let guid = "0E3A4F2B-1111-4ABC-9DEF-001122334455";
        for settings in [notifications(), good()] {
            let agents = vec![guid.to_owned(), guid.to_lowercase(), "Ann".to_owned()];
            let checked = SourceSettings { agents, ..settings }.check().unwrap();
            assert_eq!(checked.agents, [guid.to_lowercase(), "Ann".to_owned()]);
        }
    }

    #[test]
    fn limits_of_upstream_hold() {
        let agents = (0..11).map(|i| i.to_string()).collect();
        assert_eq!(fields(SourceSettings { agents, ..good() }), ["agents"]);
        let topics: Vec<_> = (0..101).map(|i| format!("t{i}")).collect();
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        let topic_matrix = TopicMatrix::of("all", &topics);
        assert_eq!(fields(SourceSettings { topic_matrix, ..good() }), ["topic_matrix"]);
    }

    #[test]
    fn only_plain_base_addresses_pass() {
        for wrong in [
            "",
            "h",
            "ftp://h/",
            "https://h/?a",
            "https://h/#f",
            "https://u@h/",
            "http:///",
            "https://api.mypurecloud.de/api/v2",
            "https://h/gateway/API/v2/",
            "https://h/oauth/token",
        ] {
            let api_url = Some(wrong.to_owned());
            assert_eq!(fields(SourceSettings { api_url, ..good() }), ["api_url"], "{wrong}");
        }
        for wrong in ["mypurecloud", "a..b", "-a.de", "a.de/", "a.de:1", "http://a.de"] {
            let region = Some(wrong.to_owned());
            assert_eq!(fields(SourceSettings { region, ..good() }), ["region"], "{wrong}");
        }
        let api_url = Some("http://simulator:8080/genesys".to_owned());
        let region = None;
        assert!(SourceSettings { api_url, region, ..good() }.check().is_ok());
    }
}
