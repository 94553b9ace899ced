//! Which file of a crate imports which, read from `use` trees and from paths inside the code, and the circles
//! in that. A name that a parent re-exports counts as an import of the parent.

use std::collections::{BTreeMap, BTreeSet};

/// A crate of this repository.
pub struct Crate {
    /// Of its sources, from the root of the repository.
    pub folder: &'static str,
    /// Stands before its files in reports and in the table of floors.
    pub prefix: &'static str,
    pub name: &'static str,
}

/// The path of a module from the root of its crate.
type Module = Vec<String>;

/// Who imports whom (`from`, `to`), by which paths.
pub type Imports = BTreeMap<(String, String), BTreeSet<String>>;

/// Names, `::`, and other signs one by one; without comments and literals.
fn tokens(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let after_name = rest.get(name..).unwrap_or_default();
        let hashes = after_name.len() - after_name.trim_start_matches('#').len();
        let is_raw = matches!(rest.get(..name), Some("r" | "br" | "cr"))
            && after_name.get(hashes..).is_some_and(|text| text.starts_with('"'));
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if is_raw {
            let opened = name + hashes + 1;
            let close = format!("\"{}", "#".repeat(hashes));
            rest[opened..].find(&close).map_or(rest.len(), |end| opened + end + close.len())
        } else if first == '"' {
            literal_len(rest, '"')
        } else if first == '\'' && (rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'')) {
            literal_len(rest, '\'')
        } else if name > 0 {
            found.push(&rest[..name]);
            name
        } else if rest.starts_with("::") {
            found.push("::");
            2
        } else {
            if !first.is_whitespace() {
                found.push(&rest[..first.len_utf8()]);
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

/// The length of the literal at the beginning of `code`, with its quotes.
fn literal_len(code: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in code.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    code.len()
}

/// `path` is relative to the sources of its crate.
fn module_of(path: &str) -> Module {
    let name = path.trim_end_matches(".rs");
    let name = name.strip_suffix("/mod").unwrap_or(name);
    if matches!(name, "lib" | "main") { Vec::new() } else { name.split('/').map(str::to_owned).collect() }
}

/// Whether one of two files is a parent of the other, which may import each other.
fn is_family(a: &str, b: &str) -> bool {
    let (a, b) = (module_of(a), module_of(b));
    a.starts_with(&b) || b.starts_with(&a)
}

struct Reader<'a> {
    name: &'a str,
    files: BTreeMap<Module, &'a str>,
}

impl Reader<'_> {
    /// The paths that a file names, each with the module where it stands.
    fn paths<'c>(&self, file: &str, code: &[&'c str]) -> Vec<(Module, Vec<&'c str>)> {
        let mut module = module_of(file);
        let mut inline = Vec::new(); // depths at which modules inside the file were opened
        let mut depth = 0;
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(token) = code.get(at) {
            let after = |n: usize| code.get(at + n).copied().unwrap_or_default();
            let before = |n: usize| at.checked_sub(n).and_then(|i| code.get(i)).copied().unwrap_or_default();
            match *token {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if inline.last() == Some(&depth) {
                        inline.pop();
                        module.pop();
                    }
                }
                "mod" if after(2) == "{" => {
                    inline.push(depth);
                    module.push(after(1).to_owned());
                }
                // `use<'a>` in a type imports nothing.
                "use" if after(1) != "<" => {
                    let mut paths = Vec::new();
                    at = use_tree(code, at + 1, &[], &mut paths);
                    found.extend(paths.into_iter().map(|path| (module.clone(), path)));
                    continue;
                }
                first if after(1) == "::" && before(1) != "::" && (before(2), before(1)) != ("(", "in") => {
                    let mut path = vec![first];
                    while after(path.len() * 2 - 1) == "::" && after(path.len() * 2).starts_with(is_start) {
                        path.push(after(path.len() * 2));
                    }
                    at += path.len() * 2 - 2;
                    found.push((module.clone(), path));
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// The file that a path leads to; none if it leads out of the crate, or to something of the same module.
    fn file_of(&self, module: &Module, path: &[&str]) -> Option<&str> {
        let mut base = module.clone();
        let mut rest = path;
        match path.first() {
            Some(&"crate") => base.clear(),
            Some(first) if *first == self.name => base.clear(),
            Some(&("self" | "super")) => {}
            Some(child) => {
                base.push((*child).to_owned());
                self.files.get(&base)?;
            }
            None => return None,
        }
        rest = rest.get(1..)?;
        if path.first() == Some(&"super") {
            base.pop();
        }
        while rest.first() == Some(&"super") {
            base.pop();
            rest = rest.get(1..)?;
        }
        base.extend(rest.iter().map(|&part| part.to_owned()));
        (0..=base.len()).rev().find_map(|len| self.files.get(base.get(..len)?)).copied()
    }
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Collects the paths of a `use` tree that begins at `at`; says where it ends.
fn use_tree<'c>(code: &[&'c str], mut at: usize, prefix: &[&'c str], found: &mut Vec<Vec<&'c str>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match code.get(at).copied() {
            Some("{") => {
                at += 1;
                while !matches!(code.get(at), Some(&"}") | None) {
                    at = use_tree(code, at, &path, found);
                    at += usize::from(code.get(at) == Some(&","));
                }
                return at + 1;
            }
            Some("as") => at += 2,
            // `{self, ..}` is the module itself.
            Some("self") if !path.is_empty() => at += 1,
            Some(name) if name.starts_with(is_start) => {
                path.push(name);
                at += 1;
            }
            Some("::" | "*") => at += 1,
            _ => break,
        }
    }
    found.push(path);
    at
}

/// Every import between two files; `files` are path (relative to the sources) and product code.
pub fn imports(of: &Crate, files: &[(String, String)]) -> Imports {
    let mut reader = Reader { name: of.name, files: BTreeMap::new() };
    for (path, _) in files {
        let module = module_of(path);
        // The library, where a crate has one, and not the program on top of it.
        if path != "main.rs" || !files.iter().any(|(other, _)| other == "lib.rs") {
            reader.files.insert(module, path);
        }
    }
    let mut found = Imports::new();
    for (from, code) in files {
        for (module, path) in reader.paths(from, &tokens(code)) {
            if let Some(to) = reader.file_of(&module, &path).filter(|to| to != from) {
                found.entry((from.clone(), to.to_owned())).or_default().insert(path.join("::"));
            }
        }
    }
    found
}

/// Each circle as lines to read; the first says how many files it has.
pub fn circles(of: &Crate, imports: &Imports) -> Vec<String> {
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in imports.keys().filter(|(from, to)| !is_family(from, to)) {
        targets.entry(from).or_default().insert(to);
    }
    let reached = |from| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = vec![from];
        while let Some(file) = next.pop() {
            next.extend(targets.get(file).into_iter().flatten().copied().filter(|to| seen.insert(*to)));
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> = targets.keys().map(|file| (*file, reached(file))).collect();
    let leads = |from: &str, to: &str| reach.get(from).is_some_and(|seen| seen.contains(to));
    let circles: BTreeSet<BTreeSet<&str>> = reach
        .keys()
        .filter(|file| leads(file, file))
        .map(|file| reach.keys().copied().filter(|other| leads(file, other) && leads(other, file)).collect())
        .collect();
    let line = |((from, to), paths): (&(String, String), &BTreeSet<String>)| {
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        format!("  {}{from} -> {}{to} ({})", of.prefix, of.prefix, paths.join(", "))
    };
    circles
        .iter()
        .map(|circle| {
            let inside = |(from, to): &(String, String)| {
                circle.contains(from.as_str()) && circle.contains(to.as_str()) && !is_family(from, to)
            };
            let lines: Vec<_> = imports.iter().filter(|(edge, _)| inside(edge)).map(line).collect();
            format!("circle in {} of {} files:\n{}", of.folder, circle.len(), lines.join("\n"))
        })
        .collect()
}

/// A folder and the second segment of a path: `store/delivery` of store/delivery/claim.rs, `store/mod` of
/// store/mod.rs.
fn second_segment(path: &str) -> Option<(&str, &str)> {
    let (folder, rest) = path.split_once('/')?;
    Some((folder, rest.split(['/', '.']).next()?))
}

/// Every import inside a folder that `floors` does not allow. A folder that is in no entry is free.
pub fn misplaced(of: &Crate, imports: &Imports, floors: &[(&str, &str)]) -> Vec<String> {
    let mut broken = Vec::new();
    for (from, to) in imports.keys() {
        let (from, to) = (format!("{}{from}", of.prefix), format!("{}{to}", of.prefix));
        let (Some((folder, importer)), Some((other, imported))) =
            (second_segment(&from), second_segment(&to))
        else {
            continue;
        };
        let guarded =
            floors.iter().any(|(name, _)| second_segment(name).is_some_and(|(name, _)| name == folder));
        if folder != other || importer == imported || !guarded {
            continue;
        }
        let floor = floors.iter().find(|(name, _)| second_segment(name) == Some((folder, importer)));
        match floor {
            None => broken
                .push(format!("{from}: `{folder}/{importer}` has no floor; give it one in tests/floors.rs")),
            Some((_, allowed)) if !allowed.split_whitespace().any(|word| word == imported) => {
                broken.push(format!("{from}: `{folder}/{importer}` may not import `{folder}/{imported}`"));
            }
            Some(_) => {}
        }
    }
    broken
}
