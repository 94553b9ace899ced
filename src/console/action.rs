//! What happens when a form is sent: the action, and where the browser goes then. After a change it goes to
//! a page by 303, so that loading that page again repeats nothing.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header;

use super::content::Content;
use super::form::Form;
use super::frame;
use super::view::View;
use super::{Action, notice};

/// What an action has come to.
pub enum Done {
    /// It is done; the browser goes to this address, where the sentence is shown.
    Go { to: String, notice: String },
    /// It is done, and this is shown once: a secret that nobody can ask for again.
    Show(Content),
    /// Nothing was done: the form is shown again with what is wrong.
    Again(Content),
    /// Nothing was done, because somebody else was there first: the form is shown again and says so.
    Conflict(Content),
}

/// Carries out the action of a form.
pub async fn answer(action: &'static Action, view: View, form: Form) -> HttpResponse {
    let done = match view.caller.principal.must_have(action.scope) {
        Ok(()) => (action.act)(view.clone(), form).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(Done::Go { to, notice }) => HttpResponse::SeeOther()
            .insert_header((header::LOCATION, to))
            .cookie(notice::of(&notice))
            .finish(),
        Ok(Done::Show(content)) => frame::whole(&view, content, StatusCode::OK),
        Ok(Done::Conflict(content)) => frame::whole(&view, content, StatusCode::CONFLICT),
        Ok(Done::Again(content)) => frame::whole(&view, content, StatusCode::UNPROCESSABLE_ENTITY),
        Err(error) => frame::failed(&view, &error),
    }
}
