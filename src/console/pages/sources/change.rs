//! The form by which a source is added or changed. What it says can be tried out before it is kept.

use maud::{Markup, html};
use serde::Deserialize;

use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Fields, field, integer, tick};
use crate::console::form::Form;
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ExaminationId, SourceId};
use crate::domain::presence::regions::REGIONS;
use crate::domain::presence::source::{PROTOCOL_NOTIFICATIONS, PROTOCOL_REALTIME, SourceSettings};
use crate::domain::presence::topics::TopicMatrix;
use crate::domain::secret::Secret;
use crate::domain::violation::Violation;
use crate::services::ServiceError;
use crate::services::sources::{self, examinations};
use crate::store::StoreError;
use crate::store::sources::Source;

pub(super) const NEW: Page = Page::inner(Scope::Sources, "/sources/new", |view| Box::pin(new(view)));
pub(super) const EDIT: Page = Page::inner(Scope::Sources, "/sources/{id}/edit", |view| Box::pin(edit(view)));
pub(super) const CREATE: Action =
    Action::new(Scope::Sources, "/sources/new", |view, form| Box::pin(create(view, form)));
pub(super) const UPDATE: Action =
    Action::new(Scope::Sources, "/sources/{id}/edit", |view, form| Box::pin(update(view, form)));

/// Settings that are folded.
const FOLDED: [&str; 8] = [
    "protocol",
    "api_url",
    "login_url",
    "topic_matrix",
    "language",
    "stale_after_seconds",
    "roster_interval_seconds",
    "heartbeat_interval_ms",
];

/// The form as it was sent.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Given {
    name: String,
    protocol: String,
    region: String,
    api_url: String,
    login_url: String,
    client_id: String,
    client_secret: String,
    all_users: String,
    agents: String,
    queues: String,
    groups: String,
    topic_matrix: String,
    language: String,
    stale_after_seconds: String,
    roster_interval_seconds: String,
    heartbeat_interval_ms: String,
    /// An examination whose client secret is meant if none is given.
    examination: String,
    /// What the source was when the form was shown.
    version: String,
    /// `examine`, or else it is kept.
    then: String,
}

impl Given {
    /// A form that says these settings; the client secret is never among them.
    fn of(settings: &SourceSettings) -> Self {
        let lines = |items: &[String]| items.join("\n");
        Self {
            name: settings.name.clone(),
            protocol: settings.protocol.clone(),
            region: settings.region.clone().unwrap_or_default(),
            api_url: settings.api_url.clone().unwrap_or_default(),
            login_url: settings.login_url.clone().unwrap_or_default(),
            client_id: settings.client_id.clone(),
            all_users: if settings.all_users { "true".to_owned() } else { String::new() },
            agents: lines(&settings.agents),
            queues: lines(&settings.queues),
            groups: lines(&settings.groups),
            topic_matrix: if settings.topic_matrix.is_empty() {
                String::new()
            } else {
                settings.topic_matrix.to_string()
            },
            language: settings.language.clone(),
            stale_after_seconds: settings.stale_after_seconds.to_string(),
            roster_interval_seconds: settings.roster_interval_seconds.to_string(),
            heartbeat_interval_ms: settings.heartbeat_interval_ms.to_string(),
            ..Self::default()
        }
    }

    /// The settings that it says, and what of it cannot be read.
    fn settings(&self, client_secret: Secret) -> (SourceSettings, Vec<Violation>) {
        let mut wrong = Vec::new();
        let optional = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let default = SourceSettings::default();
        let mut number = |name: &str, text: &str| integer(name, text, &mut wrong);
        let heartbeat_interval_ms = number("heartbeat_interval_ms", &self.heartbeat_interval_ms);
        let stale_after_seconds = number("stale_after_seconds", &self.stale_after_seconds);
        let roster_interval_seconds = number("roster_interval_seconds", &self.roster_interval_seconds);
        let topic_matrix = topics(&self.topic_matrix).unwrap_or_else(|violation| {
            wrong.push(violation);
            TopicMatrix::default()
        });
        let settings = SourceSettings {
            name: self.name.trim().to_owned(),
            protocol: optional(&self.protocol).unwrap_or(default.protocol),
            region: optional(&self.region),
            api_url: optional(&self.api_url),
            login_url: optional(&self.login_url),
            client_id: self.client_id.trim().to_owned(),
            client_secret,
            agents: list(&self.agents),
            topic_matrix,
            heartbeat_interval_ms: heartbeat_interval_ms.unwrap_or(default.heartbeat_interval_ms),
            all_users: !self.all_users.is_empty(),
            queues: list(&self.queues),
            groups: list(&self.groups),
            language: optional(&self.language).unwrap_or(default.language),
            stale_after_seconds: stale_after_seconds.unwrap_or(default.stale_after_seconds),
            roster_interval_seconds: roster_interval_seconds.unwrap_or(default.roster_interval_seconds),
        };
        (settings, wrong)
    }

    /// The client secret, if the form says one.
    fn client_secret(&self) -> Option<Secret> {
        Some(self.client_secret.trim()).filter(|text| !text.is_empty()).map(Secret::new)
    }

    /// The settings of the examination whose client secret is meant.
    fn carried(&self, view: &View) -> Option<SourceSettings> {
        let id = uuid::Uuid::try_parse(&self.examination).ok()?;
        let examination = examinations::find(&view.caller, ExaminationId(id)).ok()?;
        Some(examination.draft.settings.clone())
    }

    fn is_to_be_examined(&self) -> bool {
        self.then == "examine"
    }
}

/// A list as people write it: by lines or commas.
fn list(text: &str) -> Vec<String> {
    text.split(['\n', ',', ';']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Topics as a list, or as a JSON object of lists.
fn topics(text: &str) -> Result<TopicMatrix, Violation> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|_| Violation::new("topic_matrix", "is no JSON object of topic lists"));
    }
    let items = list(text);
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    Ok(if items.is_empty() { TopicMatrix::default() } else { TopicMatrix::of("topics", &items) })
}

/// The form of an examination that the address names, to be changed and tried again.
fn examined(view: &View) -> Result<Option<Given>> {
    let mut query = view.query()?;
    let id = query.id("examination")?.map(ExaminationId);
    query.finish()?;
    let Some(id) = id else { return Ok(None) };
    let examination = examinations::find(&view.caller, id)?;
    Ok(Some(Given { examination: id.to_string(), ..Given::of(&examination.draft.settings) }))
}

async fn new(view: View) -> Result<Content> {
    let given = examined(&view)?.unwrap_or_else(|| Given::of(&SourceSettings::default()));
    Ok(page(&view, None, &Fields::default(), &given))
}

async fn edit(view: View) -> Result<Content> {
    let source = view.caller.store.source(SourceId(view.id()?)).await?;
    let given = examined(&view)?.unwrap_or_else(|| Given::of(&source.settings(Secret::new(""))));
    let given = Given { version: source.version.to_string(), ..given };
    Ok(page(&view, Some(&source), &Fields::default(), &given))
}

fn page(view: &View, source: Option<&Source>, fields: &Fields, given: &Given) -> Content {
    let mut page = Content::titled(match source {
        Some(source) => format!("Edit: {}", source.name),
        None => "Add a source".to_owned(),
    });
    let is_secret_kept = source.is_some() || !given.examination.is_empty();
    let keep = if source.is_some() { "Save without trying" } else { "Add without trying" };
    let back = source.map_or_else(|| format!("{ROOT}/sources"), |source| links::source(source.source_id));
    page.body = html! {
        @if source.is_none() {
            p { "A source is a Genesys Cloud organisation. In its administration, create an OAuth client for this bridge alone: Admin > Integrations "
                "> OAuth, grant type Client Credentials, a role with " code { "directory:user:view" } " and, for queues, " code { "routing:queue:view" } "." }
        }
        (fields.summary())
        form.stack method="post" action=(view.path) {
            (first(fields, given, is_secret_kept))
            (whom(fields, given))
            (rest(fields, given))
            input type="hidden" name="examination" value=(given.examination);
            input type="hidden" name="version" value=(given.version);
            div.row {
                button.primary type="submit" name="then" value="examine" { "Try it out first" }
                button type="submit" name="then" value="keep" { (keep) }
                a href=(back) { "Leave it" }
            }
        }
    };
    page
}

fn first(fields: &Fields, given: &Given, is_secret_kept: bool) -> Markup {
    let names: Vec<String> = REGIONS.iter().map(|(domain, aws, _)| format!("{domain} ({aws})")).collect();
    let mut regions = vec![("", "choose one, or give an address below")];
    regions.extend(REGIONS.iter().zip(&names).map(|((domain, ..), name)| (*domain, name.as_str())));
    let about_secret = if is_secret_kept {
        "Left empty, the one that is known stays; another address needs it again."
    } else {
        "Kept sealed, and never shown again."
    };
    html! {
        (fields.text(field("name", "Name", "What people call the organisation; events carry it."), &given.name))
        (fields.choice(field("region", "Region", ""), &given.region, &regions))
        (fields.text(field("client_id", "OAuth client id", ""), &given.client_id))
        (fields.secret(field("client_secret", "OAuth client secret", about_secret)))
    }
}

fn whom(fields: &Fields, given: &Given) -> Markup {
    html! {
        fieldset {
            legend { "Whom to watch" }
            (tick("all_users", "true", "Every active user", !given.all_users.is_empty()))
            (fields.lines(field("queues", "Members of queues", "Ids, by lines or commas."), &given.queues))
            (fields.lines(field("groups", "Members of groups", "Ids, by lines or commas."), &given.groups))
            (fields.lines(field("agents", "Agents one by one", "Ids of users, by lines or commas."), &given.agents))
        }
    }
}

fn rest(fields: &Fields, given: &Given) -> Markup {
    let protocols = [
        (PROTOCOL_NOTIFICATIONS, "notifications: Genesys Cloud's public API, many agents on a channel"),
        (PROTOCOL_REALTIME, "realtime: one connection for each agent, ten at most"),
    ];
    let default = Given::of(&SourceSettings::default());
    let is_default = given.protocol == default.protocol
        && given.api_url.is_empty()
        && given.login_url.is_empty()
        && given.language == default.language
        && given.stale_after_seconds == default.stale_after_seconds
        && given.roster_interval_seconds == default.roster_interval_seconds
        && given.heartbeat_interval_ms == default.heartbeat_interval_ms;
    let protocol = if given.protocol.is_empty() { PROTOCOL_NOTIFICATIONS } else { given.protocol.as_str() };
    html! {
        details.more open[!is_default || fields.is_wrong(&FOLDED)] {
            summary { "What seldom needs to be set" }
            (fields.choice(field("protocol", "Protocol", ""), protocol, &protocols))
            (fields.text(field("api_url", "Address of the API", "Only where it does not follow from the region, such as https://api.example.com"), &given.api_url))
            (fields.text(field("login_url", "Address of tokens", "Only where it does not follow from the region."), &given.login_url))
            (fields.text(field("topic_matrix", "Topics", "Empty: everything. Otherwise some of presence, routingStatus, outofoffice; protocol realtime: routing:agent:state."), &given.topic_matrix))
            (fields.text(field("language", "Language of presence labels", "Such as en_US or de_DE."), &given.language))
            (fields.number(field("stale_after_seconds", "Stale after, in seconds", "Without a live connection, from 5 to 86400."), &given.stale_after_seconds, &default.stale_after_seconds))
            (fields.number(field("roster_interval_seconds", "Rosters are read every, in seconds", "From 5 to 86400."), &given.roster_interval_seconds, &default.roster_interval_seconds))
            (fields.number(field("heartbeat_interval_ms", "Pings of Genesys, in milliseconds", "Protocol realtime, from 1000 to 300000."), &given.heartbeat_interval_ms, &default.heartbeat_interval_ms))
        }
    }
}

/// The settings of a form, found to be good, or the form again with what is wrong. `carried`: whose client
/// secret is meant if the form says none.
fn checked(
    view: &View,
    source: Option<&Source>,
    given: &Given,
    carried: Option<&SourceSettings>,
) -> Result<SourceSettings, Box<Done>> {
    let carried = carried.filter(|_| given.client_secret().is_none());
    let client_secret = given.client_secret().or(carried.map(|carried| carried.client_secret.clone()));
    let (settings, wrong) = given.settings(client_secret.unwrap_or_else(|| Secret::new("")));
    fields::checked(wrong, sources::check(&view.caller, settings, carried))
        .map_err(|fields| Box::new(Done::Again(page(view, source, &fields, given))))
}

async fn create(view: View, form: Form) -> Result<Done> {
    let given: Given = form.read()?;
    let settings = match checked(&view, None, &given, given.carried(&view).as_ref()) {
        Ok(settings) => settings,
        Err(again) => return Ok(*again),
    };
    let done = if given.is_to_be_examined() {
        examinations::begin(&view.caller, settings, None).await.map(|begun| examining(begun.id))
    } else {
        sources::create(&view.caller, &settings).await.map(|source| added(&source))
    };
    done.or_else(|error| Ok(Done::Again(page(&view, None, &Fields::refused(error.into())?, &given))))
}

async fn update(view: View, form: Form) -> Result<Done> {
    let given: Given = form.read()?;
    let id = SourceId(view.id()?);
    let examined = given.carried(&view);
    let known = given.client_secret().or(examined.as_ref().map(|examined| examined.client_secret.clone()));
    let (before, present) = sources::begin_update(&view.caller, id, known).await?;
    let settings = match checked(&view, Some(&before), &given, Some(examined.as_ref().unwrap_or(&present))) {
        Ok(settings) => settings,
        Err(again) => return Ok(*again),
    };
    let done = if given.version != before.version.to_string() {
        let what = "the source was changed by somebody else since this form was shown; look at it, and change it again";
        Err(ServiceError::Store(StoreError::Conflict(what.to_owned())))
    } else if given.is_to_be_examined() {
        examinations::begin(&view.caller, settings, Some(&before)).await.map(|begun| examining(begun.id))
    } else {
        sources::update(&view.caller, &before, &settings).await.map(|source| changed(&source))
    };
    done.or_else(|error| Ok(Done::Again(page(&view, Some(&before), &Fields::refused(error.into())?, &given))))
}

fn examining(id: ExaminationId) -> Done {
    Done::Go { to: links::examination(id), notice: "The examination has begun.".to_owned() }
}

/// Where the browser goes once a source is added.
pub(super) fn added(source: &Source) -> Done {
    let notice = format!("Source {} is added; its connections are being opened.", source.name);
    Done::Go { to: links::source(source.source_id), notice }
}

/// Where the browser goes once a source is changed.
pub(super) fn changed(source: &Source) -> Done {
    let notice = format!("Source {} is changed; its connections follow.", source.name);
    Done::Go { to: links::source(source.source_id), notice }
}
