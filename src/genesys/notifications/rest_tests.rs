//! The REST half against a server that answers as the platform does, and as it should not.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::genesys::notifications::NotificationsSettings;
use crate::genesys::protocol::ErrorKind;

/// Requests as they arrived: method and path, then head and body.
type Seen = Rc<RefCell<Vec<(String, String)>>>;

/// A client and a server whose answers are made from method and path, and body.
async fn server(answer: impl Fn(&str, &str) -> String + 'static) -> (Notifications, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let settings = NotificationsSettings {
        api_url: base.clone(),
        login_url: base,
        client_id: "the client".to_owned(),
        client_secret: Secret::new("CANARY:secret"),
        language: "de_DE".to_owned(),
        targets: None,
        proxy: None,
        calls: None,
    };
    let client = Notifications::new(settings, Rc::default()).unwrap();
    let (seen, answer) = (Seen::default(), Rc::new(answer));
    let record = seen.clone();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(serve(stream, answer.clone(), record.clone()));
        }
    });
    (client, seen)
}

async fn serve(mut stream: TcpStream, answer: Rc<impl Fn(&str, &str) -> String>, seen: Seen) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase().split_once("content-length: ").map_or(0, |(_, rest)| {
                rest.lines().next().and_then(|n| n.trim().parse::<usize>().ok()).unwrap_or(0)
            });
            if body.len() >= length {
                break;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
        }
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let line: Vec<&str> = head.split(' ').take(2).collect();
    seen.borrow_mut().push((line.join(" "), text.clone()));
    let _ = stream.write_all(answer(&line.join(" "), body).as_bytes()).await;
}

fn ok(body: &str) -> String {
    status(200, "", body)
}

fn status(code: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn token() -> Secret {
    Secret::new("the-token")
}

fn wanted(agents: &[&str]) -> ConnectionSpec {
    ConnectionSpec {
        agents: agents.iter().map(|agent| (*agent).to_owned()).collect(),
        topics: Vec::new(),
        heartbeat_interval: Duration::from_secs(30),
    }
}

fn paths(seen: &Seen) -> Vec<String> {
    seen.borrow().iter().map(|(path, _)| path.clone()).collect()
}

macro_rules! on_one_thread {
    ($(#[$doc:meta])* async fn $name:ident() $body:block) => {
        $(#[$doc])*
        #[tokio::test]
        async fn $name() {
            LocalSet::new().run_until(async $body).await;
        }
    };
}

on_one_thread! {
async fn a_token_is_asked_for_with_basic_authentication() {
    let (client, seen) = server(|_, _| ok(r#"{"access_token":"t","expires_in":300}"#)).await;
    let token = client.token().await.unwrap();
    assert_eq!((token.secret.expose(), token.lifetime), ("t", Duration::from_secs(300)));
    let (path, whole) = seen.borrow()[0].clone();
    assert_eq!(path, "POST /oauth/token");
    // base64 of "the client:CANARY:secret"
    assert!(whole.contains("Basic dGhlIGNsaWVudDpDQU5BUlk6c2VjcmV0"), "{whole}");
    assert!(whole.ends_with("\r\n\r\ngrant_type=client_credentials"), "{whole}");
}
}

on_one_thread! {
async fn a_channel_is_made_then_its_topics_are_put_and_rejections_are_kept() {
    let (client, seen) = server(|path, _| match path {
        "POST /api/v2/notifications/channels" => {
            ok(r#"{"id":"c-1","connectUri":"wss://x/channels/c-1","expires":"2999-01-01T00:00:00.000Z"}"#)
        }
        _ => ok(
            r#"{"entities":[{"id":"v2.users.ann.activity","state":"Permitted"},
                {"id":"v2.users.bob.activity","state":"Rejected","rejectionReason":"no access",
                 "missingPermissions":["presence:view"]}]}"#,
        ),
    })
    .await;
    let made = client.provision(&token(), &wanted(&["ann", "bob"])).await.unwrap();
    assert_eq!(made.upstream_id, "c-1");
    assert!(made.lifetime.unwrap() > Duration::from_secs(3600));
    let [rejected] = made.rejected.as_slice() else { panic!("{:?}", made.rejected) };
    assert_eq!((rejected.agent_id.as_str(), rejected.reason.as_str()), ("bob", "no access"));
    assert_eq!(rejected.missing_permissions, ["presence:view"]);
    assert_eq!(
        paths(&seen),
        [
            "POST /api/v2/notifications/channels",
            "PUT /api/v2/notifications/channels/c-1/subscriptions?ignoreErrors=true"
        ]
    );
    let body = r#"[{"id":"v2.users.ann.activity"},{"id":"v2.users.bob.activity"}]"#;
    assert!(seen.borrow()[1].1.ends_with(body));
}
}

on_one_thread! {
async fn one_topic_that_spoils_a_subscription_is_found_and_the_rest_is_subscribed() {
    let (client, seen) = server(|_, body| {
        if body.contains("v2.users.bad.activity") {
            status(400, "", r#"{"code":"notification.invalid.topic"}"#)
        } else {
            ok(r#"{"entities":[]}"#)
        }
    })
    .await;
    let agents: Vec<String> = (0..100).map(|n| if n == 37 { "bad".to_owned() } else { format!("a{n}") }).collect();
    let rejected = client.subscribe(&token(), "c", &ConnectionSpec { agents, ..wanted(&[]) }).await.unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].agent_id, "bad");
    assert!(rejected[0].reason.contains("notification.invalid.topic"), "{}", rejected[0].reason);
    let added: Vec<String> = seen
        .borrow()
        .iter()
        .filter(|(path, whole)| path.starts_with("POST") && !whole.contains("v2.users.bad."))
        .map(|(_, whole)| whole.clone())
        .collect();
    let subscribed = added.iter().map(|whole| whole.matches("v2.users.").count()).sum::<usize>();
    assert_eq!(subscribed, 99);
}
}

on_one_thread! {
async fn a_rate_limit_makes_the_client_wait_and_ask_again() {
    let asked = RefCell::new(0);
    let (client, _) = server(move |_, _| {
        *asked.borrow_mut() += 1;
        match *asked.borrow() {
            1 => status(429, "retry-after: 0\r\n", ""),
            2 => status(429, "inin-ratelimit-reset: 1\r\n", ""),
            _ => ok(r#"{"OAuthClient":{"id":"client"},"organization":{"id":"org"}}"#),
        }
    })
    .await;
    let began = Instant::now();
    assert_eq!(client.verify(&token()).await.unwrap(), "client");
    assert!(began.elapsed() >= Duration::from_secs(1));
}
}

on_one_thread! {
async fn a_channel_listens_is_gone_or_not_known() {
    let (client, _) = server(|path, _| match path.rsplit('/').nth(1) {
        Some("listens") => {
            let topics = r#"{"entities":[{"id":"v2.users.ann.activity"},{"id":"v2.users.bob?presence&outofoffice"},
                {"id":"v2.system.socket_closing"}]}"#;
            status(200, "", topics)
        }
        Some("silent") => status(200, "", r#"{"entities":[]}"#),
        Some("gone") => status(404, "", ""),
        Some("odd") => status(200, "", "{}"),
        _ => status(500, "", ""),
    })
    .await;
    let agents = |list: &[&str]| Ok(Some(list.iter().map(|agent| (*agent).to_owned()).collect()));
    assert_eq!(client.listens_to(&token(), "listens").await, agents(&["ann", "bob"]));
    assert_eq!(client.listens_to(&token(), "silent").await, agents(&[]));
    assert_eq!(client.listens_to(&token(), "gone").await, Ok(None));
    assert!(client.listens_to(&token(), "odd").await.is_err());
    assert!(client.listens_to(&token(), "?").await.is_err());
}
}

on_one_thread! {
async fn states_come_with_the_users_and_what_is_missing_is_asked_for_in_bulk() {
    let (client, seen) = server(|path, _| {
        if path.contains("/bulk") {
            ok(r#"[{"userId":"bob","presenceDefinition":{"id":"d","systemPresence":"Away"},"modifiedDate":"2026-11-24T09:00:00Z"}]"#)
        } else {
            ok(
                r#"{"entities":[{"id":"ann","name":"Ann","email":"ann@example.com",
                     "presence":{"presenceDefinition":{"id":"d","systemPresence":"On Queue"},"modifiedDate":"2026-11-24T09:00:00Z"},
                     "routingStatus":{"status":"IDLE"}},{"id":"bob","name":"Bob"},{"id":"eve","name":"Eve"}]}"#,
            )
        }
    })
    .await;
    let agents = ["ann".to_owned(), "bob".to_owned()];
    let states = client.snapshot(&token(), &agents).await.unwrap();
    let of = |agent: &str| states.iter().find(|s| s.person.agent_id == agent).unwrap();
    let system = |agent: &str| of(agent).state.presence.clone().unwrap().value.system.unwrap();
    assert_eq!((system("ann"), system("bob")), ("ON_QUEUE".to_owned(), "AWAY".to_owned()));
    assert_eq!(of("ann").person.email.as_deref(), Some("ann@example.com"));
    assert_eq!(states.len(), 2, "nobody was asked about Eve");
    assert_eq!(
        paths(&seen),
        [
            "GET /api/v2/users?pageSize=100&expand=presence,routingStatus,outOfOffice&id=ann,bob",
            "GET /api/v2/users/presences/purecloud/bulk?id=bob"
        ]
    );
}
}

on_one_thread! {
async fn rosters_are_read_to_the_last_page_and_everybody_counts_once() {
    let (client, seen) = server(|path, _| {
        if path.contains("/queues/") {
            ok(r#"{"entities":[{"id":"ann","user":{"id":"ann","name":"Ann"}}],"pageCount":1}"#)
        } else if path.contains("pageNumber=1") {
            ok(r#"{"entities":[{"id":"ann"},{"id":"bob","email":"b@x"}],"pageCount":2}"#)
        } else {
            ok(r#"{"entities":[{"id":"eve"}],"pageCount":2}"#)
        }
    })
    .await;
    let watch = Watch {
        agents: vec!["zoe".to_owned()],
        all_users: true,
        queues: vec!["q/1".to_owned()],
        groups: Vec::new(),
    };
    let people = client.roster(&token(), &watch).await.unwrap();
    let ids: Vec<&str> = people.iter().map(|person| person.agent_id.as_str()).collect();
    assert_eq!(ids, ["zoe", "ann", "bob", "eve"]);
    assert_eq!(people[1].name.as_deref(), Some("Ann"));
    assert_eq!(paths(&seen)[2], "GET /api/v2/routing/queues/q%2F1/members?pageSize=100&pageNumber=1");
}
}

on_one_thread! {
async fn no_error_shows_the_secret_or_the_platforms_own_words() {
    let (client, _) = server(|_, _| {
        status(401, "", r#"{"error":"invalid_client","error_description":"CANARY","message":"CANARY","code":null}"#)
    })
    .await;
    let error = client.token().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.what.contains("invalid_client") && !error.what.contains("CANARY"), "{}", error.what);
}
}
