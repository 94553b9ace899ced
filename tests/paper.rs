//! Holds the documents to the code and to each other: the page of settings repeats the list of variables,
//! decisions have one form and stand in their index, and links and cited files exist. It only reads files.
#![allow(clippy::unwrap_used, clippy::string_slice)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use presence_bridge::config::{VARIABLES, Variable};

/// Lines of the README; details belong in docs/.
const README_LINES_MAX: usize = 170;

/// Sections of a decision, in order.
const DECISION_SECTIONS: [&str; 3] = ["Context", "Decision", "Consequences"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Every text file of the repository: path relative to its root, and text. Leaves out what a build writes.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.')
                || ["target", "corpus", "artifacts", "data", "Cargo.lock"].contains(&&*name)
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push((path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn pages() -> Vec<(String, String)> {
    texts().into_iter().filter(|(path, _)| path.ends_with(".md")).collect()
}

/// The page without fenced code.
fn prose_of(page: &str) -> String {
    let mut in_code = false;
    page.lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            !in_code && !fence
        })
        .map(|line| line.to_owned() + "\n")
        .collect()
}

/// What stands between backticks outside of fenced code.
fn inline_code(page: &str) -> Vec<String> {
    prose_of(page).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A heading as an anchor, in the way of code hosts: lower case, hyphens for blanks, no punctuation.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(page: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for line in prose_of(page).lines().filter(|line| line.starts_with('#')) {
        let name = anchor(line.trim_start_matches('#'));
        let earlier: &mut usize = seen.entry(name.clone()).or_default();
        found.push(if *earlier == 0 { name } else { format!("{name}-{earlier}") });
        *earlier += 1;
    }
    found
}

/// Targets of the links of a page.
fn links(page: &str) -> Vec<String> {
    let prose = prose_of(page);
    let without_code: String = prose.split('`').step_by(2).collect();
    without_code
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// What is wrong with a link from `page`, if anything; `pages` holds the pages that there are.
fn broken_link(page: &str, target: &str, pages: &[(String, String)]) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let mut path = PathBuf::from(page);
    if !file.is_empty() {
        path.pop();
        for part in Path::new(file) {
            if part == ".." {
                path.pop();
            } else {
                path.push(part);
            }
        }
    }
    let name = path.to_string_lossy().into_owned();
    let text = pages.iter().find(|(path, _)| *path == name).map(|(_, text)| text);
    if text.is_none() && !root().join(&path).exists() {
        return Some(format!("{page}: {target} leads nowhere"));
    }
    let found = fragment.is_empty() || text.is_some_and(|text| anchors(text).iter().any(|a| a == fragment));
    (!found).then(|| format!("{page}: {target} names no heading"))
}

/// The row that a variable has on the page of settings.
fn row(variable: &Variable) -> String {
    let secret = if variable.secret { "yes " } else { "" };
    format!("| `{}` | `{}` | {} | {secret}|", variable.name, variable.default, variable.help)
}

#[test]
fn the_page_of_settings_repeats_the_list_of_variables() {
    let expected: Vec<_> = VARIABLES.iter().map(row).collect();
    let page = read("docs/configuration.md");
    let found: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(found, expected, "docs/configuration.md must have these rows:\n{}\n", expected.join("\n"));
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines, at most {README_LINES_MAX}");
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    let pages = pages();
    assert!(pages.len() > 40, "only {} pages were found", pages.len());
    let broken: Vec<_> = pages
        .iter()
        .flat_map(|(page, text)| links(text).into_iter().map(move |link| (page, link)))
        .filter_map(|(page, link)| broken_link(page, &link, &pages))
        .collect();
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_setting_that_a_page_names_exists() {
    let mut unknown = Vec::new();
    for (page, text) in pages() {
        for code in inline_code(&text) {
            let words = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for word in words.filter(|word| word.starts_with("BRIDGE_") || word.starts_with("GENESYS_")) {
                let name = word.trim_end_matches("_FILE");
                if !word.ends_with('_') && !VARIABLES.iter().any(|variable| variable.name == name) {
                    unknown.push(format!("{page}: {word}"));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "there are no such settings:\n{}", unknown.join("\n"));
}

/// Paths may begin at the root of the repository or at `src`.
#[test]
fn every_source_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    for (page, text) in pages() {
        for name in inline_code(&text).iter().filter(|name| name.contains('/') && name.ends_with(".rs")) {
            if !root().join(name).exists() && !root().join("src").join(name).exists() {
                missing.push(format!("{page}: `{name}`"));
            }
        }
    }
    assert!(missing.is_empty(), "there are no such files:\n{}", missing.join("\n"));
}

/// A decision as its file tells it.
struct Decision {
    number: String,
    title: String,
    status: String,
    date: String,
}

/// Reads a decision.
///
/// # Errors
/// What its form lacks.
fn decision(file: &str, text: &str) -> Result<Decision, String> {
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    let heading = next().strip_prefix("# ").and_then(|heading| heading.split_once(": "));
    let (number, title) = heading.ok_or(format!("{file}: begins without `# NNNN: title`"))?;
    let expected = format!("{number}-{}.md", slug(title));
    if file != expected {
        return Err(format!("{file}: its title wants the name {expected}"));
    }
    next();
    let status =
        next().strip_prefix("- Status: ").ok_or(format!("{file}: no `- Status: …` below the title"))?;
    let date = next().strip_prefix("- Date: ").ok_or(format!("{file}: no `- Date: …` below the status"))?;
    let known = ["accepted", "accepted, amended by ", "superseded by "];
    if !known.contains(&status.trim_end_matches(|c: char| c.is_ascii_digit())) {
        return Err(format!("{file}: status {status:?} is none of {known:?}"));
    }
    let sections: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    if sections != DECISION_SECTIONS {
        return Err(format!("{file}: has sections {sections:?}, not {DECISION_SECTIONS:?}"));
    }
    Ok(Decision {
        number: number.to_owned(),
        title: title.to_owned(),
        status: status.to_owned(),
        date: date.to_owned(),
    })
}

/// A title as the second part of a file's name.
fn slug(title: &str) -> String {
    let parts: Vec<_> = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    parts.join("-").to_lowercase()
}

/// File names of decisions, in order.
fn decision_files() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("docs/adr")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = names.filter(|name| name != "README.md").collect();
    files.sort();
    files
}

#[test]
fn every_decision_has_the_one_form_and_stands_in_the_index() {
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for file in decision_files() {
        match decision(&file, &read(&format!("docs/adr/{file}"))) {
            Ok(Decision { number, title, status, date }) => {
                rows.push(format!("| [{number}]({file}) | {title} | {status} | {date} |"));
            }
            Err(fault) => faults.push(fault),
        }
    }
    assert!(faults.is_empty(), "wrong form:\n{}", faults.join("\n"));
    let index = read("docs/adr/README.md");
    let found: Vec<_> = index.lines().filter(|line| line.starts_with("| [")).collect();
    assert_eq!(found, rows, "docs/adr/README.md must have these rows:\n{}\n", rows.join("\n"));
}

/// Citations of decisions in a text: what stands behind `adr/` or `ADR `, if it begins with a number.
fn citations(text: &str) -> Vec<&str> {
    let end = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && !['-', '.'].contains(&c));
    ["adr/", "ADR "]
        .iter()
        .flat_map(|before| text.split(before).skip(1))
        .map(|rest| rest[..end(rest).unwrap_or(rest.len())].trim_end_matches('.'))
        .filter(|cited| cited.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

/// Whether a citation is the number or the name of one of `files`.
fn is_decision(cited: &str, files: &[String]) -> bool {
    files.iter().any(|file| file == cited || file.split('-').next() == Some(cited))
}

#[test]
fn every_decision_that_is_cited_exists() {
    let files = decision_files();
    let mut wrong = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| path != "tests/paper.rs") {
        let unknown = citations(text).into_iter().filter(|cited| !is_decision(cited, &files));
        wrong.extend(unknown.map(|cited| format!("{path}: {cited}")));
    }
    assert!(wrong.is_empty(), "there are no such decisions:\n{}", wrong.join("\n"));
}

#[test]
fn the_guard_finds_what_it_guards_against() {
    let page = "# One\n## Two `b` words\n## Two b words\n```\n## code\n[a](gone.md)\n```\n`[a](gone.md)`\n";
    assert_eq!(anchors(page), ["one", "two-b-words", "two-b-words-1"]);
    assert!(links(page).is_empty());
    let pages = vec![("docs/a.md".to_owned(), page.to_owned()), ("b.md".to_owned(), String::new())];
    for fine in ["#two-b-words-1", "a.md#one", "../b.md", "https://example.com/#x", "../Cargo.toml"] {
        assert_eq!(broken_link("docs/a.md", fine, &pages), None);
    }
    for broken in ["#three", "c.md", "../b.md#one", "b.md"] {
        assert!(broken_link("docs/a.md", broken, &pages).is_some(), "{broken}");
    }
    let good = "# 0007: Use `x`, once\n\n- Status: accepted\n- Date: 2026-11-23\n\n## Context\n\n## Decision\n\n## Consequences\n";
    assert!(decision("0007-use-x-once.md", good).is_ok());
    assert!(decision("0007-use-x-once.md", &good.replace("accepted", "superseded by 0009")).is_ok());
    let offences = [
        ("# 0007: Use", "# 0007 Use"),
        ("Use", "Take"),
        ("accepted", "perhaps"),
        ("- Date", "Date"),
        ("## Context\n", "**Case.**\n"),
        ("## Decision\n", "## Decision\n## Considered\n"),
    ];
    for (from, to) in offences {
        assert!(decision("0007-use-x-once.md", &good.replace(from, to)).is_err(), "{from} -> {to}");
    }
    let files = ["0007-use-x-once.md".to_owned()];
    let cited =
        citations("docs/adr/0007, adr/0007-use-x-once.md. ADR 0007 (docs/adr/0008); adr/README.md, ADR 7");
    let known: Vec<_> = cited.iter().map(|cited| is_decision(cited, &files)).collect();
    assert_eq!(known, [true, true, false, true, false], "{cited:?}");
}
