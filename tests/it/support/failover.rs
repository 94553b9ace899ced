//! A world on a pair of servers, one of which fails over to the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use genesys_simulator::crm::Post;
use genesys_simulator::crm::check::Findings;
use serde_json::json;

use super::pair::Pair;
use super::{Bridge, SOON, World, eventually};

/// A world of one agent on this database, with a webhook for changes and one for failovers.
pub async fn on(url: &str) -> World {
    let world = World::with_options(&["ann"], Default::default(), &[("DATABASE_URL", url)]).await;
    world.register("/hooks/a").await;
    world.register_with("/hooks/operator", json!({"events": ["database.failed_over"]})).await;
    world
}

/// Pushes that many changes of the agent.
pub fn push(world: &World, count: usize) {
    for n in 0..count {
        world.genesys.push_presence("ann", ["BUSY", "AWAY", "MEAL"][n % 3]);
    }
}

/// Waits until the receiver has that many changes, each with the same id and bytes whenever it came.
pub async fn has_all(world: &World, count: u64) {
    let came = |posts: &[_]| Findings::of(posts, 1..=count).is_clean();
    if world.crm.wait_until(came, SOON).await.is_err() {
        panic!("{:?}\n{}", Findings::of(&world.crm.posts(), 1..=count), world.bridge.log());
    }
}

/// The first dies, and the second becomes the primary with what it has.
pub async fn fails_over(pair: &Pair) {
    pair.first.kill();
    pair.second.promote().await;
}

pub async fn is_ready(bridge: &Bridge, timeline: u64) {
    eventually("the new primary is found", || async {
        let said = bridge.get("/readyz").await.json();
        (said["ready"] == true && said["database"]["timeline"] == timeline).then_some(())
    })
    .await;
}

/// How many events a path has got.
pub fn of_path(posts: &[Arc<Post>], path: &str) -> usize {
    let ids: BTreeSet<_> =
        posts.iter().filter(|post| post.path() == path).map(|post| post.webhook_id()).collect();
    ids.len()
}
