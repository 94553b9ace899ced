//! The bridge's database user need be no superuser, and the wire to the database no trusted one.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};

use crate::support::bridge::{self, complaint};
use crate::support::cluster::Cluster;
use crate::support::shown::{ELSEWHERE, KNOWN, OUTSIDER, P521, Shown, authorities};
use crate::support::{Bridge, database};

/// Users have a database of their own name.
impl Cluster {
    /// What `migrate` says as this user.
    fn migrate(&self, user: &str) -> Result<(), String> {
        let (code, said) = bridge::migrate(&self.url_of(user, user));
        let ended = said.lines().find(|line| line.starts_with("presence-bridge: ")).map(str::to_owned);
        if code == Some(0) { Ok(()) } else { Err(ended.unwrap_or(said)) }
    }

    /// The API, as this user, shows an empty list again and again: none of the pool's connections is in a
    /// state that another call left it in.
    async fn serves(&self, user: &str) {
        let bridge = Bridge::start_on(&self.url_of(user, user), &[]).await;
        for _ in 0..30 {
            let answer = bridge.get("/v1/webhooks").await;
            assert_eq!((answer.status, &answer.json()["items"]), (200, &serde_json::json!([])), "{user}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_create_roles_is_enough_and_another_is_told_what_is_missing() {
    let cluster = Cluster::start().await;
    for user in ["plain", "maker", "second"] {
        let rights = if user == "plain" { "" } else { "createrole" };
        cluster.say(&format!("create role {user} login {rights}")).await;
        cluster.say(&format!("create database {user} owner {user}")).await;
    }
    let refused = cluster.migrate("plain").unwrap_err();
    let wanted = "create role presence_bridge_tenant nologin; grant presence_bridge_tenant to plain";
    assert!(refused.contains(wanted), "{refused}");
    assert_eq!(refused.matches(wanted).count(), 1, "{refused}");

    cluster.migrate("maker").unwrap();
    cluster.serves("maker").await;

    // The role is there by now, and somebody else's.
    let refused = cluster.migrate("plain").unwrap_err();
    assert!(refused.contains("must say: grant presence_bridge_tenant to plain"), "{refused}");
    cluster.say("grant presence_bridge_tenant to plain").await;
    cluster.migrate("plain").unwrap();
    cluster.serves("plain").await;

    cluster.say("revoke presence_bridge_tenant from plain").await;
    let refused = cluster.migrate("plain").unwrap_err();
    assert!(refused.contains("must say: grant presence_bridge_tenant to plain"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_database_refuses_leaves_its_connection_as_it_was() {
    let cluster = Cluster::start().await;
    cluster.say("create role bridge login createrole").await;
    cluster.say("create database bridge owner bridge").await;
    let bridge = Bridge::start_on(&cluster.url_of("bridge", "bridge"), &[]).await;
    assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
    cluster.say("revoke presence_bridge_tenant from bridge granted by bridge").await;
    for _ in 0..30 {
        assert_eq!(bridge.get("/v1/webhooks").await.status, 500);
    }
    // Not a tenant's but the bridge's own.
    for _ in 0..30 {
        assert_eq!(bridge.get("/v1/tenants").await.status, 200, "{}", bridge.log());
    }
    cluster.say("grant presence_bridge_tenant to bridge granted by bridge").await;
    assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
}

/// What a client of Postgres says first if it wants TLS: its length, and a number that no protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A database behind a wire that speaks TLS as this, or not at all; what is said on it before, or without, is
/// kept.
struct Guarded {
    url: String,
    plain: Arc<Mutex<Vec<u8>>>,
}

impl Guarded {
    async fn by(shown: Option<Shown>) -> Self {
        let direct = database::create_bare().await;
        let socket = database::socket_dir(&direct).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, plain) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<u8>>>::default());
        let heard = plain.clone();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let (heard, socket) = (heard.clone(), socket.clone());
                tokio::spawn(async move {
                    let mut first = [0; 8];
                    tcp.read_exact(&mut first).await.unwrap();
                    heard.lock().unwrap().extend(first);
                    let Some(shown) = shown else {
                        tcp.write_all(b"N").await.unwrap();
                        let mut more = Vec::new();
                        let _ = tcp.read_to_end(&mut more).await;
                        heard.lock().unwrap().extend(more);
                        return;
                    };
                    tcp.write_all(b"S").await.unwrap();
                    // Who refuses the certificate ends here.
                    let Ok(mut secret) = shown.acceptor().accept(tcp).await else { return };
                    let mut server = UnixStream::connect(socket).await.unwrap();
                    let _ = copy_bidirectional(&mut secret, &mut server).await;
                });
            }
        });
        let url = format!("postgres://postgres:wire-canary@localhost:{port}/{}", database::name_of(&direct));
        Self { url, plain }
    }

    /// Nothing was heard in plain text but the wish for TLS, once for each connection.
    fn heard_only_the_wish(&self) {
        let plain = self.plain.lock().unwrap();
        assert!(!plain.is_empty() && plain.chunks(8).all(|said| said == SSL_REQUEST), "{plain:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_certificate_is_vouched_for_is_spoken_to_in_secret() {
    for shown in [KNOWN, P521] {
        let guarded = Guarded::by(Some(shown)).await;
        let file = authorities();
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", guarded.url, file.path().display());
        let bridge = Bridge::start_on(&url, &[]).await;
        assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
        guarded.heard_only_the_wish();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_the_system_trusts_is_enough() {
    let guarded = Guarded::by(Some(KNOWN)).await;
    let file = authorities();
    let variables = [("SSL_CERT_FILE", file.path().to_str().unwrap())];
    let bridge = Bridge::start_on(&format!("{}?sslmode=verify-full", guarded.url), &variables).await;
    assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
    guarded.heard_only_the_wish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_prove_who_it_is_is_told_nothing() {
    let file = authorities();
    for (mode, shown, why) in [
        ("verify-full", Some(OUTSIDER), "certificate"),
        ("verify-full", Some(ELSEWHERE), "certificate"),
        ("verify-ca", Some(OUTSIDER), "certificate"),
        ("require", None, "TLS"),
    ] {
        let guarded = Guarded::by(shown).await;
        let url = format!("{}?sslmode={mode}&sslrootcert={}", guarded.url, file.path().display());
        let said = tokio::task::spawn_blocking(move || complaint(&url, why)).await.unwrap();
        assert!(!said.contains("wire-canary"), "{mode}: {said}");
        guarded.heard_only_the_wish();
    }
}
