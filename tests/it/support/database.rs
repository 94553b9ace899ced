//! One Postgres for the whole test run, one database of its own for each test.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc;
use std::sync::{LazyLock, OnceLock};
use std::thread;

use presence_bridge::embedded_postgres::{Embedded, Options};
use presence_bridge::store::Store;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use super::sweeper::afterwards;

struct Server {
    options: PgConnectOptions,
    url_of: Box<dyn Fn(&str) -> String + Send + Sync>,
}

/// The server lives on a thread of its own: it stops when the thread that started it dies, and a test's
/// thread dies with the test.
static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let (started, wait) = mpsc::channel();
    thread::spawn(move || {
        let dir = tempfile::Builder::new().prefix("pb-test-").tempdir().unwrap();
        // The server's user must be able to pass through.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut sweeper = remove_when_we_are_gone(dir.path());
        let _held = sweeper.stdin.take();
        let server = Embedded::start(dir.path(), options()).unwrap();
        let template = server.url("{}");
        started.send((server.connect_options(), template)).unwrap();
        // It waits for our end, so this is for ever.
        sweeper.wait().unwrap();
    });
    let (options, template) = wait.recv().expect("the test database starts");
    Server { options, url_of: Box::new(move |name| template.replace("{}", name)) }
});

/// How tests run a server: fast, and from the folder of programs that `POSTGRES_BIN` names, if it is set.
pub fn options() -> Options {
    static BIN: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("POSTGRES_BIN").map(PathBuf::from));
    Options { fsync_off: true, bin: BIN.as_deref(), settings: &[] }
}

/// Has a folder removed once this process has ended, however it does: nothing is dropped then, and a whole
/// run leaves gigabytes.
fn remove_when_we_are_gone(dir: &Path) -> Child {
    // The server may still be writing its last.
    let remove = r#"for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" && exit; sleep 0.5; done"#;
    afterwards(remove, &[dir.as_ref()])
}

/// A migrated database that others are copied from.
static TEMPLATE: OnceCell<()> = OnceCell::const_new();

const TEMPLATE_NAME: &str = "bridge_template";

/// Makes an empty, migrated database; gives its URL.
pub async fn create() -> String {
    TEMPLATE
        .get_or_init(|| async {
            execute(&format!("create database {TEMPLATE_NAME}")).await;
            let options = SERVER.options.clone().database(TEMPLATE_NAME);
            let store = Store::connect(options, 1).await.unwrap();
            store.migrate().await.unwrap();
            store.close().await;
        })
        .await;
    let name = format!("test_{}", Uuid::new_v4().simple());
    execute(&format!("create database {name} template {TEMPLATE_NAME}")).await;
    (SERVER.url_of)(&name)
}

/// Makes a copy of a database that nobody is connected to any more, or soon; gives its URL.
pub async fn copy(url: &str) -> String {
    let original = name_of(url);
    let name = format!("copy_{}", Uuid::new_v4().simple());
    execute(&format!("create database {name} template {original}")).await;
    (SERVER.url_of)(&name)
}

/// Makes an empty database without any schema; gives its URL.
pub async fn create_bare() -> String {
    let name = format!("bare_{}", Uuid::new_v4().simple());
    execute(&format!("create database {name}")).await;
    (SERVER.url_of)(&name)
}

/// Name of the database of a URL.
pub fn name_of(url: &str) -> String {
    Url::parse(url).unwrap().path().trim_start_matches('/').to_owned()
}

/// Folder of the server's socket in a URL as this gives it.
pub fn socket_dir(url: &str) -> PathBuf {
    let url = Url::parse(url).unwrap();
    PathBuf::from(&*url.query_pairs().find(|(key, _)| key == "host").unwrap().1)
}

/// A few connections to a test's database, to look and to meddle.
pub async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(url).await.unwrap()
}

async fn execute(statement: &str) {
    // One statement at a time: a template cannot be copied while somebody copies it.
    static ONE: OnceLock<tokio::sync::Mutex<()>> = OnceLock::new();
    let _one = ONE.get_or_init(tokio::sync::Mutex::default).lock().await;
    let pool = PgPoolOptions::new().max_connections(1).connect_with(SERVER.options.clone()).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    pool.close().await;
}
