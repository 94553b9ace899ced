//! Live sections: the same page is drawn again and again while somebody looks, and each section that has
//! changed is sent. Browsers that look at the same page with the same key share the drawing.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};

use super::view::View;
use super::{Page, Result};
use crate::api::http::event_stream::{self, Event};
use crate::domain::ids::ApiKeyId;
use crate::services::sessions;

/// How long is waited after a drawing that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// One drawing.
#[derive(Clone, Debug, Default)]
struct Drawing {
    /// Name, hash and markup of each live section.
    sections: Arc<Vec<(&'static str, u64, String)>>,
    /// Whether it could not be drawn again since.
    is_old: bool,
}

impl Drawing {
    fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.sections.iter().map(|(_, hash, _)| *hash)
    }
}

/// A page by its address, as it is for a key.
type Place = (ApiKeyId, String);

/// Pages that somebody looks at.
#[derive(Debug, Default)]
pub struct Hub {
    drawn: Mutex<HashMap<Place, Weak<watch::Sender<Drawing>>>>,
}

impl Hub {
    /// The drawings of a page, by whoever began them.
    fn follow(&self, page: &'static Page, view: View) -> watch::Receiver<Drawing> {
        let place = (view.caller.principal.key_id(), view.address());
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.retain(|_, sender| sender.strong_count() > 0);
        if let Some(sender) = drawn.get(&place).and_then(Weak::upgrade) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Drawing::default());
        let sender = Arc::new(sender);
        drawn.insert(place, Arc::downgrade(&sender));
        tokio::spawn(draw(page, view, sender));
        receiver
    }
}

/// Draws a page until nobody looks any more.
async fn draw(page: &'static Page, view: View, sender: Arc<watch::Sender<Drawing>>) {
    loop {
        let began = Instant::now();
        let pause = match (page.show)(view.clone()).await {
            Ok(content) => {
                let sections = content.live.into_iter().map(|(id, html)| (id, hash(&html), html)).collect();
                let now = Drawing { sections: Arc::new(sections), is_old: false };
                sender.send_if_modified(|before| {
                    let same = !before.is_old && before.hashes().eq(now.hashes());
                    *before = now;
                    !same
                });
                content.refresh
            }
            Err(_) => {
                sender.send_if_modified(|before| !std::mem::replace(&mut before.is_old, true));
                AFTER_FAILURE
            }
        };
        // A search that takes long is not repeated all the time.
        let pause = pause.max(began.elapsed() * 10);
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
pub fn stream(
    page: &'static Page,
    view: View,
    request: &HttpRequest,
    hub: &web::Data<Hub>,
) -> Result<HttpResponse> {
    let (caller, session) = (view.caller.clone(), view.session);
    // Drawn once the stream has its place.
    let hub = hub.clone();
    let sections = stream::once(async move { changes(hub.follow(page, view)) }).flatten();
    let key = caller.principal.key_id();
    event_stream::answer_while(request, key, sections, async move || {
        sessions::is_open(&caller, session).await
    })
}

/// What changes. `section`: `{"id": …, "html": …}`; `age`: `old` while nothing newer can be drawn, else `new`.
fn changes(drawn: watch::Receiver<Drawing>) -> impl Stream<Item = Event> {
    let first = (drawn, Sent::default(), VecDeque::new());
    stream::unfold(first, |(mut drawn, mut sent, mut waiting)| async move {
        while waiting.is_empty() {
            let drawing = drawn.borrow_and_update().clone();
            sent.add_changes(&drawing, &mut waiting);
            if waiting.is_empty() && drawn.changed().await.is_err() {
                return None;
            }
        }
        waiting.pop_front().map(|event| (event, (drawn, sent, waiting)))
    })
}

/// What one browser has been sent.
#[derive(Default)]
struct Sent {
    hashes: HashMap<&'static str, u64>,
    is_old: bool,
}

impl Sent {
    fn add_changes(&mut self, drawing: &Drawing, waiting: &mut VecDeque<Event>) {
        for (id, hash, html) in drawing.sections.iter() {
            if self.hashes.insert(id, *hash) != Some(*hash) {
                let data = json!({"id": id, "html": html}).to_string();
                waiting.push_back(Event { id: None, name: Some("section"), data });
            }
        }
        if std::mem::replace(&mut self.is_old, drawing.is_old) != drawing.is_old {
            let data = if drawing.is_old { "old" } else { "new" }.to_owned();
            waiting.push_back(Event { id: None, name: Some("age"), data });
        }
    }
}

fn hash(html: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    html.hash(&mut hasher);
    hasher.finish()
}
