//! The audit log goes to a syslog receiver, every entry at least once, whatever becomes of receiver and
//! bridge.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use crate::support::siem::{entry, message};
use crate::support::{Bridge, SOON, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_nothing_is_missed_though_receiver_and_bridge_are_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = format!("tcp://{}", listener.local_addr().unwrap());
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let mut bridge = Bridge::start_on(&url, &[("BRIDGE_SYSLOG_URL", &receiver)]).await;
    sqlx::query("insert into audit_log (at, kind) select now(), 'MANY' from generate_series(1, 2500)")
        .execute(&pool)
        .await
        .unwrap();
    // The first connection is broken in the middle of a batch.
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut stream = BufReader::new(stream);
    for _ in 0..300 {
        timeout(SOON, message(&mut stream)).await.unwrap().unwrap();
    }
    drop(stream);
    // The second one takes all that does not count as sent. (On a busy machine the first may have stood a
    // second in between.)
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let pushed = "select coalesce(max(audit_id), 0) from audit_push";
    let counted: i64 = sqlx::query_scalar(pushed).fetch_one(&pool).await.unwrap();
    let pending: Vec<i64> =
        sqlx::query_scalar("select audit_id from audit_log where kind = 'MANY' and audit_id > $1")
            .bind(counted)
            .fetch_all(&pool)
            .await
            .unwrap();
    assert!(pending.len() > 1000, "{} of 2500", pending.len());
    let mut pending: BTreeSet<i64> = pending.into_iter().collect();
    let last = *pending.last().unwrap();
    let mut stream = BufReader::new(stream);
    while !pending.is_empty() {
        let entry = entry(&timeout(SOON, message(&mut stream)).await.unwrap().unwrap());
        pending.remove(&entry["id"].as_i64().unwrap());
    }
    // Killed and started again it goes on where it was, and not from the beginning.
    eventually("it knows how far it is", || async {
        let counted: i64 = sqlx::query_scalar(pushed).fetch_one(&pool).await.unwrap();
        (counted >= last).then_some(())
    })
    .await;
    bridge.kill_and_restart().await;
    drop(stream);
    let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut stream = BufReader::new(stream);
    let next = entry(&timeout(SOON, message(&mut stream)).await.unwrap().unwrap());
    assert!(next["id"].as_i64() > Some(last), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_udp_each_entry_is_a_datagram() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let receiver = format!("udp://{}", socket.local_addr().unwrap());
    let _bridge = Bridge::start(&[("BRIDGE_SYSLOG_URL", &receiver)]).await;
    let mut bytes = vec![0; 65_536];
    // The first tells of the key from the environment.
    for kind in ["API_KEY_CREATED", "BRIDGE_STARTED"] {
        let length = timeout(SOON, socket.recv(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(entry(std::str::from_utf8(&bytes[..length]).unwrap())["kind"], kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_unreachable_or_reads_nothing_holds_nobody_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for receiver in [format!("tcp://{}", silent.local_addr().unwrap()), format!("tcp://{away}")] {
        let bridge = Bridge::start(&[("BRIDGE_SYSLOG_URL", &receiver)]).await;
        let pool = database::pool(&bridge.database_url).await;
        let big = "insert into audit_log (at, kind, data)
                   select now(), 'BIG', jsonb_build_object('x', repeat('x', 20000)) from generate_series(1, 900)";
        sqlx::query(big).execute(&pool).await.unwrap();
        eventually("it seals on", || async {
            let sealed: i64 = sqlx::query_scalar("select coalesce(max(last_audit_id), 0) from audit_seal")
                .fetch_one(&pool)
                .await
                .unwrap();
            (sealed >= 900).then_some(())
        })
        .await;
        let ready = timeout(Duration::from_secs(2), bridge.get("/readyz")).await;
        assert_eq!(ready.unwrap().status, 200);
    }
}
