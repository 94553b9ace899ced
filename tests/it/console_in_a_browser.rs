//! The console as people meet it: in a real browser, in front of a real bridge. Getting in and out, what
//! moves, and what other sites' pages cannot do; `console_pages_in_a_browser.rs` has every page.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::bridge::{API_KEY, Bridge};
use crate::support::browser::{Appearance, Browser};
use crate::support::client::{Answer, Client};
use crate::support::console::Console;
use crate::support::{World, eventually, look};

/// A page with one fault of each kind that is looked for on the console's pages.
const BAD_PAGE: &str = r#"<!doctype html><html lang="en"><title>bad</title><main><h1>Bad</h1>
    <form action="/next"><input id="name" name="name"><button>Go</button></form>
    <p style="width: 500px; color: #ddd; background: #fff">a wide and pale text</p></main>
    <script>console.error("of its own"); new Image().src = "http://127.0.0.2:9/elsewhere.png"</script>"#;

/// Answers each request with one page; gives its origin.
async fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let page = page.clone();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{page}", page.len());
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    origin
}

/// The tests of this file would be worth nothing with a browser that sees nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_page_is_seen() {
    let origin = serve(BAD_PAGE.to_owned()).await;
    let Some(browser) = Browser::start(&origin).await else { return };
    browser.goto("/").await;
    browser.until("it asked elsewhere", "performance.getEntriesByType('resource').length > 0").await;
    let faults = browser.faults().await.join("\n");
    assert!(faults.contains("of its own"), "{faults}");
    assert!(faults.contains("a request to http://127.0.0.2:9/elsewhere.png"), "{faults}");
    let breaches = browser.breaches().await;
    for rule in ["label: #name", "color-contrast: p"] {
        assert!(breaches.iter().any(|breach| breach.starts_with(rule)), "{rule}: {breaches:#?}");
    }
    for appearance in Appearance::ALL {
        browser.appear(appearance).await;
        assert_eq!(browser.overflow().await > 100, appearance == Appearance::Narrow);
        let dark = browser.execute("return matchMedia('(prefers-color-scheme: dark)').matches").await;
        assert_eq!(dark, appearance == Appearance::Dark);
    }
    browser.fill("#name", "ann").await;
    browser.click("button").await;
    browser.says("a wide and pale text").await;
    assert_eq!(browser.path().await, "/next?name=ann");
    assert!(browser.text().await.contains("Bad"));
    assert_eq!(browser.count("p").await, 1);
}

/// Asks for a page with these headers, without a browser.
async fn ask(bridge: &Bridge, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    Client::new(bridge.url.clone()).try_send(method, path, headers, None).await.expect("an answer")
}

async fn key(bridge: &Bridge, name: &str) -> Value {
    let made = bridge.post("/v1/api-keys", &json!({"name": name, "scopes": ["read"]})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()
}

/// Rows of the presence board, as people see them.
async fn board(browser: &Browser) -> String {
    let rows = browser.execute("return document.querySelector('tbody')?.innerText").await;
    rows.as_str().unwrap_or_default().to_owned()
}

async fn board_says(browser: &Browser, presence: &str) {
    let rows = "document.querySelector('tbody')?.innerText";
    browser.until(presence, &format!("{rows}?.includes('{presence}')")).await;
}

const AT_LOGIN: &str = "location.pathname === '/console/login'";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lets_a_browser_in_until_it_logs_out_at_every_process() {
    let bridge = Bridge::start(&[]).await;
    let Some(browser) = Browser::start(&bridge.url).await else { return };
    browser.goto("/console/board?state=BUSY").await;
    assert_eq!(browser.path().await, "/console/login?next=%2Fconsole%2Fboard%3Fstate%3DBUSY");
    let faults = browser.faults().await;
    assert!(faults.is_empty(), "{faults:#?}");
    for appearance in Appearance::ALL {
        browser.appear(appearance).await;
        assert_eq!((browser.breaches().await.len(), browser.overflow().await), (0, 0), "{appearance:?}");
        browser.screenshot(&format!("login-{appearance:?}").to_lowercase()).await;
    }
    browser.fill("#key", "wrong-key-of-sufficient-length-0123456789").await;
    browser.click("main button").await;
    browser.says("No key in use is like this one.").await;
    assert!(browser.cookies().await.is_empty());
    browser.fill("#key", API_KEY).await;
    browser.click("main button").await;
    browser.until("the page that was asked for", "location.pathname === '/console/board'").await;
    assert_eq!(browser.execute("return document.cookie").await, "", "no script reads the session");
    let cookies = browser.cookies().await;

    // A browser sends its cookies to every port of a host, so this is the same browser.
    let second = Bridge::start_on(&bridge.database_url, &[]).await;
    browser.goto(&format!("{}/console/board", second.url)).await;
    assert_eq!(browser.path().await, "/console/board");
    browser.click("header button").await;
    browser.until("logged out", AT_LOGIN).await;
    browser.goto("/console/board").await;
    browser.until("logged out here too", AT_LOGIN).await;
    for bridge in [&bridge, &second] {
        let answer = ask(bridge, "GET", "/console/board", &[("cookie", &cookies)]).await;
        assert_eq!(answer.status, 303, "a cookie that was kept is worth nothing");
    }
    let principal = json!("api-key:bootstrap");
    for kind in ["CONSOLE_LOGIN", "CONSOLE_LOGOUT"] {
        let entries = look::all(&bridge, &format!("/v1/audit?kind={kind}")).await;
        assert_eq!(entries.iter().map(|e| &e["principal"]).collect::<Vec<_>>(), [&principal], "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_logs_in_once() {
    let bridge = Bridge::start(&[]).await;
    let Some(browser) = Browser::start(&bridge.url).await else { return };
    let made = bridge.post("/v1/console/login-links", &json!({})).await.json();
    let link = made["url"].as_str().unwrap();
    browser.goto(link).await;
    browser
        .until(
            "it is in",
            "location.pathname.startsWith('/console/') && !location.pathname.endsWith('/login')",
        )
        .await;
    browser.click("header button").await;
    browser.until("logged out", AT_LOGIN).await;
    browser.goto(link).await;
    browser.says("This link was used or has ended.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_takes_a_click_if_another_site_leads_to_it() {
    let bridge = Bridge::start(&[]).await;
    let made = bridge.post("/v1/console/login-links", &json!({})).await.json();
    let link = made["url"].as_str().unwrap();
    for (site, at_once) in [("none", true), ("cross-site", false)] {
        let headers = [("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
        let page = ask(&bridge, "GET", link, &headers).await.text();
        assert!(page.contains("Open the console"), "{page}");
        assert_eq!(page.contains("data-send"), at_once, "{site}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_uses_the_console_uses_the_key() {
    let bridge = Bridge::start(&[]).await;
    let made = key(&bridge, "desk").await;
    let address = format!("/v1/api-keys/{}", made["id"].as_str().unwrap());
    assert!(bridge.get(&address).await.json()["last_used_at"].is_null());
    let console = Console::log_in(&bridge, made["key"].as_str().unwrap()).await;
    console.page("/console/board").await;
    eventually("the key was used", || async {
        bridge.get(&address).await.json()["last_used_at"].is_string().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_ends_its_browsers_and_what_they_follow() {
    let bridge = Bridge::start(&[]).await;
    let Some(browser) = Browser::start(&bridge.url).await else { return };
    let made = key(&bridge, "wall").await;
    browser.log_in(made["key"].as_str().unwrap()).await;
    browser.goto("/console/board").await;
    browser.says("Live").await;
    let revoke = format!("/v1/api-keys/{}/revoke", made["id"].as_str().unwrap());
    assert_eq!(bridge.post(&revoke, &json!({})).await.status, 200);
    let answer = ask(&bridge, "GET", "/console/board", &[("cookie", &browser.cookies().await)]).await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (303, &"/console/login?next=%2Fconsole%2Fboard".parse().unwrap())
    );
    // Nobody touches the browser.
    browser.until("it asks for a key", AT_LOGIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_moves_by_itself_unless_it_is_hidden_or_told_not_to() {
    let world = World::watching(&["ann"]).await;
    let Some(browser) = Browser::start(&world.bridge.url).await else { return };
    browser.log_in(API_KEY).await;
    browser.goto("/console/board").await;
    browser.says("Live").await;
    world.genesys.set_presence("ann", "BUSY").await;
    board_says(&browser, "Busy").await;
    browser.click("[data-live-toggle]").await;
    browser.says("Paused").await;
    world.genesys.set_presence("ann", "MEAL").await;
    // What would have moved the page has come to another one that is open.
    let other = Browser::start(&world.bridge.url).await.unwrap();
    other.log_in(API_KEY).await;
    other.goto("/console/board").await;
    board_says(&other, "Meal").await;
    assert!(!board(&browser).await.contains("Meal"));
    browser.click("[data-live-toggle]").await;
    board_says(&browser, "Meal").await;

    other.hide().await;
    world.genesys.set_presence("ann", "AWAY").await;
    board_says(&browser, "Away").await;
    assert!(!board(&other).await.contains("Away"));
    other.show().await;
    board_says(&other, "Away").await;
    for browser in [&browser, &other] {
        let faults = browser.faults().await;
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_is_not_lost_while_the_page_moves() {
    let world = World::watching(&["ann"]).await;
    let Some(browser) = Browser::start(&world.bridge.url).await else { return };
    browser.log_in(API_KEY).await;
    browser.goto("/console/board").await;
    browser.says("Live").await;
    world.genesys.set_presence("ann", "AVAILABLE").await;
    board_says(&browser, "Available").await;
    browser.execute("window.link = document.querySelector('tbody a'); window.link.focus()").await;
    world.genesys.set_presence("ann", "BUSY").await;
    board_says(&browser, "Busy").await;
    let stays = "window.link.isConnected && document.activeElement === window.link";
    browser.until("what has the focus is still there", stays).await;

    // A second stream of the same page says that the change has come.
    browser
        .execute(
            "window.told = ''; const also = new EventSource(location.href);
             also.addEventListener('section', (event) => { window.told += event.data; })",
        )
        .await;
    browser.until("it tells too", "window.told.includes('BUSY')").await;
    browser.hold("main h1").await;
    world.genesys.set_presence("ann", "MEAL").await;
    browser.until("the change has come", "window.told.includes('MEAL')").await;
    assert!(!board(&browser).await.contains("Meal"), "nothing moves under the pointer");
    browser.release().await;
    board_says(&browser, "Meal").await;

    browser.hold("tbody a").await;
    world.genesys.set_presence("ann", "AWAY").await;
    browser.until("the change has come", "window.told.includes('AWAY')").await;
    browser.release().await;
    browser.until("the link is followed", "location.pathname === '/console/agents/ann'").await;
}

/// Another site's page sends a form to the console: the browser leaves its cookie out and says where the form
/// comes from.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_is_refused() {
    let bridge = Bridge::start(&[]).await;
    let page = |action: &str| {
        format!(
            r#"<!doctype html><title>elsewhere</title><form method="post" action="{}{action}">
               <input name="key" value="{API_KEY}"><button>Win</button></form>"#,
            bridge.url
        )
    };
    let Some(browser) = Browser::start(&bridge.url).await else { return };
    browser.log_in(API_KEY).await;
    let cookies = browser.cookies().await;
    for action in ["/console/logout", "/console/login"] {
        let elsewhere = serve(page(action)).await.replace("127.0.0.1", "localhost");
        browser.goto(&elsewhere).await;
        browser.click("button").await;
        browser.says("Send this form from a page of this console.").await;
    }
    browser.goto("/console/board").await;
    assert_eq!(browser.path().await, "/console/board", "it is still logged in");

    let form = ("content-type", "application/x-www-form-urlencoded");
    for from in [
        ("origin", "https://elsewhere.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "none"),
        ("accept", "*/*"),
    ] {
        let headers = [("cookie", cookies.as_str()), form, from];
        let answer = ask(&bridge, "POST", "/console/logout", &headers).await;
        assert_eq!(answer.status, 403, "{from:?}");
    }
    let own = [("cookie", cookies.as_str()), form, ("origin", bridge.url.as_str())];
    assert_eq!(ask(&bridge, "POST", "/console/logout", &own).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_javascript_one_gets_in_and_out_and_reads_pages() {
    let world = World::watching(&["ann"]).await;
    world.genesys.set_presence("ann", "BUSY").await;
    world.audit_of("EVENT_RECEIVED", 1).await;
    let Some(browser) = Browser::start(&world.bridge.url).await else { return };
    browser.without_javascript().await;
    browser.log_in(API_KEY).await;
    browser.goto("/console/board").await;
    board_says(&browser, "Busy").await;
    assert_eq!(browser.count("[data-live-toggle]").await, 0, "nothing runs in it");
    browser.click("header button").await;
    browser.until("logged out", AT_LOGIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_can_do_without_a_console() {
    let bridge = Bridge::start(&[("BRIDGE_CONSOLE", "off")]).await;
    for path in ["/console", "/console/", "/console/login", "/console/board", "/console/assets/0/console.js"]
    {
        assert_eq!(ask(&bridge, "GET", path, &[]).await.status, 404, "{path}");
    }
    let made = bridge.post("/v1/console/login-links", &json!({})).await;
    assert_eq!((made.status, &made.json()["code"]), (409, &json!("conflict")), "{}", made.text());
}
