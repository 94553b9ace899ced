//! Holds the import rules of docs/ARCHITECTURE.md: who may import whom, which crate belongs where, how long a
//! file may be, and that no files import each other in a circle. It reads the sources as text, so it looks at
//! code under any `cfg` too. scripts/structure compiles it by itself: it needs nothing but std.
#![allow(clippy::unwrap_used, clippy::string_slice, clippy::indexing_slicing)]

use std::path::Path;

use imports::{Crate, Imports, circles, imports, misplaced};

#[path = "floors/guard.rs"]
mod guard;
#[path = "floors/imports.rs"]
mod imports;

/// A top-level module, and what it may import of ours besides itself. What is not listed has no floor yet.
#[rustfmt::skip]
const ARROWS: &[(&str, &str)] = &[
    ("domain",    ""),
    ("clock",     ""),
    ("random",    ""),
    ("keyfile",   ""),
    ("telemetry", ""),
    ("tls",       ""),
    ("dial",      "domain"),
    ("tunnel",    "config dial"),
    ("embedded_postgres", ""),
    ("examinations", "domain clock"),
    ("config",    "domain telemetry"),
    ("client",    "domain clock tls"),
    ("status",    "domain clock"),
    ("metrics",   "domain"),
    ("genesys",   "domain clock config dial metrics random status telemetry tls tunnel"),
    ("store",     "domain clock config metrics random status telemetry"),
    ("outbound",  "domain clock config dial metrics random status telemetry tls tunnel"),
    ("actors",    "domain clock config examinations metrics random status telemetry genesys store outbound"),
    ("services",  "domain clock examinations random status store"),
    ("api",       "domain clock config examinations metrics random status telemetry tls store services"),
    ("console",   "domain clock examinations store services api"),
    ("app",       "domain clock config examinations metrics random status telemetry keyfile genesys store outbound actors services api console lifecycle embedded_postgres"),
    ("lifecycle", "domain clock config metrics random status telemetry genesys store outbound actors api app embedded_postgres"),
    ("cli",       "domain clock config client random keyfile genesys store app lifecycle"),
    ("fuzzing",   "domain config genesys api"),
    ("main",      "config telemetry cli"),
    ("lib",       ""),
];

/// The second segment of a path, and the other second segments of the same folder that it may import. A
/// folder's own mod.rs is `mod`. A folder that is in no entry is free; simulator/src and bench/src count as
/// the folders `simulator` and `bench`.
#[rustfmt::skip]
const SECOND: &[(&str, &str)] = &[
    ("store/sources",         "audit delivery ingest locks mod session"),
    ("store/recovery",        "audit delivery mod session webhooks"),
    ("store/erasure",         "audit delivery locks mod session transaction"),
    ("store/ingest",          "audit delivery locks mod primary session types"),
    ("store/delivery",        "audit event_rows locks mod session types webhooks"),
    ("store/views",           "audit event_rows mod pool session"),
    ("store/webhooks",        "audit locks mod session transaction"),
    ("store/access",          "audit mod transaction"),
    ("store/audit",           "locks mod pool primary session"),
    ("store/mod",             "audit delivery error ingest locks pool preflight primary server wake"),
    ("store/rotation",        "audit mod"),
    ("store/server",          "mod pool preflight primary"),
    ("store/preflight",       "mod"),
    ("store/transaction",     "mod"),
    ("store/event_rows",      "mod types"),
    ("store/standby",         "mod pool primary"),
    ("store/session",         "mod"),
    ("store/wake",            "transaction"),
    ("store/locks",           "mod"),
    ("store/pool",            "mod primary"),
    ("store/primary",         ""),
    ("store/types",           ""),
    ("store/error",           ""),
    ("actors/supervisor",     "connection recorder roster token"),
    ("actors/roster",         "token"),
    ("actors/connection",     "recorder token"),
    ("actors/dispatch",       "mod receiver_log"),
    ("actors/recorder",       ""),
    ("actors/token",          ""),
    ("actors/audit_push",     ""),
    ("actors/receiver_log",   ""),
    ("actors/audit_sealer",   ""),
    ("actors/erasures",       ""),
    ("actors/examiner",       ""),
    ("actors/incarnations",   "supervisor"),
    ("actors/maintenance",    ""),
    ("actors/throughput",     ""),
    ("actors/mod",            ""),
    ("metrics/mod",           "by_label exposition"),
    ("metrics/by_label",      ""),
    ("metrics/exposition",    ""),
    ("api/mod",               "health http resources"),
    ("api/resources",         "http mod"),
    ("api/health",            "http mod"),
    ("api/http",              "mod"),
    ("client/feed",           "api transport"),
    ("client/pages",          "api"),
    ("client/receiver",       "transport"),
    ("client/api",            "transport"),
    ("client/profiles",       ""),
    ("client/transport",      ""),
    ("client/mod",            ""),
    ("outbound/verify",       "body post transport"),
    ("outbound/post",         "body redact transport"),
    ("outbound/syslog",       "transport"),
    ("outbound/transport",    "redact"),
    ("outbound/body",         ""),
    ("outbound/redact",       ""),
    ("outbound/testing",      "body post transport"),
    ("outbound/mod",          ""),
    ("domain/explain",        "ids plural presence webhook"),
    ("domain/webhook",        "audit closed_set delivery ids presence secret violation"),
    ("domain/delivery",       "closed_set ids secret sliding_window"),
    ("domain/presence",       "audit closed_set ids secret violation"),
    ("domain/audit",          "closed_set ids"),
    ("domain/access",         "closed_set ids violation"),
    ("domain/mod",            ""),
    ("domain/plural",         ""),
    ("domain/external_ids",   "ids violation"),
    ("domain/erasure",        "closed_set ids"),
    ("domain/secret",         ""),
    ("domain/violation",      ""),
    ("domain/ids",            ""),
    ("domain/closed_set",     ""),
    ("domain/retry_backoff",  ""),
    ("domain/sliding_window", ""),
    ("domain/state_log",      "sliding_window"),
    ("genesys/client",        "dialer limiter notifications protocol realtime rest"),
    ("genesys/session",       "latency protocol reconnect socket"),
    ("genesys/notifications", "limiter protocol rest socket values"),
    ("genesys/realtime",      "protocol rest socket values"),
    ("genesys/definitions",   "protocol"),
    ("genesys/rest",          "dialer protocol socket"),
    ("genesys/dialer",        ""),
    ("genesys/protocol",      "socket"),
    ("genesys/socket",        ""),
    ("genesys/reconnect",     ""),
    ("genesys/limiter",       ""),
    ("genesys/latency",       ""),
    ("genesys/plan",          ""),
    ("genesys/examination",   "client plan protocol socket"),
    ("genesys/values",        ""),
    ("genesys/mod",           ""),
    ("simulator/main",         "program"),
    ("simulator/program",      "clock cloud crm genesys http shift"),
    ("simulator/cloud",        "clock listen"),
    ("simulator/genesys",      "clock listen"),
    ("simulator/crm",          "chance clock"),
    ("simulator/relay",        ""),
    ("simulator/shift",        "chance"),
    ("simulator/http",         ""),
    ("simulator/listen",       ""),
    ("simulator/chance",       ""),
    ("simulator/clock",        ""),
    ("bench/main",             "scenarios harness"),
    ("bench/scenarios",        "harness measuring"),
    ("bench/harness",          "measuring"),
    ("bench/measuring",        ""),
];

/// The crates in which files may not import each other in a circle.
const CRATES_OF_OURS: &[Crate] = &[
    Crate { folder: "src", prefix: "", name: "presence_bridge" },
    Crate { folder: "simulator/src", prefix: "simulator/", name: "genesys_simulator" },
    Crate { folder: "bench/src", prefix: "bench/", name: "presence_bridge_bench" },
];

/// A crate, and the only top-level modules whose code may name it.
#[rustfmt::skip]
const CRATES: &[(&str, &str)] = &[
    ("sqlx", "store embedded_postgres"),
    ("awc", "genesys"), ("actix_http", "genesys api"), ("actix_codec", "genesys"),
    ("backoff", "genesys"),
    ("ureq", "client"),
    ("clap_complete", "cli"), ("clap_mangen", "cli"), ("comfy_table", "cli"), ("console_terminal", "cli"), ("indicatif", "cli"),
    ("hyper", "outbound"), ("hyper_util", "outbound"),
    ("h2", "outbound"),
    ("actix", "actors app lifecycle main"), ("actix_rt", "actors app lifecycle main"),
    ("actix_web", "api app console"), ("maud", "console"), ("plotters", "console"), ("actix_server", "api"), ("actix_service", "api genesys"),
    ("anyhow", "app cli lifecycle main"),
    ("rand", "random"), ("getrandom", "random"),
    ("genesys_simulator", ""),
];

/// A word, and the only top-level modules whose code may hold it.
const WORDS: &[(&str, &str)] = &[("now_utc", "clock"), ("SystemTime", "clock")];

/// What rules without I/O have no use for. Types such as `std::net::IpAddr` are fine.
const NOT_IN_DOMAIN: &str = "tokio async await File TcpStream TcpListener UdpSocket ToSocketAddrs Instant";
const STD_NOT_IN_DOMAIN: &str = "fs io process thread";

/// Lines of code; comments, blank lines and the tests module do not count.
const LINES_MAX: usize = 350;
/// Files that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Whether the space-separated `list` holds `word`.
fn holds(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|w| w == word)
}

/// The code without line comments.
fn code_of(text: &str) -> String {
    let without_comment = |line: &str| match line.find("//") {
        Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(), // "http://" is no comment
        _ => line.to_owned(),
    };
    text.lines().map(|line| without_comment(line) + "\n").collect()
}

/// What comes before the tests module, which follows other rules; nothing in a file of nothing but tests.
fn product_of<'a>(path: &str, text: &'a str) -> &'a str {
    if path.ends_with("tests.rs") {
        return "";
    }
    // `mod testing;` is a file, which may stand among the others.
    let is_module = |(at, mark): &(usize, &str)| {
        text[at + mark.len()..]
            .lines()
            .next()
            .is_some_and(|line| line.ends_with('{') || line.contains("tests"))
    };
    let end = text.match_indices("#[cfg(test)]\nmod ").find(is_module);
    end.map_or(text, |(at, _)| &text[..at])
}

/// Every word of the code with what stands before and after it.
fn words(code: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + code[from..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |len| start + len);
        from = end;
        Some((&code[..start], &code[start..end], &code[end..]))
    })
}

/// First segments of the paths that follow, `after` being what stands behind `root`: one, or those of a
/// group.
fn segments(after: &str) -> Vec<&str> {
    let Some(path) = after.strip_prefix("::") else {
        return Vec::new();
    };
    let Some(group) = path.strip_prefix('{') else {
        return words(path).next().map(|(_, word, _)| word).into_iter().collect();
    };
    let mut depth = 0_i32;
    let mut wanted = true;
    let mut found = Vec::new();
    for (before, word, rest) in words(group) {
        let between =
            &before[before.rfind(|c: char| c.is_alphanumeric() || c == '_').map_or(0, |at| at + 1)..];
        for c in between.chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            wanted |= c == ',' && depth == 0;
        }
        if depth < 0 {
            break;
        }
        if depth == 0 && wanted {
            found.push(word);
            wanted = false;
        }
        if rest.trim_start().starts_with("};") && depth == 0 {
            break;
        }
    }
    found
}

/// Every broken rule of one file under `src`; `path` is relative to `src`.
fn broken_rules(path: &str, text: &str) -> Vec<String> {
    let module = path.split(['/', '.']).next().unwrap_or_default();
    let mut broken = Vec::new();
    let Some((_, may_import)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: `{module}` has no floor; give it one in tests/floors.rs")];
    };
    // How many `super` lead from this file to the crate's root.
    let depth = path.split('/').filter(|part| *part != "mod.rs").count();
    let whole = code_of(text);
    for (before, word, after) in words(&whole) {
        let supers = before.trim_end_matches("super::").len();
        let at_root = match word {
            "crate" | "presence_bridge" => true,
            "super" => (before.len() - supers) / "super::".len() + 1 == depth,
            _ => false,
        };
        let targets = if at_root { segments(after) } else { Vec::new() };
        for target in targets {
            let ours = ARROWS.iter().any(|(name, _)| *name == target);
            if ours && target != module && module != "lib" && !holds(may_import, target) {
                broken.push(format!("{path}: `{module}` may not import `{target}`"));
            }
        }
    }
    let product = code_of(product_of(path, text));
    for (before, word, after) in words(&product) {
        let starts_path = !before.ends_with("::") || before.ends_with([' ', '(', '<', '&']);
        let is_crate = starts_path && (after.starts_with("::") || before.ends_with("use "));
        for (name, homes) in CRATES.iter().filter(|(name, _)| *name == word && is_crate) {
            if !holds(homes, module) {
                broken.push(format!("{path}: `{name}` belongs to: {homes}"));
            }
        }
        for (name, homes) in WORDS.iter().filter(|(name, _)| *name == word) {
            if !holds(homes, module) {
                broken.push(format!("{path}: `{name}` belongs to: {homes}"));
            }
        }
        let of_std = if word == "std" { segments(after) } else { Vec::new() };
        if of_std.contains(&"env") && module != "config" {
            broken.push(format!("{path}: only `config` reads the environment"));
        }
        let impure = holds(NOT_IN_DOMAIN, word) || of_std.iter().any(|s| holds(STD_NOT_IN_DOMAIN, s));
        if module == "domain" && impure {
            broken.push(format!("{path}: `{word}` in the domain, which does no I/O and does not wait"));
        }
    }
    broken
}

/// A file that has grown too long, if it has.
fn too_long(path: &str, text: &str) -> Option<String> {
    // A file of nothing but tests is read test by test.
    let code = code_of(product_of(path, text));
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    let allowed = LONGER.iter().any(|(name, _)| *name == path);
    (lines > LINES_MAX && !allowed).then(|| format!("{path}: {lines} lines of code, at most {LINES_MAX}"))
}

/// Every Rust file under `folder` of the repository: path relative to it, and text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {}", root.display());
    found
}

#[test]
fn every_import_goes_to_a_lower_floor() {
    let broken: Vec<_> = sources("src").iter().flat_map(|(path, text)| broken_rules(path, text)).collect();
    assert!(broken.is_empty(), "broken rules:\n{}", broken.join("\n"));
}

/// Every import of a crate's product code.
fn imports_of(of: &Crate) -> Imports {
    let product = |(path, text): (String, String)| {
        let code = product_of(&path, &text).to_owned();
        (path, code)
    };
    imports(of, &sources(of.folder).into_iter().map(product).collect::<Vec<_>>())
}

#[test]
fn every_import_inside_a_folder_goes_to_a_lower_floor() {
    let broken: Vec<_> =
        CRATES_OF_OURS.iter().flat_map(|of| misplaced(of, &imports_of(of), SECOND)).collect();
    assert!(broken.is_empty(), "broken rules:\n{}", broken.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let found: Vec<_> = CRATES_OF_OURS.iter().flat_map(|of| circles(of, &imports_of(of))).collect();
    println!("{}", found.join("\n"));
    assert!(found.is_empty(), "{} circles (printed above, file by file)", found.len());
}

#[test]
fn no_file_grows_past_what_one_reads_in_a_sitting() {
    let long: Vec<_> = ["src", "simulator/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .filter_map(|(path, text)| too_long(&path, &text))
        .collect();
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn simulator_and_bench_never_import_the_bridge() {
    for folder in ["simulator", "bench"] {
        for (path, text) in sources(&format!("{folder}/src")) {
            assert!(!code_of(&text).contains("presence_bridge::"), "{folder}/src/{path} imports the bridge");
        }
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let depends = manifest.lines().any(|line| line.starts_with("presence-bridge"));
        assert!(!depends, "{folder}/Cargo.toml depends on the bridge");
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let code: String =
        ["src", "tests"].iter().flat_map(|folder| sources(folder)).map(|(_, text)| text).collect();
    for page in ["docs/realtime.md", "docs/notifications.md", "docs/threats-and-tests.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let named: Vec<_> =
            text.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() >= 3).collect();
        assert!(named.len() > 30, "only {} tests are named in {page}", named.len());
        for name in named
            .into_iter()
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()))
        {
            // A property has arguments.
            assert!(code.contains(&format!("fn {name}(")), "{page} names {name}, which is no test");
        }
    }
}
