//! Live sections: the same page is drawn again and again while somebody looks, and each section that has
//! changed is sent. Browsers that look at the same page with the same key share the drawing.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use actix_web::{HttpRequest, HttpResponse};
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use super::content::REFRESH;
use super::view::View;
use super::{Page, Result};
use crate::api::http::event_stream::{self, Event};
use crate::domain::ids::ApiKeyId;
use crate::services::sessions;

/// How long is waited after a drawing that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The live sections of one drawing: name, hash and markup of each.
type Sections = Arc<Vec<(&'static str, u64, String)>>;

/// Pages that somebody looks at.
#[derive(Debug, Default)]
pub struct Hub {
    drawn: Mutex<HashMap<(ApiKeyId, String), Weak<watch::Sender<Sections>>>>,
}

impl Hub {
    /// The drawings of a page, by whoever began them.
    fn follow(&self, page: &'static Page, view: View) -> watch::Receiver<Sections> {
        let place = (view.caller.principal.key_id(), view.address());
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.retain(|_, sender| sender.strong_count() > 0);
        if let Some(sender) = drawn.get(&place).and_then(Weak::upgrade) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Sections::default());
        let sender = Arc::new(sender);
        drawn.insert(place, Arc::downgrade(&sender));
        tokio::spawn(draw(page, view, sender));
        receiver
    }
}

/// Draws a page until nobody looks any more.
async fn draw(page: &'static Page, view: View, sender: Arc<watch::Sender<Sections>>) {
    loop {
        let pause = match (page.show)(view.clone()).await {
            Ok(content) => {
                let sections = content.live.into_iter().map(|(id, html)| (id, hash(&html), html)).collect();
                sender.send_if_modified(|before: &mut Sections| {
                    let now: Sections = Arc::new(sections);
                    let same = before.iter().map(|(_, hash, _)| hash).eq(now.iter().map(|(_, hash, _)| hash));
                    *before = now;
                    !same
                });
                content.refresh
            }
            // What was drawn last stays; the page says since when nothing came.
            Err(_) => AFTER_FAILURE.max(REFRESH),
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = sender.closed() => return,
        }
    }
}

/// Streams the live sections of a page: first all of them, then each that has changed.
///
/// # Errors
/// If too many streams are open.
pub fn stream(page: &'static Page, view: View, request: &HttpRequest, hub: &Hub) -> Result<HttpResponse> {
    let (caller, session) = (view.caller.clone(), view.session);
    let sections = changes(hub.follow(page, view));
    let key = caller.principal.key_id();
    event_stream::answer_while(request, key, sections, async move || {
        sessions::is_open(&caller, session).await
    })
}

/// What changes: `data` is `{"id": …, "html": …}`, the id of an event the hash of its section.
fn changes(drawn: watch::Receiver<Sections>) -> impl Stream<Item = Event> {
    let first = (drawn, HashMap::<&'static str, u64>::new(), Vec::<Event>::new());
    stream::unfold(first, |(mut drawn, mut sent, mut waiting)| async move {
        while waiting.is_empty() {
            let sections = drawn.borrow_and_update().clone();
            for (id, hash, html) in sections.iter() {
                if sent.insert(id, *hash) != Some(*hash) {
                    let data = json!({"id": id, "html": html}).to_string();
                    waiting.insert(0, Event { id: None, name: Some("section"), data });
                }
            }
            if waiting.is_empty() && drawn.changed().await.is_err() {
                return None;
            }
        }
        waiting.pop().map(|event| (event, (drawn, sent, waiting)))
    })
}

fn hash(html: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    html.hash(&mut hasher);
    hasher.finish()
}
