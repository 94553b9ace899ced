//! The console as people meet it: in a real browser, in front of a real bridge.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::browser::{Appearance, Browser};

/// A page with one fault of each kind that is looked for on the console's pages.
const BAD_PAGE: &str = r#"<!doctype html><html lang="en"><title>bad</title><main><h1>Bad</h1>
    <form action="/next"><input id="name" name="name"><button>Go</button></form>
    <p style="width: 500px; color: #ddd; background: #fff">a wide and pale text</p></main>
    <script>console.error("of its own"); new Image().src = "http://127.0.0.2:9/elsewhere.png"</script>"#;

/// Answers each request with one page; gives its origin.
async fn serve(page: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
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
    let origin = serve(BAD_PAGE).await;
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
