//! The audit log goes over TLS to its receiver and to nobody else, and of several bridges one sends it.

use std::collections::BTreeSet;
use std::io::Result;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::bridge::{API_KEY, MASTER_KEY};
use crate::support::shown::{ELSEWHERE, KNOWN, OUTSIDER, authorities};
use crate::support::siem::{entry, message};
use crate::support::{Bridge, SOON, database, eventually};

/// Text that is longer in octets than in letters, and that would end a line, a text or structured data.
const TRICKY: &str = "Zoë\n€ ]\" \\ 12 <110>1 \u{1f600}";

/// Writes `count` entries, some long and all tricky.
async fn write(pool: &PgPool, kind: &str, count: i32) {
    let many = "insert into audit_log (at, kind, data)
                select now(), $1, jsonb_build_object('odd', $2, 'long', repeat('€', case when n % 100 = 7 then 20000 else n % 50 end))
                from generate_series(1, $3) n";
    sqlx::query(many).bind(kind).bind(TRICKY).bind(count).execute(pool).await.unwrap();
}

/// Ids and contents of the log, in its order.
async fn log(pool: &PgPool) -> Vec<(i64, Value)> {
    sqlx::query_as("select audit_id, data from audit_log order by audit_id").fetch_all(pool).await.unwrap()
}

/// Waits until so much of the log is sealed, and so may leave.
async fn sealed(pool: &PgPool, through: i64) {
    eventually("it is sealed", || async {
        let last: Option<i64> =
            sqlx::query_scalar("select max(last_audit_id) from audit_seal").fetch_one(pool).await.unwrap();
        (last >= Some(through)).then_some(())
    })
    .await;
}

/// How far the log counts as sent; 0 if nothing of it does.
async fn counted(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select coalesce(max(audit_id), 0) from audit_push").fetch_one(pool).await.unwrap()
}

/// Keeps what comes for the first time, in order.
#[derive(Default)]
struct Got {
    order: Vec<(i64, Value)>,
    ids: BTreeSet<i64>,
}

impl Got {
    fn take(&mut self, entry: &Value) {
        let id = entry["id"].as_i64().unwrap();
        if self.ids.insert(id) {
            self.order.push((id, entry["data"].clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_every_entry_arrives_whole_and_in_order_though_the_receiver_was_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (receiver, trusted) = (format!("tls://localhost:{}", address.port()), authorities());
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let trusted = trusted.path().to_str().unwrap();
    let long = ("BRIDGE_SYSLOG_MAX_BYTES", "100000");
    let variables = [("BRIDGE_SYSLOG_URL", receiver.as_str()), ("SSL_CERT_FILE", trusted), long];
    let bridge = Bridge::start_on(&url, &variables).await;
    write(&pool, "BEFORE", 1500).await;
    let mut got = Got::default();
    // It is cut off in the middle of a message, and nobody listens for a while.
    {
        let (tcp, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let mut stream = BufReader::new(KNOWN.acceptor().accept(tcp).await.unwrap());
        for _ in 0..300 {
            got.take(&entry(&timeout(SOON, message(&mut stream)).await.unwrap().unwrap()));
        }
    }
    drop(listener);
    eventually("it is told", || async {
        bridge.log().contains("failed to push the audit log").then_some(())
    })
    .await;
    write(&pool, "MEANWHILE", 200).await;
    // But for what was written at the start, and may have left before the rest was sealed.
    assert!(counted(&pool).await < 300, "what was cut off does not count");
    let listener = TcpListener::bind(address).await.unwrap();
    let expected = log(&pool).await;
    let (tcp, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut stream = BufReader::new(KNOWN.acceptor().accept(tcp).await.unwrap());
    let (last, mut before) = (expected.last().unwrap().0, 0);
    while before < last {
        let entry = entry(&timeout(SOON, message(&mut stream)).await.unwrap().unwrap());
        let id = entry["id"].as_i64().unwrap();
        assert!(id > before, "{id} after {before} on one connection");
        got.take(&entry);
        before = id;
    }
    got.order.truncate(expected.len());
    assert_eq!(got.order, expected);
    assert!(expected.iter().filter(|(_, data)| data["odd"] == json!(TRICKY)).count() == 1700);
    eventually("it counts", || async { (counted(&pool).await >= last).then_some(()) }).await;
}

/// How often it was told why the log waits.
fn telling(bridge: &Bridge, why: &str) -> usize {
    bridge
        .log()
        .lines()
        .filter(|line| line.contains("failed to push the audit log") && line.contains(why))
        .count()
}

/// A connection that counts what it reads.
struct Counting(TcpStream, Arc<AtomicUsize>);

impl AsyncRead for Counting {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.0).poll_read(cx, into);
        this.1.fetch_add(into.filled().len() - before, Ordering::SeqCst);
        read
    }
}

impl AsyncWrite for Counting {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_nothing_of_the_log_leaves_for_one_who_is_not_the_receiver() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = format!("tls://localhost:{}", listener.local_addr().unwrap().port());
    let trusted = authorities();
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let trusted = trusted.path().to_str().unwrap();
    let bridge =
        Bridge::start_on(&url, &[("BRIDGE_SYSLOG_URL", &receiver), ("SSL_CERT_FILE", trusted)]).await;
    write(&pool, "KEPT", 1500).await;
    sealed(&pool, 1500).await; // so that it has what it could send
    for (number, shown, told) in [(1, OUTSIDER, "UnknownIssuer"), (2, ELSEWHERE, "not valid for name")] {
        // As often as it likes, and however often: it is told once, with the reason.
        loop {
            let (tcp, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
            let came = Arc::new(AtomicUsize::new(0));
            let hands = timeout(SOON, shown.acceptor().accept(Counting(tcp, came.clone()))).await.unwrap();
            let refused = hands.map(|_| ()).expect_err("a handshake came about");
            assert!(refused.to_string().contains("received fatal alert"), "{refused}");
            // A greeting and an alert; the log weighs more than a hundred times as much.
            assert!(came.load(Ordering::SeqCst) < 1500, "{came:?}");
            if telling(&bridge, told) > 0 {
                break;
            }
        }
        assert_eq!(telling(&bridge, told), 1, "{}", bridge.log());
        eventually("it is counted", || async {
            (bridge.metric("presence_bridge_audit_push_failures_total").await >= f64::from(number))
                .then_some(())
        })
        .await;
    }
    assert_eq!((counted(&pool).await, bridge.metric("presence_bridge_audit_pushed_total").await), (0, 0.0));
    for secret in [API_KEY, MASTER_KEY, "KEPT", KNOWN.key()] {
        assert!(!bridge.log().contains(secret));
    }
    // Then the right one is there, and gets the log from its first entry on.
    let stream = timeout(SOON, async {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(stream) = KNOWN.acceptor().accept(tcp).await {
                return stream;
            }
        }
    });
    let mut stream = BufReader::new(stream.await.unwrap());
    let first = timeout(SOON, message(&mut stream)).await.unwrap().unwrap();
    assert_eq!(entry(&first)["id"].as_i64().unwrap(), log(&pool).await[0].0);
    tokio::spawn(async move { while message(&mut stream).await.is_some() {} });
    eventually("that it goes on is told", || async {
        bridge.log().contains("pushing the audit log works again").then_some(())
    })
    .await;
}

/// What came over all connections, one after the other: which connection, which entry.
type Came = Arc<Mutex<Vec<(usize, i64)>>>;

/// A receiver for as many as like to connect.
fn receive(listener: TcpListener) -> Came {
    let came = Came::default();
    let all = came.clone();
    tokio::spawn(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let came = came.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(tcp);
                while let Some(message) = message(&mut stream).await {
                    let id = entry(&message)["id"].as_i64().unwrap();
                    came.lock().unwrap().push((number, id));
                }
            });
        }
    });
    all
}

/// Writes `count` entries and waits until they have come, each at least once; gives how often one came again.
async fn comes(pool: &PgPool, came: &Came, count: i32) -> usize {
    write(pool, "MANY", count).await;
    all_came(pool, came).await
}

/// Waits until all that is written has come; gives how often one came again so far.
async fn all_came(pool: &PgPool, came: &Came) -> usize {
    let wanted: BTreeSet<i64> = log(pool).await.into_iter().map(|(id, _)| id).collect();
    eventually("all came", || async {
        let ids: BTreeSet<i64> = came.lock().unwrap().iter().map(|(_, id)| *id).collect();
        ids.is_superset(&wanted).then_some(())
    })
    .await;
    let all = came.lock().unwrap();
    all.len() - all.iter().map(|(_, id)| *id).collect::<BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_bridges_one_pushes_and_the_other_goes_on_when_it_is_killed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver = format!("tcp://{}", listener.local_addr().unwrap());
    let came = receive(listener);
    let url = database::create().await;
    let pool = database::pool(&url).await;
    let mut bridges = Vec::new();
    for _ in 0..2 {
        bridges.push(Bridge::start_on(&url, &[("BRIDGE_SYSLOG_URL", &receiver)]).await);
    }
    // While both live nothing comes twice.
    for _ in 0..3 {
        assert_eq!(comes(&pool, &came, 400).await, 0);
    }
    let pushed = "presence_bridge_audit_pushed_total";
    let shares = [bridges[0].metric(pushed).await, bridges[1].metric(pushed).await];
    assert!(shares.contains(&0.0) && shares != [0.0, 0.0], "{shares:?}");
    if shares[0] == 0.0 {
        bridges.reverse();
    }
    // The one that pushes is killed in the middle of it. What it had not counted yet comes again, a page at
    // most.
    let before = came.lock().unwrap().len();
    write(&pool, "MANY", 3000).await;
    eventually("it is in the middle", || async {
        (came.lock().unwrap().len() > before + 1000).then_some(())
    })
    .await;
    bridges[0].kill().await;
    let again = all_came(&pool, &came).await;
    assert!(again <= 1000, "{again}");
    let counted_by_the_other = bridges[1].metric(pushed).await;
    assert!(counted_by_the_other > 0.0);
    // Back again it waits until the other one is gone, and still nothing comes twice.
    bridges[0].restart().await;
    for _ in 0..2 {
        assert_eq!(comes(&pool, &came, 400).await, again);
    }
    assert_eq!(bridges[0].metric(pushed).await, 0.0);
    assert!(came.lock().unwrap().iter().all(|(connection, _)| *connection < 2), "more than two connections");
    // Each connection has its entries in order.
    for connection in 0..2 {
        let all = came.lock().unwrap();
        assert!(all.iter().filter(|(number, _)| *number == connection).map(|(_, id)| *id).is_sorted());
    }
}
