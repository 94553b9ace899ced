//! The command line for daily work: each verb at a real bridge, tables as they are, JSON as the API has it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use genesys_simulator::crm::{Behaviour, Secret};
use serde_json::{Value, json};

use crate::support::bridge::API_KEY;
use crate::support::cloud::CloudWorld;
use crate::support::shown::{ELSEWHERE, KNOWN, OUTSIDER, P521, Shown, authorities};
use crate::support::terminal::{Terminal, shape};
use crate::support::{Bridge, SOON, eventually};

/// The columns of a table.
fn head(table: &str) -> String {
    shape(table.lines().next().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_kept_from_its_registration_to_its_removal() {
    let world = CloudWorld::watching(&["ann"]).await;
    let terminal = Terminal::at(&world.bridge);
    let url = world.crm.url("/hooks/a");
    let shaped = |text: &str| shape(&text.replace(&url, "<url>"));
    let create = ["webhooks", "create", &url, "--description", "Pop-up", "--presence", "BUSY", "-o", "json"];
    let made = terminal.run(&create).await;
    assert!(made.err.contains("Keep the secret"), "{}", made.err);
    let made = made.json();
    let id = made["id"].as_str().unwrap();
    world.crm.set_secrets_of("/hooks/a", vec![Secret::parse(made["secret"].as_str().unwrap()).unwrap()]);
    let listed = terminal.run(&["webhooks", "list"]).await.ok();
    let rows = "ID  STATE  HEALTH  URL  DESCRIPTION\n<id>  active  ok  <url>  Pop-up\n";
    assert_eq!(shaped(&listed), rows);
    let path = format!("/v1/webhooks/{id}");
    let shown = terminal.run(&["webhooks", "show", id, "-o", "json"]).await.json();
    assert_eq!(shown, world.bridge.get(&path).await.json());
    let shown = terminal.run(&["webhooks", "show", id]).await.ok();
    assert!(shaped(&shown).starts_with("id  <id>\nurl  <url>\nstate  active\nagents\n"), "{shown}");

    // A change is shown, and asked for where somebody can be asked.
    let edit = ["webhooks", "edit", id, "--mode", "latest", "--set", "timeout_ms=5000"];
    let asked = terminal.run(&edit).await;
    let said = "- mode: every\n+ mode: latest\n- timeout_ms: 15000\n+ timeout_ms: 5000\n";
    assert_eq!((asked.code, asked.err.strip_prefix(said).is_some()), (2, true), "{}", asked.err);
    assert_eq!(world.bridge.get(&path).await.json()["mode"], "every", "nothing was done");
    terminal.run(&[&edit[..], &["--yes"]].concat()).await.ok();
    assert_eq!(world.bridge.get(&path).await.json()["timeout_ms"], 5000);
    let again = terminal.run(&edit).await;
    assert!(again.code == 0 && again.err.contains("Nothing to change"), "{}", again.err);
    for (verb, state) in
        [("pause", "paused"), ("resume", "active"), ("enable", "active"), ("snapshot", "active")]
    {
        assert_eq!(
            terminal.run(&["webhooks", verb, id, "-o", "json"]).await.json()["state"],
            state,
            "{verb}"
        );
    }

    // The receiver's answer is the command's.
    let tested = terminal.run(&["webhooks", "test", id]).await.ok();
    assert!(tested.starts_with("delivered 204 "), "{tested}");
    world.crm.always("/hooks/a", Behaviour::status(500));
    let tested = terminal.run(&["webhooks", "test", id]).await;
    assert_eq!((tested.code, tested.out.starts_with("waiting 500 http_5xx")), (1, true), "{}", tested.out);
    let rotated = terminal.run(&["webhooks", "rotate-secret", id, "-o", "json"]).await.json();
    assert_ne!(rotated["secret"], made["secret"]);
    let recovered = terminal.run(&["webhooks", "recover", id, "--since", "1h", "--wait", "-o", "json"]).await;
    assert_eq!(recovered.json()["state"], "done");
    let listed = terminal.run(&["recoveries", "list"]).await.ok();
    assert_eq!(head(&listed), "ID  WEBHOOK  STATE  SINCE  UNTIL  RECOVERED  SKIPPED  REASON\n");
    let (deleted, left) = (terminal.run(&["webhooks", "delete", id]).await, world.bridge.get(&path).await);
    assert_eq!((deleted.code, left.status), (2, 200), "it asks before");
    terminal.run(&["webhooks", "delete", id, "--yes"]).await.ok();
    assert_eq!(world.bridge.get(&path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_can_be_seen_and_put_right() {
    let world = CloudWorld::watching(&["ann", "bob"]).await;
    let terminal = Terminal::at(&world.bridge);
    let webhook = world.register("/hooks/a", json!({"retry_schedule_seconds": []})).await;
    world.crm.next("/hooks/a", [Behaviour::status(500)]);
    terminal.run(&["agents", "map", "ann", "crm-1"]).await.ok();
    world.cloud.set_presence("ann", "BUSY").await;
    let dead =
        || async { terminal.run(&["deliveries", "list", "--state", "dead", "-o", "json"]).await.json() };
    let delivery =
        eventually("the delivery is dead", || async { Some(dead().await.as_array()?.first()?.clone()) })
            .await;
    let (id, event) = (delivery["id"].as_str().unwrap(), delivery["event_id"].as_str().unwrap());

    let listed = terminal.run(&["deliveries", "list"]).await.ok();
    let rows = "ID  STATE  ATTEMPTS  STATUS  OUTCOME  WHEN  AGENT  WEBHOOK\n\
                <id>  dead  1  500  http_5xx  <time>  ann  <id>\n";
    assert_eq!(shape(&listed), rows);
    let shown = shape(&terminal.run(&["deliveries", "show", id]).await.ok());
    assert!(
        shown.contains("\n\nATTEMPT  AT  STATUS  OUTCOME  MS  REASON  ANSWER\n1  <time>  500  http_5xx"),
        "{shown}"
    );
    let told = terminal.run(&["explain", "--webhook", &webhook, "--agent", "crm-1"]).await.ok();
    assert!(told.starts_with("dead: ") && told.contains("FILTER") && told.contains("presences"), "{told}");
    // All that match: counted, asked for, and reopened by a recovery; or one by its id.
    let retry = ["deliveries", "retry", "--webhook", &webhook, "--state", "dead"];
    let asked = terminal.run(&retry).await;
    assert_eq!((asked.code, world.crm.count()), (2, 1), "nothing is done unasked: {}", asked.err);
    let retried = terminal.run(&[&retry[..], &["--yes", "--wait"]].concat()).await.ok();
    assert_eq!(shape(&retried), "WEBHOOK  DELIVERIES  RECOVERY  REFUSED\n<id>  1  <id>\n");
    world.crm.wait_for(2, SOON).await.unwrap();
    let again = eventually("it is delivered", || async {
        let delivered = ["deliveries", "list", "--state", "delivered", "--event", event, "-o", "json"];
        (terminal.run(&delivered).await.json() != json!([])).then_some(())
    });
    again.await;
    let none = terminal.run(&retry).await;
    assert_eq!((none.code, none.err.as_str()), (0, "No delivery matches.\n"));
    terminal.run(&["deliveries", "retry", id]).await.ok();
    world.crm.wait_for(3, SOON).await.unwrap();

    let listed = shape(&terminal.run(&["agents", "list", "--presence", "BUSY"]).await.ok());
    let rows = "ID  NAME  EXTERNAL ID  PRESENCE  ROUTING  SINCE  SEEN  SOURCE\nann  ";
    assert!(
        listed.starts_with(rows) && listed.contains("  crm-1  BUSY") && listed.contains("  yes  "),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 2, "only those who are busy: {listed}");
    let csv = "agent_id,external_id\nbob,crm-2\n";
    let counts = terminal.run_with(&["agents", "map", "--file", "-", "-o", "json"], Some(csv)).await.json();
    assert_eq!(counts["added"], 1, "{counts}");
    assert_eq!(terminal.run(&["agents", "show", "bob", "-o", "json"]).await.json()["external_id"], "crm-2");
    terminal.run(&["agents", "map", "bob", "--remove"]).await.ok();
    assert_eq!(world.agent("bob").await["external_id"], Value::Null);

    let listed = terminal.run(&["events", "list", "--agent", "crm-1", "--limit", "1"]).await;
    assert!(
        listed.err.contains("--cursor ") && listed.code == 0,
        "it says that there is more: {}",
        listed.err
    );
    assert_eq!(head(&listed.out), "RECEIVED  ID  AGENT  SEQUENCE  CHANGE  SOURCE\n");
    assert_eq!(terminal.run(&["events", "show", event, "-o", "json"]).await.json()["event_id"], event);
    let all = terminal.run(&["events", "list", "--all", "--order", "oldest", "-o", "json"]).await.json();
    let feed = world.bridge.get("/v1/events?limit=200").await.json();
    assert_eq!(all, feed["items"], "all pages, each item as the API has it");
    let tail = ["events", "tail", "--since", "1h", "--count", "2", "-o", "ndjson"];
    let tailed: Vec<Value> =
        terminal.run(&tail).await.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Some(tailed.as_slice()), all.as_array().and_then(|all| all.get(..2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_connections_and_keys_are_administered() {
    let world = CloudWorld::watching(&["ann"]).await;
    let terminal = Terminal::at(&world.bridge);
    let secret = terminal.home().join("secret");
    std::fs::write(&secret, "sim-secret\n").unwrap();
    let api = world.cloud.api_url();
    let create = [
        "sources",
        "create",
        "second",
        "--client-id",
        "sim-client",
        "--client-secret-file",
        secret.to_str().unwrap(),
        "--agent",
        "ann",
        "--set",
        &format!("api_url={api}"),
        "--set",
        &format!("login_url={api}"),
        "-o",
        "json",
    ];
    let made = terminal.run(&create).await.json();
    let id = made["id"].as_str().unwrap();
    let listed = shape(&terminal.run(&["sources", "list"]).await.ok());
    assert!(
        listed.starts_with("ID  NAME  HEALTH  SOCKETS  AGENTS  ROSTERS READ  PROTOCOL  ORIGIN\n<id>  "),
        "{listed}"
    );
    let edited =
        terminal.run(&["sources", "edit", id, "--set", "language=de_DE", "--yes", "-o", "json"]).await;
    assert_eq!(edited.err, "- language: en_US\n+ language: de_DE\n");
    assert_eq!(edited.json()["language"], "de_DE");
    terminal.run(&["sources", "refresh", id]).await.ok();
    terminal.run(&["sources", "rejected"]).await.ok();
    terminal.run(&["sources", "delete", id, "--yes"]).await.ok();
    assert_eq!(world.bridge.get(&format!("/v1/sources/{id}")).await.status, 404);

    let listed = terminal.run(&["connections", "list", "--state", "open"]).await.ok();
    let columns = "ID  STATE  AGENTS  REJECTED  LATENCY  ATTEMPTS  OPENED  PROVEN  REASON\n";
    assert_eq!((head(&listed).as_str(), listed.lines().count()), (columns, 2), "{listed}");
    let connection = listed.lines().nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(terminal.run(&["connections", "show", connection, "-o", "json"]).await.json()["agents"], 1);
    terminal.run(&["connections", "restart", connection]).await.ok();
    assert_eq!(terminal.run(&["connections", "terminate", connection]).await.code, 2, "it asks before");
    terminal.run(&["connections", "terminate", connection, "--yes"]).await.ok();
    let gaps = eventually("the gap is open", || async {
        let gaps = terminal.run(&["gaps", "--open"]).await.ok();
        gaps.contains("1: ann").then_some(gaps)
    })
    .await;
    assert_eq!(head(&gaps), "FROM  TO  CAUSE  AGENTS  CONNECTION\n");

    let create = ["keys", "create", "crm", "--scope", "read", "--scope", "webhooks", "-o", "json"];
    let key = terminal.run(&create).await.json();
    let mut other = Terminal::at(&world.bridge);
    other.set("PRESENCE_BRIDGE_API_KEY", key["key"].as_str().unwrap());
    other.run(&["webhooks", "list"]).await.ok();
    let refused = other.run(&["keys", "list"]).await;
    assert_eq!((refused.code, refused.err.contains("403 missing_scope")), (1, true), "{}", refused.err);
    let listed = shape(&terminal.run(&["keys", "list"]).await.ok());
    let rows = "ID  NAME  STATE  SCOPES  EXPIRES  USED\n<id>  bootstrap  active  ";
    assert!(listed.starts_with(rows) && listed.contains("<id>  crm  active  read, webhooks  "), "{listed}");
    terminal.run(&["keys", "revoke", key["id"].as_str().unwrap(), "--yes"]).await.ok();
    assert_eq!(other.run(&["webhooks", "list"]).await.code, 1, "revoked");
    let link = terminal.run(&["console"]).await.ok();
    assert!(link.starts_with(&format!("{}/console/", world.bridge.url)), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_one_line_and_an_exit_code() {
    let bridge = Bridge::start(&[]).await;
    let (terminal, nobody) = (Terminal::at(&bridge), Terminal::new());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let free = format!("http://{free}");
    let other_site = serve("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>");
    let no_list = serve("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}");
    let no_list = no_list.replace("://", "://ann:hunter2@");
    let key = terminal.home().join("key");
    std::fs::write(&key, "wrong\n").unwrap();
    let key = key.to_str().unwrap();
    for (at, arguments, code, says) in [
        (&terminal, &["webhooks", "list", "--api-key-file", key][..], 1, "401 unauthorized"),
        (&terminal, &["webhooks", "list", "--url", &free], 1, "does not answer: Connection refused"),
        (&terminal, &["webhooks", "list", "--url", &other_site], 1, "is it the address of a bridge?"),
        (&terminal, &["webhooks", "list", "--url", &no_list], 1, "is it the address of a bridge?"),
        (&terminal, &["webhooks", "list", "--url", "bridge"], 2, "--url: must be an address"),
        (&terminal, &["webhooks", "list", "--profile", "x"], 2, "--profile: there is no such profile"),
        (&terminal, &["webhooks", "list", "--api-key-file", "/nowhere"], 2, "/nowhere cannot be read"),
        (&terminal, &["webhooks", "create", "nonsense"], 1, "/url: is not an absolute http(s) URL"),
        (&terminal, &["webhooks", "show", "019ab2f0-7c11-7a3e-8f55-0b1c2d3e4f50"], 1, "404 not_found"),
        (
            &terminal,
            &["listen", "--forward-to", "http://127.0.0.1:9", "--secret", "x"],
            2,
            "--secret: must begin with",
        ),
        (&nobody, &["webhooks", "list"], 2, "--api-key-file: required"),
        (
            &nobody,
            &["webhooks", "list", "--url", "https://bridge.example.com"],
            2,
            "--api-key-file: required",
        ),
    ] {
        let ran = at.run(arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{arguments:?}: {}", ran.err);
        let line = ran.err.strip_prefix("presence-bridge: ").unwrap_or_default();
        assert!(line.contains(says) && line.lines().count() == 1, "{arguments:?}: {}", ran.err);
        assert!(!line.contains("hunter2"), "a password is not shown: {}", ran.err);
    }
    for wrong in [
        &["webhooks", "show", "7"][..],
        &["webhooks", "liszt"],
        &["explain"],
        &["webhooks", "list", "-o", "xml"],
    ] {
        let ran = terminal.run(wrong).await;
        assert!(
            ran.code == 2 && ran.err.contains("Usage") || ran.err.contains("--help"),
            "{wrong:?}: {}",
            ran.err
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_keeps_a_key_for_its_user_and_its_bridge_alone() {
    let bridge = Bridge::start(&[]).await;
    let terminal = Terminal::new();
    for name in ["local", "other"] {
        let set = ["profile", "set", name, "--url", &bridge.url];
        terminal.run_with(&set, Some(&format!("{API_KEY}\n"))).await.ok();
    }
    let file = terminal.home().join(".config/presence-bridge/profiles.toml");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let listed = terminal.run(&["profile", "list"]).await.ok();
    assert_eq!(shape(&listed), format!("NAME  URL  DEFAULT\nlocal  {0}  yes\nother  {0}\n", bridge.url));
    assert!(!listed.contains(API_KEY));
    terminal.run(&["webhooks", "list"]).await.ok();
    terminal.run(&["webhooks", "list", "--profile", "other"]).await.ok();
    let elsewhere = terminal.run(&["webhooks", "list", "--url", "https://bridge.example.com"]).await;
    assert_eq!(elsewhere.code, 2, "its key goes nowhere else: {}", elsewhere.err);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let open = terminal.run(&["webhooks", "list"]).await;
    assert_eq!((open.code, open.err.contains("others may read it (mode 0640)")), (2, true), "{}", open.err);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    terminal.run(&["profile", "remove", "local"]).await.ok();
    assert_eq!(terminal.run(&["webhooks", "list"]).await.code, 2, "the default is gone with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_those_are_trusted_whom_the_system_trusts() {
    let bridge = Bridge::start(&[]).await;
    let authorities = authorities();
    let mut terminal = Terminal::at(&bridge);
    terminal.set("SSL_CERT_FILE", authorities.path().to_str().unwrap());
    for (shown, is_trusted) in [(KNOWN, true), (P521, true), (OUTSIDER, false), (ELSEWHERE, false)] {
        let url = in_front_of(&bridge, shown).await;
        let ran = terminal.run(&["keys", "list", "--url", &url]).await;
        assert_eq!(ran.code, i32::from(!is_trusted), "{}{}", ran.out, ran.err);
        assert!(is_trusted || ran.err.contains("ertificate"), "{}", ran.err);
    }
}

/// A proxy that speaks TLS and shows this; gives its address.
async fn in_front_of(bridge: &Bridge, shown: Shown) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let to = bridge.url.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // Who does not trust the certificate leaves here.
            if let Ok(mut caller) = shown.acceptor().accept(tcp).await {
                let mut bridge = tokio::net::TcpStream::connect(&to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut bridge).await;
            }
        }
    });
    url
}

/// Whether a terminal might act on any of it.
fn acts(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_moves_no_cursor() {
    let hostile = "a\u{1b}]0;x\u{7}\u{1b}[2J\r\n\u{9b}31m\u{202e}z";
    let agent = json!({"id": hostile, "name": hostile, "presence": {"system": hostile, "message": hostile}});
    let page = json!({"items": [agent], "next_cursor": null}).to_string();
    let problem = json!({"status": 404, "code": hostile, "title": hostile, "detail": hostile}).to_string();
    let answer = |status: &str, body: &str| {
        let kind = "content-type: application/json";
        serve(&format!("HTTP/1.1 {status}\r\n{kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    };
    let mut terminal = Terminal::new();
    terminal.set("PRESENCE_BRIDGE_API_KEY", API_KEY);
    let (good, bad) = (answer("200 OK", &page), answer("404 Not Found", &problem));
    for arguments in
        [&["agents", "list"][..], &["agents", "list", "-o", "json"], &["agents", "list", "-o", "ndjson"]]
    {
        let ran = terminal.run(&[arguments, &["--url", &good]].concat()).await;
        assert!(ran.out.contains('z') && !acts(&ran.out) && !acts(&ran.err), "{arguments:?}: {:?}", ran.out);
    }
    let read = terminal.run(&["agents", "list", "-o", "json", "--url", &good]).await.json();
    assert_eq!(read, json!([agent]), "JSON means the same");
    let ran = terminal.run(&["agents", "list", "--url", &bad]).await;
    assert!(ran.code == 1 && ran.err.contains('z') && !acts(&ran.err), "{:?}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{:?}", ran.err);
}

/// Answers everything with this; gives its address.
fn serve(answer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = answer.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_terminal_tables_fit_and_colours_can_be_turned_off() {
    let bridge = Bridge::start(&[]).await;
    let mut terminal = Terminal::at(&bridge);
    let url = format!("https://crm.example.com/{}", "a".repeat(120));
    let made =
        terminal.run(&["webhooks", "create", &url, "--description", "A hook", "-o", "json"]).await.json();
    let Some(listed) = terminal.run_in(100, &["webhooks", "list"], "").await else {
        eprintln!("skipped: there is no `script` here");
        return;
    };
    assert!(listed.out.contains("\u{1b}["), "in colour: {:?}", listed.out);
    // Deleting asks, and takes no for an answer.
    let id = made["id"].as_str().unwrap();
    let kept = terminal.run_in(100, &["webhooks", "delete", id], "n\n").await.unwrap();
    assert!(kept.out.contains("[y/N]") && kept.out.contains("Nothing was done"), "{:?}", kept.out);
    assert_eq!(bridge.get(&format!("/v1/webhooks/{id}")).await.status, 200);
    terminal.set("NO_COLOR", "1");
    let listed = terminal.run_in(100, &["webhooks", "list"], "").await.unwrap().ok();
    assert!(!listed.contains('\u{1b}'), "{listed:?}");
    let widths: Vec<_> = listed.lines().map(|line| line.trim_end().chars().count()).collect();
    assert!(widths.len() > 2 && widths.iter().all(|width| *width <= 100), "{widths:?}\n{listed}");
    assert!(listed.contains(id), "an id is not broken: {listed}");
    terminal.run_in(100, &["webhooks", "delete", id], "y\n").await.unwrap().ok();
    assert_eq!(bridge.get(&format!("/v1/webhooks/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_manual_pages_are_well_formed_and_every_verb_has_an_example() {
    let terminal = Terminal::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = terminal.run(&["completions", shell]).await.ok();
        assert!(text.contains("rotate-secret") && text.contains("forward-to"), "{shell}");
        let file = terminal.home().join(shell);
        std::fs::write(&file, text).unwrap();
        if let Ok(checked) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    terminal.run(&["man", "pages"]).await.ok();
    let pages: Vec<_> =
        std::fs::read_dir(terminal.home().join("pages")).unwrap().map(|page| page.unwrap().path()).collect();
    assert!(pages.len() > 60, "{} pages", pages.len());
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        let is_daily = text.contains("api\\-key\\-file");
        assert!(!is_daily || text.contains("Example"), "{name} has no example");
    }
    let page = terminal.home().join("pages/presence-bridge-listen.1");
    match Command::new("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page).output() {
        Ok(shown) => {
            let said = String::from_utf8_lossy(&shown.stderr).into_owned();
            assert!(shown.status.success() && said.is_empty(), "{said}");
            assert!(String::from_utf8_lossy(&shown.stdout).contains("forward-to"));
        }
        Err(_) => eprintln!("not shown: there is no `man` here"),
    }
}
