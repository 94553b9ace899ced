//! Tenants, for the operator.

use maud::html;
use serde::Deserialize;

use crate::api::http::page::{List, Place};
use crate::console::action::Done;
use crate::console::content::Content;
use crate::console::fields::{Fields, field};
use crate::console::form::Form;
use crate::console::parts::{pager, table, time};
use crate::console::view::View;
use crate::console::{Action, Page, ROOT, Result, links};
use crate::domain::access::api_key::check_plain_name;
use crate::domain::access::scope::Scope;
use crate::domain::ids::TenantId;

pub(super) const PAGES: &[Page] = &[Page::operators("Tenants", "/tenants", |view| {
    Box::pin(async move { list(&view, &Fields::default(), "").await })
})];

pub(super) const ACTIONS: &[Action] =
    &[Action::new(Scope::Admin, "/tenants", |view, form| Box::pin(create(view, form)))];

async fn list(view: &View, fields: &Fields, given: &str) -> Result<Content> {
    let paging = view.query()?.paging(List::Tenants)?;
    let rows = view.caller.operator()?.tenants(paging.after_id().map(TenantId), paging.rows()).await?;
    let (rows, next) = paging.page(rows, None, |row| Place::Id(row.tenant_id.0));
    let own = view.caller.principal.tenant();
    let shown = html! {
        @for tenant in &rows {
            tr id={ "tenant-" (tenant.tenant_id) } {
                th scope="row" { (tenant.name) @if tenant.tenant_id == own { " (ours)" } }
                td { code { (tenant.tenant_id) } }
                td { (time(tenant.created_at)) }
                td { a href=(links::with_query("/keys", &[("tenant", &tenant.tenant_id.to_string())])) { "Its keys" } }
            }
        }
    };
    let mut page = Content::titled("Tenants");
    page.body = html! {
        p { "Each tenant has sources, webhooks, keys and a view of the audit log of its own, and sees nothing of the others." }
        (table("Tenants", &["Name", "Id", "Created", "Keys"], &shown))
        (pager(view, next.as_deref()))
        h2 { "Create a tenant" }
        (fields.summary())
        form.stack method="post" action={ (ROOT) "/tenants" } {
            (fields.text(field("name", "Name", "A tenant cannot be removed. Create a key for it next."), given))
            button.primary type="submit" { "Create" }
        }
    };
    Ok(page)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    name: String,
}

async fn create(view: View, form: Form) -> Result<Done> {
    let operator = view.caller.operator()?;
    let given: Given = form.read()?;
    if let Err(violation) = check_plain_name(&given.name) {
        return Ok(Done::Again(list(&view, &Fields::wrong(violation), &given.name).await?));
    }
    match operator.create_tenant(&given.name).await {
        Ok(made) => Ok(Done::Go {
            to: format!("{ROOT}/tenants"),
            notice: format!("Tenant {} is created. Create a key for it next.", made.name),
        }),
        Err(error) => {
            let fields = Fields::refused(error.into())?;
            Ok(Done::Again(list(&view, &fields, &given.name).await?))
        }
    }
}
