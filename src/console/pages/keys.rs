//! API keys: listed, made (shown once) and revoked.

use maud::{Markup, html};
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use crate::api::http::page::{List, Paging, Place};
use crate::clock;
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{self, Fields, field};
use crate::console::form::Form;
use crate::console::parts::{
    Tone, answers, badge, empty, facts, maybe, or_none, pager, since, source_text, table, time,
};
use crate::console::search::{self, read_time};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::api_key::ApiKeyState;
use crate::domain::access::scope::Scope;
use crate::domain::ids::{ApiKeyId, TenantId};
use crate::domain::violation::Violation;
use crate::services::api_keys::{self, ApiKeyInput};
use crate::store::access::api_keys::ApiKey;
use crate::store::access::tenants::Tenant;

pub(super) const PAGES: &[Page] = &[
    Page::named("Keys", Scope::Admin, "/keys", |view| Box::pin(list(view))),
    Page::inner(Scope::Admin, "/keys/new", |view| {
        Box::pin(async move { new(&view, &Fields::default(), &Given::fresh()).await })
    }),
    Page::inner(Scope::Admin, "/keys/{id}", |view| Box::pin(one(view))),
    Page::inner(Scope::Admin, "/keys/{id}/revoke", |view| Box::pin(ask(view))),
];

pub(super) const ACTIONS: &[Action] = &[
    Action::new(Scope::Admin, "/keys/new", |view, form| Box::pin(create(view, form))),
    Action::new(Scope::Admin, "/keys/{id}/revoke", |view, _| Box::pin(revoke(view))),
];

/// Tenants that can be chosen from.
const TENANTS_MAX: i64 = 200;

/// The tenants there are, for the operator; others see none.
async fn tenants(view: &View) -> Result<Vec<Tenant>> {
    match view.caller.operator() {
        Ok(operator) => Ok(operator.tenants(None, TENANTS_MAX).await?),
        Err(_) => Ok(Vec::new()),
    }
}

async fn list(view: View) -> Result<Content> {
    let (found, wrong) = search::found_or_wrong(read(&view))?;
    let tenants = tenants(&view).await?;
    let mut page = Content::titled("API keys");
    let fields = search::Fields::new(&view, &wrong);
    let choices: Vec<_> =
        tenants.iter().map(|tenant| (tenant.tenant_id.to_string(), tenant.name.clone())).collect();
    let form = html! {
        @if tenants.len() > 1 { (fields.form("Search", &fields.choice("tenant", "Tenant", "our own", &choices))) }
    };
    let (tenant, paging) = match found {
        Some(found) => found,
        None => {
            page.body = form;
            return Ok(page);
        }
    };
    let after = paging.after_id().map(ApiKeyId);
    let rows = api_keys::list(&view.caller, tenant, after, paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.api_key_id.0));
    let shown = html! {
        @if rows.is_empty() {
            (empty("This tenant has no key.", Some((&format!("{ROOT}/keys/new"), "Create one"))))
        } @else { (table_of(&rows)) }
    };
    page.body = html! {
        p { a.button.primary href={ (ROOT) "/keys/new" } { "Create a key" } }
        (form) (shown) (pager(&view, next.as_deref()))
    };
    Ok(page)
}

fn read(view: &View) -> Result<(Option<TenantId>, Paging)> {
    let mut query = view.query()?;
    let tenant = query.id("tenant")?.map(TenantId);
    Ok((tenant, query.paging(List::ApiKeys)?))
}

fn table_of(rows: &[ApiKey]) -> Markup {
    let shown = html! {
        @for key in rows {
            tr id={ "key-" (key.api_key_id) } {
                th scope="row" { a href=(links::api_key(key.api_key_id)) { (key.name) } }
                td { (state(key)) }
                td { (key.scopes.join(", ")) }
                td { (maybe(key.last_used_at, since)) }
                td { (maybe(key.expires_at, time)) }
                td { (time(key.created_at)) }
            }
        }
    };
    table("API keys", &["Name", "State", "May", "Last used", "Ends", "Created"], &shown)
}

fn state(key: &ApiKey) -> Markup {
    match ApiKeyState::of(key.revoked_at, key.expires_at, clock::now()) {
        ApiKeyState::Active => badge(Tone::Good, "active"),
        ApiKeyState::Expired => badge(Tone::Plain, "expired"),
        ApiKeyState::Revoked => badge(Tone::Plain, "revoked"),
    }
}

async fn one(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let key = api_keys::get(&view.caller, ApiKeyId(view.id()?)).await?;
    let is_active = ApiKeyState::of(key.revoked_at, key.expires_at, clock::now()) == ApiKeyState::Active;
    let mut page = Content::titled(format!("Key {}", key.name));
    page.body = html! {
        (facts(&[
            ("State", state(&key)),
            ("May", html! { (key.scopes.join(", ")) }),
            ("Created", time(key.created_at)),
            ("Ends", maybe(key.expires_at, time)),
            ("Last used", maybe(key.last_used_at, since)),
            ("Revoked", maybe(key.revoked_at, time)),
            ("Comes from", html! { @if key.is_bootstrap() { "the environment of the process" } @else { "the API" } }),
            ("Tenant", html! { code { (key.tenant_id) } }),
            ("Id", html! { code { (key.api_key_id) } }),
        ]))
        @if is_active && !key.is_bootstrap() {
            p { a.button href={ (links::api_key(key.api_key_id)) "/revoke" } { "Revoke" } }
        } @else if is_active {
            p.hint { "It is changed where it comes from: by BRIDGE_API_KEY, or api.key in the data directory." }
        }
        p.row {
            @if view.may(Scope::Audit) {
                a href=(links::with_query("/audit", &[("principal", &format!("api-key:{}", key.name))])) { "What was done with it" }
            }
            a href={ (ROOT) "/keys" } { "All keys" }
        }
    };
    Ok(page)
}

/// The form of a new key, as it was sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    name: String,
    scopes: Vec<String>,
    ends: String,
    expires_at: String,
    tenant_id: String,
}

impl Given {
    /// What the form says before anybody has touched it.
    fn fresh() -> Self {
        Self { scopes: vec![Scope::Read.as_str().to_owned()], ends: "90".to_owned(), ..Self::default() }
    }
}

async fn new(view: &View, fields: &Fields, given: &Given) -> Result<Content> {
    let tenants = tenants(view).await?;
    let tenants: Vec<_> =
        tenants.iter().map(|tenant| (tenant.tenant_id.to_string(), tenant.name.clone())).collect();
    let own = view.caller.principal.tenant().to_string();
    let choices: Vec<(&str, &str)> = tenants.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect();
    let tenant = if given.tenant_id.is_empty() { own.as_str() } else { given.tenant_id.as_str() };
    let lifetimes = [
        ("1", "in a day"),
        ("7", "in a week"),
        ("30", "in 30 days"),
        ("90", "in 90 days"),
        ("365", "in a year"),
        ("never", "never"),
    ];
    let may = |scope: &Scope| view.caller.principal.is_operator() || view.may(*scope);
    let scopes: Vec<_> =
        Scope::ALL.into_iter().filter(may).map(|scope| (scope.as_str(), about(scope))).collect();
    let mut page = Content::titled("Create an API key");
    page.body = html! {
        (fields.summary())
        form.stack method="post" action={ (ROOT) "/keys/new" } {
            (fields.text(field("name", "Name", "What it is for; the audit log names it."), &given.name))
            (fields.ticks(field("scopes", "It may", ""), &given.scopes, &scopes))
            (fields.choice(field("ends", "It ends", ""), &given.ends, &lifetimes))
            (fields.text(field("expires_at", "Or at a time of its own", "UTC, such as 2027-01-31 09:30"), &given.expires_at))
            @if choices.len() > 1 { (fields.choice(field("tenant_id", "Tenant", ""), tenant, &choices)) }
            button.primary type="submit" { "Create" }
        }
    };
    Ok(page)
}

fn about(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read: see everything but the audit log",
        Scope::Webhooks => "webhooks: change webhooks, their deliveries and agents' own ids",
        Scope::Sources => "sources: change sources and connections",
        Scope::Audit => "audit: read the audit log and the quarantine",
        Scope::Admin => "admin: create and revoke keys",
    }
}

/// When the key ends.
fn end_of(given: &Given) -> Result<Option<OffsetDateTime>, Violation> {
    let text = given.expires_at.trim();
    if !text.is_empty() {
        let read = read_time(text, clock::now());
        return read
            .map(Some)
            .ok_or_else(|| Violation::new("expires_at", "is no time such as 2027-01-31 09:30 (UTC)"));
    }
    match given.ends.as_str() {
        "never" | "" => Ok(None),
        days => match days.parse::<u16>() {
            Ok(days) => Ok(Some(clock::now() + Duration::days(i64::from(days)))),
            Err(_) => Err(Violation::new("ends", "is none of the times to choose from")),
        },
    }
}

async fn create(view: View, form: Form) -> Result<Done> {
    let given: Given = form.read()?;
    let mut wrong = Vec::new();
    let expires_at = end_of(&given).unwrap_or_else(|violation| {
        wrong.push(violation);
        None
    });
    let tenant = match given.tenant_id.as_str() {
        "" => None,
        text => match uuid::Uuid::try_parse(text) {
            Ok(id) => Some(TenantId(id)),
            Err(_) => {
                wrong.push(Violation::new("tenant_id", "is no tenant"));
                None
            }
        },
    };
    let input = ApiKeyInput { name: given.name.clone(), scopes: given.scopes.clone(), tenant, expires_at };
    let checked = match fields::checked(wrong, api_keys::check(&view.caller, input)) {
        Ok(checked) => checked,
        Err(fields) => return Ok(Done::Again(new(&view, &fields, &given).await?)),
    };
    match api_keys::create(&view.caller, &checked).await {
        Ok((made, key)) => Ok(Done::Show(made_page(&made, &key))),
        Err(error) => {
            let fields = Fields::refused(error.into())?;
            Ok(Done::Again(new(&view, &fields, &given).await?))
        }
    }
}

fn made_page(made: &ApiKey, key: &str) -> Content {
    let mut page = Content::titled(format!("Key {} is created", made.name));
    page.body = html! {
        p.notice role="status" { "Copy it now: it is kept nowhere, and nobody can show it again." }
        (source_text("The key", key))
        p { "Callers send it as " code { "Authorization: Bearer …" } ". It may: " (made.scopes.join(", ")) ". "
            @match made.expires_at { Some(at) => { "It ends " (time(at)) "." }, None => "It has no end." } }
        p { a href=(links::api_key(made.api_key_id)) { "See the key" } }
    };
    page
}

async fn ask(view: View) -> Result<Content> {
    view.query()?.finish()?;
    let key = api_keys::get(&view.caller, ApiKeyId(view.id()?)).await?;
    let is_own = key.api_key_id == view.caller.principal.key_id();
    let address = links::api_key(key.api_key_id);
    let mut page = Content::titled(format!("Revoke key {}?", key.name));
    page.body = html! {
        p { "Whoever calls with it is refused from then on, at every process, and browsers that are logged in with it are logged out. "
            "It cannot be taken back; another key can be created." }
        @if is_own { p.alert role="alert" { "It is the key that you are logged in with." } }
        p { "Last used: " (maybe(key.last_used_at, since)) ". May: " (or_none(Some(&key.scopes.join(", ")))) "." }
        (answers(&format!("{address}/revoke"), "Revoke", &address))
    };
    Ok(page)
}

async fn revoke(view: View) -> Result<Done> {
    let key = api_keys::revoke(&view.caller, ApiKeyId(view.id()?)).await?;
    Ok(Done::Go { to: links::api_key(key.api_key_id), notice: format!("Key {} is revoked.", key.name) })
}
