//! A real browser: Debian's Chromium, driven over WebDriver. One `chromedriver` serves all tests of a process;
//! each test has a browser of its own.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fantoccini::actions::{InputSource as _, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use fantoccini::elements::Element;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::Url;

use super::SOON;
use super::neighbour::install;
use super::sweeper::afterwards;

/// As root it runs without its sandbox; without the others it asks its makers' hosts at every start.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];
/// Folder for screenshots that people look at; none are taken where it is not set.
const SCREENSHOTS: &str = "BROWSER_SCREENSHOTS";

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    Light,
    Dark,
    /// 320 CSS pixels wide, as a phone, or a page enlarged to 400 %.
    Narrow,
}

impl Appearance {
    pub const ALL: [Self; 3] = [Self::Light, Self::Dark, Self::Narrow];

    const fn scheme(self) -> &'static str {
        match self {
            Self::Dark => "dark",
            Self::Light | Self::Narrow => "light",
        }
    }

    const fn size(self) -> (u32, u32) {
        match self {
            Self::Light | Self::Dark => (1280, 900),
            Self::Narrow => (320, 800),
        }
    }
}

/// The one `chromedriver`; it listens until this process has ended.
struct Driver {
    url: String,
    chromium: PathBuf,
    _process: Child,
    /// Ends it, and its browsers, when its input ends with us.
    _sweeper: Child,
}

static DRIVER: LazyLock<Option<Driver>> = LazyLock::new(Driver::start);

impl Driver {
    /// `None`, and a word why, where the programs cannot be had; a failure where everything must be tried.
    fn start() -> Option<Self> {
        let program = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
        };
        let (Some(chromium), Some(driver)) = (program("chromium"), program("chromedriver")) else {
            let word = "chromium and chromedriver are not here (scripts/setup test installs them on Debian)";
            assert!(std::env::var_os("CI").is_none(), "{word}");
            eprintln!("skipped: {word}");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("pb-browser-").tempdir().unwrap().keep();
        let mut process = Command::new(driver)
            .arg("--port=0")
            .env("TMPDIR", &folder) // the profiles of its browsers
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // its browsers are in it too
            .spawn()
            .unwrap();
        let sweeper = end_with_us(process.id(), &folder);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let url = format!("http://127.0.0.1:{}", port.expect("chromedriver listens"));
        // Nobody reads on, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { url, chromium, _process: process, _sweeper: sweeper })
    }
}

/// Has a process group ended and a folder removed once this process has ended, however it does.
fn end_with_us(group: u32, folder: &Path) -> Child {
    let end = r#"kill -s KILL -- "-$1"; for _ in 1 2 3 4 5; do rm -rf "$2" && exit; sleep 0.2; done"#;
    afterwards(end, &[group.to_string().as_ref(), folder.as_ref()])
}

/// A browser that looks at one origin; dropping it ends it.
pub struct Browser {
    client: Client,
    session: Url,
    origin: String,
}

/// A command of chromedriver's own, below the address of a session.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Starts a browser for the pages of `origin`, such as `http://127.0.0.1:41234`; `None`, and a word why,
    /// where it cannot be had.
    pub async fn start(origin: &str) -> Option<Self> {
        let driver = tokio::task::spawn_blocking(|| DRIVER.as_ref()).await.unwrap()?;
        let capabilities = json!({
            "goog:chromeOptions": {"args": FLAGS, "binary": driver.chromium},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"pageLoad": SOON.as_millis(), "script": SOON.as_millis()},
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url)
            .await
            .expect("chromium starts");
        let id = client.session_id().await.unwrap().unwrap();
        let session = Url::parse(&format!("{}/session/{id}", driver.url)).unwrap();
        let browser = Self { client, session, origin: origin.to_owned() };
        browser.appear(Appearance::Light).await;
        Some(browser)
    }

    /// Opens a page of the origin, or of another one, and waits until it is loaded.
    pub async fn goto(&self, path: &str) {
        let url = if path.starts_with('/') { format!("{}{path}", self.origin) } else { path.to_owned() };
        self.client.goto(&url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Logs in to the console with a key, as whoever was logged in before is not any more.
    pub async fn log_in(&self, key: &str) {
        self.goto("/console/login").await;
        self.client.delete_all_cookies().await.unwrap();
        self.fill("#key", key).await;
        self.click("main button").await;
        self.until("logged in", "!location.pathname.endsWith('/login')").await;
    }

    /// The cookies that the browser sends with its requests, those that pages cannot read too.
    pub async fn cookies(&self) -> String {
        let cookies = self.client.get_all_cookies().await.unwrap();
        cookies
            .iter()
            .map(|cookie| format!("{}={}", cookie.name(), cookie.value()))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Address of the page that is shown.
    pub async fn url(&self) -> Url {
        self.client.current_url().await.unwrap()
    }

    /// Path and query of it.
    pub async fn path(&self) -> String {
        let url = self.url().await;
        url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
    }

    /// Text of the page, as people see it.
    pub async fn text(&self) -> String {
        self.execute("return document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// How many elements a CSS selector finds.
    pub async fn count(&self, selector: &str) -> usize {
        self.client.find_all(Locator::Css(selector)).await.unwrap().len()
    }

    /// The one element that a CSS selector finds.
    pub async fn find(&self, selector: &str) -> Element {
        let found = self.client.find_all(Locator::Css(selector)).await.unwrap();
        let [element] = <[Element; 1]>::try_from(found)
            .unwrap_or_else(|found| panic!("{} elements are {selector}", found.len()));
        element
    }

    /// Clicks on the one element that a CSS selector finds.
    pub async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Presses the one button of this name on the page.
    pub async fn press(&self, name: &str) {
        self.activate("button", name).await;
    }

    /// Follows the one link of this name on the page.
    pub async fn follow(&self, name: &str) {
        self.activate("a", name).await;
    }

    async fn activate(&self, tag: &str, name: &str) {
        let path = format!("//main//{tag}[normalize-space()=\"{name}\"]");
        let by = Instant::now() + SOON;
        loop {
            let found = self.client.find_all(Locator::XPath(&path)).await.unwrap();
            let [element] = <[Element; 1]>::try_from(found)
                .unwrap_or_else(|found| panic!("{} elements are {path}", found.len()));
            match element.click().await {
                Ok(()) => return,
                // A live section was drawn again in between.
                Err(error) if error.is_stale_element_reference() && Instant::now() < by => {}
                Err(error) => panic!("{path}: {error}"),
            }
        }
    }

    /// Has the pointer press down on the one element that a CSS selector finds, and stay there.
    pub async fn hold(&self, selector: &str) {
        let at =
            PointerAction::MoveToElement { element: self.find(selector).await, duration: None, x: 0., y: 0. };
        let down = PointerAction::Down { button: MOUSE_BUTTON_LEFT };
        self.client.perform_actions(MouseActions::new("mouse".into()).then(at).then(down)).await.unwrap();
    }

    /// Releases what is held.
    pub async fn release(&self) {
        let up = PointerAction::Up { button: MOUSE_BUTTON_LEFT };
        self.client.perform_actions(MouseActions::new("mouse".into()).then(up)).await.unwrap();
    }

    /// Puts a text into a field in place of what is there.
    pub async fn fill(&self, selector: &str, text: &str) {
        let field = self.find(selector).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Runs the body of a function in the page.
    pub async fn execute(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression of JavaScript is true in the page; a page that is being left is waited out.
    pub async fn until(&self, what: &str, expression: &str) {
        let by = Instant::now() + SOON;
        let script = format!("return Boolean({expression})");
        loop {
            let answer = self.client.execute(&script, Vec::new()).await;
            if matches!(answer, Ok(Value::Bool(true))) {
                return;
            }
            if Instant::now() > by {
                let (path, text) = (self.path().await, self.text().await);
                panic!("not in time: {what}: {answer:?}\n{path}\n{text}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the page says this.
    pub async fn says(&self, text: &str) {
        self.until(text, &format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Sets size and colours.
    pub async fn appear(&self, appearance: Appearance) {
        let (width, height) = appearance.size();
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"name": "prefers-color-scheme", "value": appearance.scheme()});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [scheme]})).await;
    }

    /// Covers the page's tab with another one.
    pub async fn hide(&self) {
        let cover = self.client.new_window(true).await.unwrap();
        let cover = json!({"targetId": String::from(cover.handle)});
        self.devtools("Target.activateTarget", cover).await;
        self.until("the page is hidden", "document.hidden").await;
    }

    /// Brings the page's tab to the front again.
    pub async fn show(&self) {
        self.devtools("Page.bringToFront", json!({})).await;
        self.until("the page is shown", "!document.hidden").await;
    }

    /// Switches JavaScript of pages off.
    pub async fn without_javascript(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    }

    /// A command of Chromium's DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.own("goog/cdp/execute", body).await
    }

    /// What pages wrote to the console or were refused, and requests that went elsewhere, since this was
    /// asked last.
    pub async fn faults(&self) -> Vec<String> {
        // Chromium's advice, such as on fields for password managers, has the level DEBUG.
        let told = self.log("browser").await.into_iter().filter(|entry| entry["level"] != "DEBUG");
        let mut faults: Vec<_> = told.map(|entry| entry.to_string()).collect();
        for entry in self.log("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let event = &event["message"];
            let url = match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => &event["params"]["request"]["url"],
                "Network.webSocketCreated" => &event["params"]["url"],
                _ => continue,
            };
            let url = url.as_str().unwrap_or_default();
            let ours = url.strip_prefix(&self.origin).is_some_and(|rest| rest.starts_with('/'));
            // What is in the page already is no request; a policy against it would complain in the console.
            if !ours && !url.starts_with("data:") {
                faults.push(format!("a request to {url}"));
            }
        }
        faults
    }

    /// Breaches of axe's rules on the page, one line each: all rules but those of level AAA and those that
    /// were given up.
    pub async fn breaches(&self) -> BTreeSet<String> {
        self.breaches_of(&[]).await
    }

    /// Breaches of these rules of axe's; none names all of them.
    pub async fn breaches_of(&self, rules: &[&str]) -> BTreeSet<String> {
        static AXE: LazyLock<String> = LazyLock::new(|| {
            install("install-verifiers");
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/verifiers/node/node_modules");
            std::fs::read_to_string(folder.join("axe-core/axe.min.js")).unwrap()
        });
        const RUN: &str = "const [rules, done] = arguments;
            const wanted = axe.getRules().filter(rule => rules.length ? rules.includes(rule.ruleId)
                : !rule.tags.some(tag => tag === 'deprecated' || tag.endsWith('aaa')));
            axe.run(document, {resultTypes: ['violations'], runOnly: wanted.map(rule => rule.ruleId)}).then(
                found => done(found.violations.flatMap(rule => rule.nodes.map(node =>
                    `${rule.id}: ${node.target} ${node.html.slice(0, 120)}: ${node.failureSummary}`))),
                error => done([String(error)]));";
        if self.execute("return typeof axe").await == "undefined" {
            self.execute(AXE.as_str()).await;
        }
        let found = self.client.execute_async(RUN, vec![json!(rules)]).await.unwrap();
        found.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
    }

    /// How many CSS pixels the page is wider than its window.
    pub async fn overflow(&self) -> i64 {
        let script =
            "const page = document.documentElement; return Math.ceil(page.scrollWidth - page.clientWidth)";
        self.execute(script).await.as_i64().unwrap()
    }

    /// Writes a picture of the whole page into the folder for screenshots, where there is one.
    pub async fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os(SCREENSHOTS).map(PathBuf::from) else { return };
        let whole = json!({"captureBeyondViewport": true});
        let picture = self.devtools("Page.captureScreenshot", whole).await;
        let picture = BASE64.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let Value::Array(entries) = self.own("se/log", json!({"type": kind})).await else { unreachable!() };
        entries
    }

    async fn own(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Own { path, body }).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Browser {
    /// Ends the browser without the runtime, which may be about to end.
    fn drop(&mut self) {
        let address = (self.session.host_str().unwrap(), self.session.port().unwrap());
        let Ok(mut socket) = TcpStream::connect(address) else { return };
        let request = format!(
            "DELETE {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.session.path(),
            address.0
        );
        let _ = socket.set_read_timeout(Some(SOON));
        let _ = socket.write_all(request.as_bytes()).and_then(|()| socket.read(&mut [0; 16]));
    }
}
