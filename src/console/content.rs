//! What a page shows, before it has a frame.

use std::time::Duration;

use actix_web::http::StatusCode;
use maud::{Markup, html};

/// How often live sections are looked at again.
pub const REFRESH: Duration = Duration::from_secs(2);

/// What a page shows.
#[derive(Debug)]
pub struct Content {
    /// Heading and title of the window.
    pub title: String,
    /// What stands below the heading.
    pub body: Markup,
    /// Parts of the body that change while somebody looks, by id.
    pub live: Vec<(&'static str, String)>,
    /// How often they are looked at again.
    pub refresh: Duration,
    /// Status of the page as an answer.
    pub status: StatusCode,
}

impl Content {
    /// A page that shows nothing yet.
    pub fn titled(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            body: Markup::default(),
            live: Vec::new(),
            refresh: REFRESH,
            status: StatusCode::OK,
        }
    }

    /// A part of the body that is sent again whenever it has changed; `id` names it within the page. Give the
    /// result a place in the body. Forms and what is being typed into belong outside.
    pub fn live(&mut self, id: &'static str, part: &Markup) -> Markup {
        self.live.push((id, part.0.clone()));
        html! { div id=(id) data-live { (part) } }
    }
}
