//! The rules fed with what they must refuse and what they must let pass.

use super::imports::{Imports, circles, imports, misplaced};
use super::{CRATES_OF_OURS, LINES_MAX, broken_rules, too_long};

#[test]
fn the_guard_finds_what_it_guards_against() {
    let offences = [
        ("domain/delivery/retry_schedule.rs", "use crate::store::Store;"),
        ("domain/delivery/retry_schedule.rs", "use std::{fmt, fs};"),
        ("domain/delivery/retry_schedule.rs", "pub async fn wait() {}"),
        ("store/mod.rs", "use crate::{domain::ids, outbound::{post, guard}};"),
        ("store/mod.rs", "use super::genesys::socket;"),
        ("api/webhooks.rs", "use super::super::outbound::post;"),
        ("api/webhooks.rs", "fn f() { crate::actors::wake(); }"),
        ("api/webhooks.rs", "let x = sqlx::query(\"select 1\");"),
        ("actors/dispatch/actor.rs", "use actix_web::web;"),
        ("outbound/post.rs", "use awc;"),
        ("app.rs", "let home = std::env::var(\"HOME\");"),
        ("api/health.rs", "time::OffsetDateTime::now_utc()"),
        ("actors/mod.rs", "use rand::Rng;"),
        ("helpers.rs", ""),
    ];
    for (path, code) in offences {
        assert_eq!(broken_rules(path, code).len(), 1, "{path}: {code}: {:?}", broken_rules(path, code));
    }
    let fine = [
        ("domain/webhook/target.rs", "use std::net::IpAddr; // not crate::store\nuse super::ids::AgentId;"),
        ("store/mod.rs", "use crate::{domain::{ids, store}, clock};\nuse self::audit;"),
        ("store/ingest/record.rs", "use super::outbound;"),
        ("actors/mod.rs", "use actix::Actor; use crate::{genesys, store::{self, wake}, outbound};"),
        ("genesys/mod.rs", "let url = \"http://x/crate\"; use awc::Client;"),
        ("outbound/post_tests.rs", "use genesys_simulator::crm;"),
        (
            "outbound/post.rs",
            "#[cfg(test)]\nmod tests { use hyper::server; use tokio; use genesys_simulator::crm; }",
        ),
    ];
    for (path, code) in fine {
        assert_eq!(broken_rules(path, code), Vec::<String>::new(), "{path}: {code}");
    }
    let long = "let x = 1; // one\n\n// two\n".repeat(LINES_MAX + 1);
    assert!(too_long("api/mod.rs", &long).is_some());
    assert!(too_long("api/mod.rs", &"// only words\n\n".repeat(LINES_MAX + 1)).is_none());
    assert!(too_long("api/mod.rs", &format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}")).is_none());
}

/// The imports of a crate of these files.
fn imports_between(files: &[(&str, &str)]) -> Imports {
    let files: Vec<_> = files.iter().map(|&(path, code)| (path.to_owned(), code.to_owned())).collect();
    imports(&CRATES_OF_OURS[0], &files)
}

#[test]
fn the_guard_finds_circles() {
    let two: &[_] = &[("a.rs", "use crate::b::B;"), ("b.rs", "fn f(a: crate::a::A) {}")];
    let three: &[_] = &[
        ("a/mod.rs", "mod one; mod two;"),
        ("a/one.rs", "use crate::{c::{self, C}, clock};"),
        ("c.rs", "use crate::a::two::{Two as Second};"),
        ("a/two.rs", "mod inner { use super::super::one::One; }"),
        ("clock.rs", ""),
    ];
    let by_super: &[_] =
        &[("a/mod.rs", ""), ("a/b.rs", "use super::c::C;"), ("a/c.rs", "fn f() { super::b::go::<u8>() }")];
    let by_re_export: &[_] = &[
        ("a/mod.rs", "pub use inner::Inner;\nuse crate::b::B;"),
        ("a/inner.rs", "pub struct Inner;"),
        ("b.rs", "use presence_bridge::a::Inner;"),
    ];
    for (files, size) in [(two, 2), (three, 3), (by_super, 2), (by_re_export, 2)] {
        let found = circles(&CRATES_OF_OURS[0], &imports_between(files));
        assert_eq!(found.len(), 1, "{files:?}: {found:?}");
        assert!(found[0].starts_with(&format!("circle in src of {size} files:")), "{found:?}");
    }
    let parent: &[_] = &[
        ("a/mod.rs", "use inner::{Inner, deep};"),
        ("a/inner/mod.rs", "use super::A; use crate::a;"),
        ("a/inner/deep.rs", "use super::super::A;"),
    ];
    let one_way: &[_] = &[
        ("a.rs", "use crate::b::B; pub(in crate::a) struct A;"),
        (
            "b.rs",
            "// crate::a\nconst A: &str = \"crate::a::A\"; const R: &str = r#\"\"crate::a\"#; use std::a;",
        ),
        ("lib.rs", "pub mod a; pub mod b; use a::A;"),
        ("main.rs", "use presence_bridge::a::A; use crate::b;"),
    ];
    for files in [parent, one_way] {
        assert_eq!(circles(&CRATES_OF_OURS[0], &imports_between(files)), Vec::<String>::new(), "{files:?}");
    }
}

#[test]
fn the_guard_finds_imports_inside_a_folder() {
    let floors = [("store/mod", "pool delivery"), ("store/delivery", "pool"), ("store/pool", "")];
    let broken = |files: &[(&str, &str)]| {
        let mut all = vec![
            ("store/mod.rs", ""),
            ("store/pool.rs", ""),
            ("store/delivery/mod.rs", ""),
            ("store/delivery/claim.rs", ""),
        ];
        all.retain(|(path, _)| files.iter().all(|(other, _)| other != path));
        misplaced(&CRATES_OF_OURS[0], &imports_between(&[&all, files].concat()), &floors)
    };
    let offences = [
        ("store/pool.rs", "use super::delivery::claim::Claim;"),
        ("store/pool.rs", "use crate::store::Store;"),
        ("store/delivery/claim.rs", "fn f(store: super::super::Store) {}"),
        ("store/new.rs", "use super::pool::Pool;"),
    ];
    for (path, code) in offences {
        assert_eq!(broken(&[(path, code)]).len(), 1, "{path}: {code}: {:?}", broken(&[(path, code)]));
    }
    let fine = [
        ("store/mod.rs", "use pool::Pool; pub use delivery::claim::Claim;"),
        ("store/delivery/claim.rs", "use crate::store::pool; use super::settle; use crate::clock;"),
        ("clock.rs", "use crate::store::pool;"),
        ("genesys/socket.rs", "use super::rest;"),
    ];
    for (path, code) in fine {
        assert_eq!(broken(&[(path, code)]), Vec::<String>::new(), "{path}: {code}");
    }
}
