//! Lists of the API over their pages.

use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::api::{Api, ApiError, Query};

/// Most items of a page.
const PAGE_MAX: usize = 200;
/// Before a page that may still come to nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// A page as the API answers it, its items as they came.
#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// A list, page by page.
pub struct Pages<'a> {
    api: &'a Api,
    path: &'a [&'a str],
    query: Query,
    cursor: Option<String>,
    left: usize,
    ended: bool,
}

impl<'a> Pages<'a> {
    /// A list from its begin, or from a cursor, and how many of its items at most.
    #[must_use]
    pub fn new(api: &'a Api, path: &'a [&'a str], query: Query, cursor: Option<String>, most: usize) -> Self {
        Self { api, path, query, cursor, left: most, ended: most == 0 }
    }

    /// Where the list goes on behind the pages so far; `None` if there is nothing more.
    #[must_use]
    pub fn rest(&self) -> Option<&str> {
        self.cursor.as_deref().filter(|_| !self.ended)
    }

    /// The cursor behind the pages so far, also where the list ends for now.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next page; it may be empty although more follow. `None` at the end.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn next_page(&mut self) -> Result<Option<Vec<Box<RawValue>>>, ApiError> {
        if self.ended || self.left == 0 {
            return Ok(None);
        }
        let mut query = self.query.clone();
        query.push(("limit", self.left.min(PAGE_MAX).to_string()));
        query.extend(self.cursor.clone().map(|cursor| ("cursor", cursor)));
        let answer = self.api.get(self.path, &query)?;
        let page: Page = serde_json::from_str(answer.text()).map_err(|_| self.api.not_the_api(200))?;
        self.left = self.left.saturating_sub(page.items.len());
        // A feed has no last page: it ends for now where an empty page leads to itself.
        let is_same = page.next_cursor == self.cursor;
        self.ended = page.next_cursor.is_none() || page.items.is_empty() && is_same;
        if page.items.is_empty() && !self.ended {
            sleep(PAUSE);
        }
        self.cursor = page.next_cursor.or(self.cursor.take());
        Ok(Some(page.items))
    }
}
