//! A database that is a pair, or moves: the bridge finds the server that may be written to.

use crate::support::pair::Pair;

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_loses_what_its_standby_did_not_have_and_its_former_primary_can_come_back() {
    let pair = Pair::start().await;
    pair.commits_wait_for_standby(true).await;
    pair.first.say(&["create table kept ()"]).await;
    pair.commits_wait_for_standby(false).await;
    pair.second.is_cut_off().await;
    pair.first.say(&["create table lost ()"]).await;
    pair.first.kill();
    pair.second.promote().await;
    let known = "select coalesce(to_regclass('kept')::text, '') || coalesce(to_regclass('lost')::text, '')";
    assert_eq!(pair.second.ask::<String>(known).await, "kept");
    pair.first.follow(&pair.second);
    pair.second.stop();
    pair.first.promote().await;
    pair.second.start_as_standby_of(&pair.first);
    assert!(pair.second.ask::<bool>("select pg_is_in_recovery()").await);
}
