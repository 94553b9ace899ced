//! Callers are untrusted peers: what they send may be wrong, ambiguous, endless or slow. It is refused with a
//! clear answer, before it costs anything, and never read in a way in which a proxy in front might not read
//! it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::bridge::{API_KEY, Bridge};
use crate::support::look::waiting_for_locks;
use crate::support::{database, eventually};

/// Longest that anything may take that is not slow on purpose.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn connect(bridge: &Bridge) -> TcpStream {
    TcpStream::connect(bridge.url.trim_start_matches("http://")).await.unwrap()
}

/// What comes back until the other side closes; `None` if it does not close in time.
async fn read_to_end(stream: &mut TcpStream, within: Duration) -> Option<String> {
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = vec![0; 65_536];
        // A reset is an end too.
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..n]);
        }
    };
    let ended = tokio::time::timeout(within, read).await.is_ok();
    ended.then(|| String::from_utf8_lossy(&answer).into_owned())
}

/// Statuses of all answers on a connection.
fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.").skip(1);
    lines.filter_map(|rest| rest.get(2..5)?.parse().ok()).filter(|status| *status != 100).collect()
}

/// Sends bytes in one piece; gives the statuses of the answers, the connection being closed by the bridge.
async fn exchange(bridge: &Bridge, bytes: &[u8], within: Duration) -> Option<Vec<u16>> {
    let mut stream = connect(bridge).await;
    // The bridge may have closed before it took all.
    let _ = stream.write_all(bytes).await;
    read_to_end(&mut stream, within).await.map(|answer| statuses(&answer))
}

/// A second request that must not be answered: after what is refused the connection is over.
const NEXT: &str = "GET /version HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let bridge = Bridge::start(&[]).await;
    let auth = format!("authorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n");
    let post = |headers: &str, body: &str| {
        format!("POST /v1/tenants HTTP/1.1\r\nhost: x\r\n{auth}{headers}\r\n{body}")
    };
    let get = |line: &str, headers: &str| format!("{line}\r\nhost: x\r\n{headers}\r\n");
    let chunked = |body: &str| post("transfer-encoding: chunked\r\n", body);
    let plain = |headers: &str| get("GET /version HTTP/1.1", headers);
    let many = |line: &str, n: usize| line.repeat(n);
    let cases: Vec<(&str, String)> = vec![
        ("length and chunked", post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n")),
        ("chunked and length", post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n")),
        ("two lengths that differ", post("content-length: 0\r\ncontent-length: 44\r\n", "")),
        ("two lengths that agree", post("content-length: 2\r\ncontent-length: 2\r\n", "{}")),
        ("a list of lengths", post("content-length: 2, 2\r\n", "{}")),
        ("a length with a sign", post("content-length: +2\r\n", "{}")),
        ("a negative length", post("content-length: -2\r\n", "{}")),
        ("a length in hex", post("content-length: 0x2\r\n", "{}")),
        ("a length with a blank in it", post("content-length: 1 2\r\n", "{}")),
        ("a length of nothing", post("content-length:\r\n", "{}")),
        ("a length beyond 64 bits", post("content-length: 18446744073709551618\r\n", "{}")),
        ("a length with an underscore", post("content_length: 2\r\n", "{}")),
        ("a length with a vertical tab", post("content-length: \x0b2\r\n", "{}")),
        ("encoding twice", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n")),
        (
            "encoding identity after chunked",
            post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", "0\r\n\r\n"),
        ),
        ("encoding identity", post("transfer-encoding: identity\r\n", "")),
        ("encoding of unknown kind", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n")),
        ("encoding gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("encoding chunked, chunked", post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        ("encoding chunked, with a comma", post("transfer-encoding: chunked,\r\n", "0\r\n\r\n")),
        ("encoding in quotes", post("transfer-encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        ("encoding with a parameter", post("transfer-encoding: chunked;q=1\r\n", "0\r\n\r\n")),
        ("encoding behind a vertical tab", post("transfer-encoding:\x0bchunked\r\n", "0\r\n\r\n")),
        ("encoding with an underscore", post("transfer_encoding: chunked\r\n", "0\r\n\r\n")),
        ("encoding, blank before the colon", post("transfer-encoding : chunked\r\n", "0\r\n\r\n")),
        ("encoding, tab before the colon", post("transfer-encoding\t: chunked\r\n", "0\r\n\r\n")),
        ("encoding folded", post("transfer-encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        (
            "encoding of HTTP/1.0",
            get("POST /v1/tenants HTTP/1.0", "transfer-encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        ("a folded header", plain("x-a: b\r\n c\r\n")),
        ("a folded header, tab", plain("x-a: b\r\n\tc\r\n")),
        ("a folded first header", "GET /version HTTP/1.1\r\n host: x\r\n\r\n".to_owned()),
        ("bare LF after the request line", "GET /version HTTP/1.1\nhost: x\r\n\r\n".to_owned()),
        ("bare LF after a header", "GET /version HTTP/1.1\r\nhost: x\n\r\n".to_owned()),
        ("bare LF ends the head", "GET /version HTTP/1.1\r\nhost: x\r\n\n".to_owned()),
        ("bare LF everywhere", "GET /version HTTP/1.1\nhost: x\n\n".to_owned()),
        ("bare CR in a header", plain("x-a: b\rx-c: d\r\n")),
        ("bare CR ends a line", "GET /version HTTP/1.1\rhost: x\r\n\r\n".to_owned()),
        ("NUL in a header", plain("x-a: b\0c\r\n")),
        ("NUL in a name", plain("x\0a: b\r\n")),
        ("a control character in a header", plain("x-a: b\x01c\r\n")),
        ("NUL in the path", get("GET /ver\0sion HTTP/1.1", "")),
        ("blank before a colon", plain("x-a : b\r\n")),
        ("a header without a colon", plain("x-a\r\n")),
        ("a header without a name", plain(": b\r\n")),
        ("no host", "GET /version HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", plain("host: y\r\n")),
        ("a whole URL as target", get("GET http://x/version HTTP/1.1", "")),
        ("a whole URL of another host", get("GET http://evil.example/version HTTP/1.1", "")),
        ("an authority as target", get("CONNECT x:443 HTTP/1.1", "")),
        ("CONNECT with a path", get("CONNECT /version HTTP/1.1", "")),
        ("an asterisk as target", get("OPTIONS * HTTP/1.1", "")),
        ("no target", get("GET HTTP/1.1", "")),
        ("two blanks in the request line", get("GET  /version HTTP/1.1", "")),
        ("a blank in the path", get("GET /ver sion HTTP/1.1", "")),
        ("no version", "GET /version\r\n\r\n".to_owned()),
        ("version 0.9", get("GET /version HTTP/0.9", "")),
        ("version 2.0", get("GET /version HTTP/2.0", "")),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\n".to_owned()),
        ("a method that is none", get("G(T /version HTTP/1.1", "")),
        ("a websocket", plain("connection: upgrade\r\nupgrade: websocket\r\n")),
        (
            "a websocket next to a length",
            post("connection: upgrade\r\nupgrade: WebSocket\r\ncontent-length: 2\r\n", "{}"),
        ),
        ("a chunk size of nothing", chunked("\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size in 0x", chunked("0x2\r\n{}\r\n0\r\n\r\n")),
        ("a negative chunk size", chunked("-2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size beyond 64 bits", chunked("10000000000000002\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size of 17 digits", chunked("00000000000000002g\r\n{}\r\n0\r\n\r\n")),
        ("a chunk longer than it says", chunked("1\r\n{}\r\n0\r\n\r\n")),
        ("bare LF after a chunk size", chunked("2\n{}\r\n0\r\n\r\n")),
        ("bare LF after a chunk", chunked("2\r\n{}\n0\r\n\r\n")),
        ("bare LF in an extension", chunked("2;a\n{}\r\n0\r\n\r\n")),
        ("NUL in an extension", chunked("2;a\0\r\n{}\r\n0\r\n\r\n")),
        ("a huge extension", chunked(&format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(100_000)))),
        ("huge trailers", chunked(&format!("2\r\n{{}}\r\n0\r\n{}\r\n", many("x-a: b\r\n", 20_000)))),
        ("bare LF in trailers", chunked("2\r\n{}\r\n0\r\nx-a: b\n\r\n")),
        ("a huge path", get(&format!("GET /{} HTTP/1.1", "x".repeat(100_000)), "")),
        ("a huge header", plain(&format!("x-a: {}\r\n", "x".repeat(100_000)))),
        ("very many headers", plain(&many("x-a: b\r\n", 10_000))),
        ("97 headers", plain(&many("x-a: b\r\n", 97))),
        ("empty lines without end", many("\r\n", 100_000)),
    ];
    for (what, bytes) in &cases {
        let answered = exchange(&bridge, format!("{bytes}{NEXT}").as_bytes(), AT_ONCE).await;
        let answered = answered.unwrap_or_else(|| panic!("{what}: the connection stays open"));
        let refused = [vec![400], vec![431]].contains(&answered);
        // Within the body the handler says 400 first, and the connection ends.
        let in_body = answered.starts_with(&[400]) && answered.iter().all(|status| *status == 400);
        assert!(refused || in_body, "{what}: {answered:?}");
    }
    let made = bridge.get("/v1/tenants").await.json();
    assert_eq!(made["items"].as_array().unwrap().len(), 1, "none of them was carried out");
    println!("{} ambiguous or endless requests, each answered 400 or 431 and closed", cases.len());

    // What is fine goes on, several on one connection, however it is cut.
    let fine = format!(
        "{NEXT}\r\n{}{}{}{}",
        post("content-length: 13\r\n", "{\"name\":\"aa\"}"),
        chunked("6\r\n{\"name\r\n7;x=y\r\n\":\"bb\"}\r\n0\r\nx-a: b\r\n\r\n"),
        plain("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"),
        plain("connection: close\r\n"),
    );
    assert_eq!(exchange(&bridge, fine.as_bytes(), AT_ONCE).await, Some(vec![200, 201, 201, 200, 200]));
    let mut stream = connect(&bridge).await;
    stream.set_nodelay(true).unwrap();
    for byte in fine.replace("aa", "cc").replace("bb", "dd").as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let answer = read_to_end(&mut stream, AT_ONCE).await.unwrap();
    assert_eq!(statuses(&answer), [200, 201, 201, 200, 200], "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_told_so_by_the_right_status() {
    let bridge = Bridge::start(&[]).await;
    let bearer = format!("Bearer {API_KEY}");
    let key = ("authorization", bearer.as_str());
    let json_type = ("content-type", "application/json");
    let deep = format!("{{\"name\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let bottomless = "[".repeat(200_000);
    let big = format!("{{\"name\":\"{}\"}}", "x".repeat(300_000));
    let long_query = format!("/v1/webhooks?cursor={}", "A".repeat(8_000));
    type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a [u8], u16);
    let cases: Vec<Case> = vec![
        ("GET", "/nothing", vec![], b"", 404),
        ("GET", "/v1/nothing", vec![key], b"", 404),
        ("GET", "/v1/nothing", vec![], b"", 401),
        ("GET", "/v1", vec![key], b"", 404),
        ("GET", "//v1/webhooks", vec![key], b"", 404),
        ("GET", "/v1//webhooks", vec![key], b"", 404),
        ("GET", "/V1/webhooks", vec![key], b"", 404),
        ("GET", "/v1/../v1/webhooks", vec![key], b"", 404),
        ("GET", "/v1/%2e%2e/version", vec![key], b"", 404),
        ("GET", "/docs/../version", vec![], b"", 404),
        ("GET", "/docs/%2e%2e%2fversion", vec![], b"", 404),
        ("GET", "/docs/%00", vec![], b"", 404),
        ("GET", "/v1/webhooks/%00", vec![key], b"", 404),
        ("GET", "/v1/webhooks%00", vec![key], b"", 404),
        ("GET", "/v1/agents/a%00b", vec![key], b"", 404),
        ("GET", "/v1/agents/%0d%0aset-cookie:x", vec![key], b"", 404),
        ("GET", "/v1/agents/%ff", vec![key], b"", 404),
        ("GET", "/v1/api-keys/%00", vec![key], b"", 404),
        ("GET", "/v1/webhooks?limit=%00", vec![key], b"", 400),
        ("GET", "/v1/events?since=9999-12-31T23:59:59-12:00", vec![key], b"", 400),
        ("GET", "/v1/webhooks?limit=1&limit=2", vec![key], b"", 400),
        ("GET", "/v1/webhooks?colour=red", vec![key], b"", 400),
        ("GET", &long_query, vec![key], b"", 400),
        ("DELETE", "/v1/webhooks", vec![key], b"", 405),
        ("TRACE", "/v1/webhooks", vec![key], b"", 405),
        ("OPTIONS", "/v1/webhooks", vec![key], b"", 405),
        ("BREW", "/version", vec![], b"", 405),
        ("POST", "/v1/tenants", vec![key], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, ("content-type", "text/plain")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, ("content-type", "application/xml")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, ("content-type", "application/jsonp")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type, ("content-encoding", "gzip")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type, ("content-encoding", "br")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type, ("content-encoding", "zstd")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type, ("content-encoding", "identity")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type, ("content-encoding", "")], b"{}", 415),
        ("POST", "/v1/tenants", vec![key, json_type], b"", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"[]", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"null", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"a\"} x", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"a\",\"name\":\"b\"}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"a\",\"n\\u0061me\":\"b\"}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"\xef\xbb\xbf{\"name\":\"a\"}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"\xff\xfe{\x00}\x00", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"\xff\"}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"\\ud800\"}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":1e999}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":NaN}", 400),
        ("POST", "/v1/tenants", vec![key, json_type], deep.as_bytes(), 400),
        ("POST", "/v1/tenants", vec![key, json_type], bottomless.as_bytes(), 400),
        ("POST", "/v1/tenants", vec![key, json_type], big.as_bytes(), 413),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"a\\u0000b\"}", 422),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"na\\u0000me\":\"a\"}", 422),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":\"a\\r\\nb\"}", 422),
        ("POST", "/v1/tenants", vec![key, json_type], b"{\"name\":{}}", 422),
        ("POST", "/v1/tenants", vec![key, json_type, ("idempotency-key", "a b")], b"{}", 400),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json_type],
            b"{\"url\":\"https://a.example/\",\"headers\":{\"x-a\":\"b\\r\\nc: d\"}}",
            422,
        ),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json_type],
            b"{\"url\":\"https://a.example/\",\"headers\":{\"x\\n\":\"b\"}}",
            422,
        ),
        (
            "POST",
            "/v1/webhooks",
            vec![key, json_type],
            b"{\"url\":\"https://a.example/\",\"headers\":{\"Host\":\"b\"}}",
            422,
        ),
    ];
    for (method, path, headers, body, status) in &cases {
        let answer = bridge.send_raw(method, path, headers, Some(body.to_vec())).await;
        let shown = String::from_utf8_lossy(body).chars().take(60).collect::<String>();
        assert_eq!(answer.status, *status, "{method} {path} {headers:?} {shown}: {}", answer.text());
        let problem = answer.json();
        assert!(problem["code"].is_string() && problem["request_id"].is_string(), "{problem}");
        assert_eq!(answer.headers.contains_key("allow"), *status == 405, "{method} {path}");
        for name in ["x-content-type-options", "referrer-policy", "content-security-policy", "cache-control"]
        {
            assert!(answer.headers.contains_key(name), "{method} {path} lacks {name}");
        }
    }
    println!("{} wrong requests, each answered by its own status", cases.len());
    // Whatever is asked for, JSON comes: better than 406 to somebody who could read it.
    let answer = bridge.send_raw("GET", "/version", &[("accept", "text/html;q=0.1")], None).await;
    assert_eq!((answer.status, &answer.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let page = bridge.send_raw("GET", "/docs/", &[], None).await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for rule in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
}

/// Sends a beginning, then a byte now and then until the bridge ends it; gives the answer, and when its last
/// byte and the end came.
async fn dribble(bridge: &Bridge, beginning: String) -> (String, Duration, Duration) {
    let began = Instant::now();
    let mut stream = connect(bridge).await;
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let by = Duration::from_secs(45);
    let mut answered = Duration::ZERO;
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(by, reader.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..n]);
        answered = began.elapsed();
    }
    writing.abort();
    (String::from_utf8_lossy(&answer).into_owned(), answered, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_not_waited_for() {
    let bridge = Bridge::start(&[]).await;
    let auth = format!("host: x\r\nauthorization: Bearer {API_KEY}\r\ncontent-type: application/json\r\n");
    let post = format!("POST /v1/tenants HTTP/1.1\r\n{auth}");
    let outsider = "POST /v1/tenants HTTP/1.1\r\nhost: x\r\n";
    let seconds = |n| Duration::from_secs(n);
    // What is slow, its answer, when that comes, and when the connection ends at last.
    let cases = [
        ("a head", "GET /version HTTP/1.1\r\nx-a: ".to_owned(), 408, 4..8, 8),
        ("a second head", format!("{NEXT}GET /version HTTP/1.1\r\nx-a: "), 200, 0..3, 14),
        ("a body", format!("{post}content-length: 9000\r\n\r\n{{"), 408, 9..14, 14),
        // Chunks are read off for a while, so that the answer arrives, but not for ever.
        ("a chunk", format!("{post}transfer-encoding: chunked\r\n\r\n2000\r\n"), 408, 9..14, 25),
        ("a body without a key", format!("{outsider}content-length: 9000\r\n\r\n{{"), 401, 0..3, 3),
        (
            "chunks without a key",
            format!("{outsider}transfer-encoding: chunked\r\n\r\n2000\r\n"),
            401,
            0..3,
            25,
        ),
    ];
    let slow = cases.into_iter().map(|(what, beginning, status, when, most)| {
        let bridge = &bridge;
        async move {
            let (answer, answered, ended) = dribble(bridge, beginning).await;
            assert_eq!(statuses(&answer), [status], "{what}: {answer}");
            assert!((seconds(when.start)..seconds(when.end)).contains(&answered), "{what}: {answered:?}");
            assert!(ended < seconds(most), "{what} was ended after {ended:?}");
            println!("{what}: {status} after {answered:.1?}, ended after {ended:.1?}");
        }
    });
    futures_util::future::join_all(slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_without_a_key_cost_nothing() {
    let bridge = Bridge::start(&[]).await;
    // Warm: the first calls of each kind take what stays.
    for path in ["/v1/webhooks", "/docs/swagger-ui-bundle.js", "/openapi.yaml"] {
        bridge.send_raw("GET", path, &[], None).await;
    }
    let before = bridge.memory_kib();
    let head = "POST /v1/webhooks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let nested = "[".repeat(4 << 20);
    let chunks = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20)).repeat(8);
    let bombs = [
        ("nesting of 4 MiB", format!("{head}content-length: {}\r\n\r\n{nested}", nested.len())),
        ("1 TiB announced", format!("{head}content-length: {}\r\n\r\n{}", 1_u64 << 40, "x".repeat(4 << 20))),
        ("endless chunks", format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}{chunks}")),
        (
            "brotli",
            format!("{head}content-encoding: br\r\ncontent-length: 1619\r\n\r\n{}", "\u{1}".repeat(1619)),
        ),
        ("a head of 8 MiB", format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(8 << 20))),
    ];
    let mut most = before;
    for (what, bomb) in &bombs {
        for _ in 0..5 {
            let calls = (0..20).map(|_| exchange(&bridge, bomb.as_bytes(), Duration::from_secs(20)));
            for answered in futures_util::future::join_all(calls).await {
                let answered = answered.unwrap_or_else(|| panic!("{what}: the connection stays open"));
                let first = answered.first().copied();
                // An answer may be lost by a reset while more is still being sent.
                assert!(matches!(first, None | Some(400 | 401 | 429)), "{what}: {answered:?}");
            }
            most = most.max(bridge.memory_kib());
        }
    }
    println!("{} bombs: {before} KiB before, {most} KiB at most", bombs.len() * 100);
    assert!(most < before + 32 * 1024, "{before} KiB before, {most} KiB at most");
    assert_eq!(bridge.get("/v1/webhooks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answers_holds_little_memory_and_only_for_a_while() {
    let bridge = Bridge::start(&[]).await;
    bridge.send_raw("GET", "/docs/swagger-ui-bundle.js", &[], None).await;
    let before = bridge.memory_kib();
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(&bridge).await;
        let ask = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n".repeat(3);
        stream.write_all(ask.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    // Others are answered meanwhile.
    assert_eq!(bridge.send_raw("GET", "/docs/swagger-ui-bundle.js", &[], None).await.status, 200);
    let most = bridge.memory_kib();
    println!("200 callers that take nothing: {before} KiB before, {most} KiB at most");
    assert!(most < before + 48 * 1024, "{before} KiB before, {most} KiB at most");
    let began = Instant::now();
    for stream in &mut idle[..3] {
        // Nothing is taken; that the other side has gone shows when something is sent.
        while stream.write_all(b"x").await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(45), "it is still being waited for");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    assert!(bridge.post("/v1/tenants", &json!({"name": "after"})).await.status == 201);
}

/// Connects from an address of one's own on this machine.
async fn connect_from(from: &str, bridge: &Bridge) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(bridge.url.trim_start_matches("http://").parse().unwrap()).await.unwrap()
}

/// More connections than the API has places, none of which says anything; gives those that the bridge has not
/// closed.
async fn half_open(from: &str, bridge: &Bridge) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..1100 {
        held.push(connect_from(from, bridge).await);
    }
    held
}

/// Whether the other side has ended it.
fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_keep_nobody_else_out() {
    const PLACES: usize = 1024;
    let bridge = Bridge::start(&[("BRIDGE_TRUSTED_PROXIES", "127.0.0.3/32")]).await;
    let held = half_open("127.0.0.2", &bridge).await;
    assert_eq!(bridge.send_raw("GET", "/healthz", &[], None).await.status, 200);
    let too_many = held.len() - PLACES / 4;
    eventually("those beyond its places are closed", || async {
        let closed = held.iter().filter(|stream| is_closed(stream)).count();
        (closed >= too_many).then_some(())
    })
    .await;
    // Not by the deadline of a head, which closes a connection without refusing it.
    let refused = bridge.metric("presence_bridge_api_connections_refused_total").await;
    assert!(refused >= too_many as f64, "{refused}");
    // What it gives back it may have again.
    drop(held);
    eventually("it has places again", || async {
        let mut stream = connect_from("127.0.0.2", &bridge).await;
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let answer = read_to_end(&mut stream, AT_ONCE).await?;
        (statuses(&answer) == [200]).then_some(())
    })
    .await;
    // Behind a proxy that is trusted stand many.
    let held: Vec<_> =
        futures_util::future::join_all((0..300).map(|_| connect_from("127.0.0.3", &bridge))).await;
    assert_eq!(bridge.send_raw("GET", "/healthz", &[], None).await.status, 200);
    assert!(held.iter().all(|stream| !is_closed(stream)), "a trusted proxy's connection was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reads_do_not_make_it_look_unready() {
    let bridge = Bridge::start(&[]).await;
    eventually("it is ready", || async {
        (bridge.send_raw("GET", "/readyz", &[], None).await.status == 200).then_some(())
    })
    .await;
    let pool = database::pool(&bridge.database_url).await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table agent in access exclusive mode").execute(&mut *lock).await.unwrap();
    // More than there are connections for calls, each of which waits until its statement has run for too
    // long.
    let reads = futures_util::future::join_all((0..16).map(|_| bridge.get("/v1/agents")));
    let probes = async {
        eventually("every connection is taken", || async {
            (waiting_for_locks(&pool).await >= 8).then_some(())
        })
        .await;
        let mut ready = 0;
        while waiting_for_locks(&pool).await >= 8 {
            let answer = bridge.send_raw("GET", "/readyz", &[], None).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            ready += 1;
        }
        println!("ready {ready} times while every connection for calls was taken");
        assert!(ready > 0);
    };
    let (answers, ()) = tokio::join!(reads, probes);
    assert!(answers.iter().all(|answer| answer.status == 503), "they were slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_hardly_anything_passes_is_answered_page_by_page() {
    const ROWS: i32 = 12_000;
    let url = database::create().await;
    let pool = database::pool(&url).await;
    // Each entry costs half a millisecond to read, as on a slow disk; no test needs millions of them then.
    // The comparison of texts would otherwise be made first, and pass by nearly all.
    for statement in [
        "alter function pg_catalog.texteq(text, text) not leakproof",
        "create function slowly() returns boolean language plpgsql cost 10000 as
             'begin perform pg_sleep(0.0005); return true; end'",
        "create policy slow on audit_log as restrictive to presence_bridge_tenant using (slowly())",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let bridge = Bridge::start_on(&url, &[]).await;
    let made = bridge.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let webhook = made.json()["id"].as_str().unwrap().to_owned();
    sqlx::query(
        "insert into audit_log (at, kind, webhook_id, delivery_id, attempt, end_state)
         select at, 'DELIVERY_ENDED', $1::uuid,
                (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '80008' || lpad(to_hex(n), 15, '0'))::uuid,
                1, case when n in (1, 5000, $2) then 'dead' else 'delivered' end
         from generate_series(1, $2) n
         cross join lateral (select now() - make_interval(secs => n) as at) t",
    )
    .bind(&webhook)
    .bind(ROWS)
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("analyze audit_log").execute(&pool).await.unwrap();
    let mut found = Vec::new();
    let mut pages = 0;
    let mut path = Some("/v1/deliveries?state=dead&limit=1".to_owned());
    while let Some(next) = path {
        let answer = bridge.get(&next).await;
        assert_eq!(answer.status, 200, "page {pages}: {}", answer.text());
        let page = answer.json();
        found.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].to_string()));
        path = page["next_cursor"]
            .as_str()
            .map(|cursor| format!("/v1/deliveries?state=dead&limit=1&cursor={cursor}"));
        pages += 1;
        assert!(pages < 100, "it comes to an end");
    }
    println!("{} of {ROWS} found in {pages} pages", found.len());
    let newest_first: Vec<String> = sqlx::query_scalar(
        "select to_json(delivery_id)::text from audit_log where end_state = 'dead' order by delivery_id desc",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(found, newest_first, "each once, the newest first");
    let all = bridge.get("/v1/deliveries?limit=10").await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 10, "what everything passes is found at once");
}
