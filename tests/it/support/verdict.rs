//! What must be true when a script has been played: everything has its end, once, and audit and receiver
//! agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use genesys_simulator::crm::Post;
use genesys_simulator::crm::check::{altered_repeats, distrusted, inversions};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::types::Uuid;

use super::crowd::items;
use super::look::{assert_sequences_have_no_holes, feed};
use super::script::{BATCH, SINGLE, Script};

/// What the API says at the end.
pub async fn while_it_runs(script: &Script) {
    let world = &script.world;
    let events = feed(&world.bridge).await;
    let changes: Vec<_> = events.iter().filter(|event| event["raw"]["n"].is_u64()).cloned().collect();
    assert_sequences_have_no_holes(&changes);
    let numbers: BTreeSet<_> = changes.iter().map(|event| event["raw"]["n"].as_u64()).collect();
    assert_eq!(numbers.len(), changes.len(), "a change is two events");
    let lost = world.lost_without_a_word().await;
    assert!(lost.is_empty(), "changes are lost: {lost:?}");
    let hooks = script.read("/v1/webhooks?limit=200").await;
    let mut urls: Vec<_> =
        hooks["items"].as_array().unwrap().iter().map(|hook| hook["url"].clone()).collect();
    urls.sort_by_key(Value::to_string);
    assert_eq!(urls, [world.crm.url(BATCH), world.crm.url(SINGLE)], "webhooks in the end");
    let told: BTreeSet<_> = changes.iter().map(|event| event["event_id"].to_string()).collect();
    for path in [SINGLE, BATCH] {
        let accepted: Vec<_> = world.crm.received(path).into_iter().filter(|post| post.accepted()).collect();
        let items = items(&accepted);
        let came: BTreeSet<_> = items.iter().map(|item| item["data"]["event_id"].to_string()).collect();
        let missing: Vec<_> = told.difference(&came).collect();
        assert!(missing.is_empty(), "{path} was not told of {missing:?}");
    }
}

/// What receiver and database say once the process has ended.
pub async fn after_its_end(script: &Script) {
    let posts = script.world.crm.posts();
    // A snapshot repeats the sequence of the change that it shows.
    let is_change = |post: &&Arc<Post>| post.kind().as_deref() == Some("presence.updated");
    let changes: Vec<_> = posts.iter().filter(is_change).cloned().collect();
    let mut broken = [altered_repeats(&posts), inversions(&changes), distrusted(&posts)].concat();
    let mut ids = BTreeMap::new();
    for path in [SINGLE, BATCH] {
        let mut accepted = BTreeSet::new();
        for post in script.world.crm.received(path) {
            if accepted.contains(post.webhook_id()) {
                broken.push(format!("{path}: {} was accepted and came again", post.webhook_id()));
            }
            if post.accepted() {
                accepted.insert(post.webhook_id().to_owned());
            }
            for item in items(std::slice::from_ref(&post)) {
                let event = item["data"]["event_id"].to_string();
                let id = ids.entry((path, event.clone())).or_insert_with(|| item["id"].clone()).clone();
                if id != item["id"] {
                    broken.push(format!("{path}: event {event} came as {id} and as {}", item["id"]));
                }
            }
        }
    }
    broken.extend(agree(script).await);
    let left = "select 'delivery ' || delivery_id::text from delivery
        union all select 'recovery ' || recovery_id::text from recovery where ended_at is null
        union all select 'refused frame ' || audit_id::text from audit_log where kind = 'FRAME_REJECTED'";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_all(&script.pool).await.unwrap();
    broken.extend(left.into_iter().map(|what| format!("left over: {what}")));
    assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), script.log_tail());
}

/// Each attempt has one entry that says the result, and there are no other entries. It was one POST, or two if
/// the entry says that it was made again. Of the webhook that was removed and recovered nothing is asked: an
/// operator has had the same attempts made again.
async fn agree(script: &Script) -> Vec<String> {
    let rows: Vec<(Uuid, i32, bool, bool)> = sqlx::query_as(
        "select delivery_id, attempt, coalesce(end_state = 'delivered', false),
                coalesce((data ->> 'remade')::boolean, false)
         from audit_log join webhook using (webhook_id)
         where kind = 'DELIVERY_ATTEMPT' and webhook.url not like '%failing'",
    )
    .fetch_all(&script.pool)
    .await
    .unwrap();
    let mut written: BTreeMap<_, Vec<(bool, bool)>> = BTreeMap::new();
    for (id, attempt, ended, remade) in rows {
        written.entry((id.to_string(), attempt)).or_default().push((ended, remade));
    }
    let mut made: BTreeMap<_, Vec<bool>> = BTreeMap::new();
    for post in [SINGLE, BATCH].iter().flat_map(|path| script.world.crm.received(path)) {
        let attempt: i32 = post.header("presence-bridge-attempt").unwrap().parse().unwrap();
        for item in items(std::slice::from_ref(&post)) {
            let id = item["id"].as_str().unwrap().to_owned();
            made.entry((id, attempt)).or_default().push(post.accepted());
        }
    }
    let keys: BTreeSet<_> = written.keys().chain(made.keys()).collect();
    keys.into_iter()
        .filter(|key| {
            let accepted = made.get(key).map(Vec::as_slice).unwrap_or_default();
            match written.get(key).map(Vec::as_slice).unwrap_or_default() {
                [(ended, false)] => accepted != [*ended],
                // The first may have reached nobody.
                [(ended, true)] => accepted.len() > 2 || accepted.last() != Some(ended),
                _ => true,
            }
        })
        .map(|key| {
            let (made, written) = (made.get(key), written.get(key));
            format!("(delivery, attempt) {key:?}: POSTs (accepted) {made:?}, entries (delivered, remade) {written:?}")
        })
        .collect()
}

/// What is open, row by row.
pub async fn pending(pool: &PgPool) -> String {
    let rows: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', right(webhook.url, 8), 'lane', lane, 'position', position, 'attempt', attempt,
                          'due in', coalesce((due_at - now())::text, '-'), 'leased', coalesce(leased_by::text, '-'))
         from delivery join webhook using (webhook_id)
         order by webhook_id, position",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    format!("open:\n{}", rows.join("\n"))
}
