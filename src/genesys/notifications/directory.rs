//! Reads users: rosters page by page, and the states that the first answer left out.

use std::collections::{HashMap, HashSet};

use super::calls::{Notifications, PAGE_SIZE, ids};
use super::people::{Page, bulk_presence, person};
use crate::domain::secret::Secret;
use crate::genesys::limiter::Urgency;
use crate::genesys::protocol::{Person, Snapshot, UpstreamError};
use crate::genesys::rest::{bad, read_json};

/// Users that the bulk call takes.
const BULK_MAX: usize = 50;
/// Pages of one roster at most.
const PAGES_MAX: u32 = 5_000;
/// Users of one roster at most, ten times as many as a client's channels take: a platform whose pages never
/// end would fill our memory.
const PEOPLE_MAX: usize = 200_000;

impl Notifications {
    /// Reads all pages of a roster.
    pub(super) async fn members(
        &self,
        token: &Secret,
        name: &'static str,
        path: &str,
    ) -> Result<Vec<Person>, UpstreamError> {
        let mut people = Vec::new();
        for number in 1..=PAGES_MAX {
            let glue = if path.contains('?') { '&' } else { '?' };
            let page = format!("{path}{glue}pageSize={PAGE_SIZE}&pageNumber={number}");
            let page: Page = read_json(name, &self.get(name, Urgency::Patient, token, &page).await?)?;
            people.extend(page.entities.iter().filter_map(|entity| person(entity)));
            if people.len() > PEOPLE_MAX {
                return Err(bad(name, "more than 200000 users"));
            }
            let last = page.page_count.map_or(page.entities.len() < PAGE_SIZE, |pages| number >= pages);
            if last {
                break;
            }
            if page.entities.is_empty() {
                // Users on the missing pages must not be taken to have left.
                return Err(bad(name, "a page without anybody before the last one"));
            }
        }
        Ok(people)
    }

    /// Reads the presences that the first answer left out: its expansion is best effort.
    pub(super) async fn fill_in(
        &self,
        token: &Secret,
        agents: &[String],
        found: &mut Vec<Snapshot>,
    ) -> Result<(), UpstreamError> {
        let known: HashSet<&str> = found
            .iter()
            .filter(|snapshot| snapshot.state.presence.is_some())
            .map(|snapshot| snapshot.person.agent_id.as_str())
            .collect();
        let missing: Vec<String> =
            agents.iter().filter(|agent| !known.contains(agent.as_str())).cloned().collect();
        for part in missing.chunks(BULK_MAX) {
            let path = format!("users/presences/purecloud/bulk?id={}", ids(part));
            let name = "bulk presences";
            let answer = self.get(name, Urgency::Patient, token, &path).await?;
            // The platform's description gives a plain list; a page is taken too.
            let entities = read_json::<Vec<_>>(name, &answer)
                .or_else(|_| read_json::<Page>(name, &answer).map(|page| page.entities))?;
            for entity in &entities {
                let Some(bulk) = bulk_presence(entity) else { continue };
                match found.iter_mut().find(|snapshot| snapshot.person.agent_id == bulk.person.agent_id) {
                    Some(snapshot) => {
                        snapshot.state.presence = bulk.state.presence;
                        snapshot.unreadable_times.extend(bulk.unreadable_times);
                    }
                    None => found.push(bulk),
                }
            }
        }
        Ok(())
    }
}

/// Each person once, with the name and address of any duplicate.
pub(super) fn each_once(people: Vec<Person>) -> Vec<Person> {
    let mut indices: HashMap<String, usize> = HashMap::new();
    let mut once: Vec<Person> = Vec::with_capacity(people.len());
    for person in people {
        match indices.get(&person.agent_id).and_then(|index| once.get_mut(*index)) {
            Some(kept) => {
                kept.name = kept.name.take().or(person.name);
                kept.email = kept.email.take().or(person.email);
            }
            None => {
                indices.insert(person.agent_id.clone(), once.len());
                once.push(person);
            }
        }
    }
    once
}
