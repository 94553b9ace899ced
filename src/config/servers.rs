//! Several servers in one `DATABASE_URL`, in the form of Postgres' own library: hosts, addresses and ports may
//! be lists, of which the n-th items make the n-th server. One port stands for all.

use url::form_urlencoded;

/// More than this is a typing error.
const SERVERS_MAX: usize = 16;
/// All of them mean the same here: a bridge writes, so it takes the primary, and only while that takes writes.
const ATTRIBUTES: [&str; 3] = ["any", "read-write", "primary"];

/// One part of a query.
enum Part<'a> {
    Same(&'a str),
    /// Name, and a value for each server.
    List(&'static str, Vec<String>),
}

/// The servers that a `DATABASE_URL` names, each as the URL that names it alone, in the order of the list.
///
/// # Errors
/// If lists do not match, or `target_session_attrs` is unknown; no error repeats a part of the URL.
pub fn database_servers(text: &str) -> Result<Vec<String>, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
    let hosts = items(hosts)?;
    let parts = parts(query)?;
    let lengths = parts.iter().filter_map(|part| match part {
        Part::List("host" | "hostaddr", items) => Some(items.len()),
        _ => None,
    });
    let count = lengths.chain([hosts.len()]).max().unwrap_or(1);
    if count > SERVERS_MAX {
        return Err(format!("names more than {SERVERS_MAX} servers"));
    }
    if ![1, count].contains(&hosts.len()) {
        return Err("names a host without an address of its own".to_owned());
    }
    for part in &parts {
        let Part::List(name, items) = part else { continue };
        if items.len() != count && (*name != "port" || items.len() != 1) {
            return Err(format!("{name} must have an item for each of the {count} servers"));
        }
    }
    let server = |nth: usize| {
        let host = hosts.get(nth).or(hosts.first()).map(String::as_str).unwrap_or_default();
        // A URL with a user needs a host; a parameter wins over it.
        let host = if host.is_empty() && !user.is_empty() { "localhost" } else { host };
        let pairs: Vec<_> = parts.iter().map(|part| part.of(nth)).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        format!("{scheme}://{user}{host}{path}{mark}{}", pairs.join("&"))
    };
    Ok((0..count).map(server).collect())
}

impl Part<'_> {
    /// As the n-th server's URL says it.
    fn of(&self, nth: usize) -> String {
        match self {
            Self::Same(pair) => (*pair).to_owned(),
            Self::List(name, items) => {
                let item = items.get(nth).or(items.first()).map(String::as_bytes).unwrap_or_default();
                let value: String = form_urlencoded::byte_serialize(item).collect();
                format!("{name}={value}")
            }
        }
    }
}

/// The parts of a query without `target_session_attrs`.
fn parts(query: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default();
        parts.push(match &*name {
            "host" => Part::List("host", items(&value)?),
            "hostaddr" => Part::List("hostaddr", items(&value)?),
            "port" => Part::List("port", items(&value)?),
            "target_session_attrs" if ATTRIBUTES.contains(&&*value) => continue,
            "target_session_attrs" => {
                return Err(format!("target_session_attrs must be one of {}", ATTRIBUTES.join(", ")));
            }
            _ => Part::Same(pair),
        });
    }
    Ok(parts)
}

fn items(list: &str) -> Result<Vec<String>, String> {
    let items: Vec<_> = list.split(',').map(str::to_owned).collect();
    let empty = items.len() > 1 && items.iter().any(String::is_empty);
    if empty { Err("has an empty item in a list of servers".to_owned()) } else { Ok(items) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_server_of_a_list_gets_a_url_of_its_own() {
        for (text, servers) in [
            ("postgres://u:p@one/b", &["postgres://u:p@one/b"][..]),
            (
                "postgres://u:p,@one:1,[::1]:2,three/b?sslmode=require&target_session_attrs=read-write",
                &[
                    "postgres://u:p,@one:1/b?sslmode=require",
                    "postgres://u:p,@[::1]:2/b?sslmode=require",
                    "postgres://u:p,@three/b?sslmode=require",
                ],
            ),
            (
                "postgres://u@/b?host=one,/run/two&port=1,2",
                &[
                    "postgres://u@localhost/b?host=one&port=1",
                    "postgres://u@localhost/b?host=%2Frun%2Ftwo&port=2",
                ],
            ),
            (
                "postgres://one,two?hostaddr=10.0.0.1,10.0.0.2&port=6432",
                &["postgres://one?hostaddr=10.0.0.1&port=6432", "postgres://two?hostaddr=10.0.0.2&port=6432"],
            ),
        ] {
            assert_eq!(database_servers(text).unwrap(), servers, "{text}");
        }
        for (text, said) in [
            ("postgres://u:CANARY@one,,two/b", "an empty item"),
            (
                "postgres://u:CANARY@one,two,three/b?hostaddr=10.0.0.1,10.0.0.2",
                "hostaddr must have an item for each of the 3",
            ),
            ("postgres://one,two/CANARY?hostaddr=10.0.0.1,10.0.0.2,10.0.0.3", "without an address"),
            ("postgres://one,two,three/CANARY?port=1,2", "port must have an item for each of the 3"),
            ("postgres://one/CANARY?target_session_attrs=standby", "one of any, read-write, primary"),
        ] {
            let refused = database_servers(text).unwrap_err();
            assert!(refused.contains(said) && !refused.contains("CANARY"), "{text}: {refused}");
        }
        assert!(database_servers(&format!("postgres://{}/b", ["h"; 17].join(","))).is_err());
    }
}
