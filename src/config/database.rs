//! The way to the database: what its address may say, and whether what goes there, secrets and presences of
//! people among it, is protected.

use std::net::IpAddr;

use url::Url;

use super::Variables;
use super::servers::database_servers;

/// Fewest connections that a bridge can work with.
pub const DATABASE_CONNECTIONS_MIN: u32 = 8;
/// More than this is a typing error.
const DATABASE_CONNECTIONS_MAX: u32 = 200;

/// TLS modes that never fall back to plain text.
const PROTECTED: [&str; 3] = ["require", "verify-ca", "verify-full"];

/// Modes of TLS that sqlx knows.
const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// Parameters of the address that are obeyed; the connection would be made without any other one.
const PARAMETERS: [&str; 16] = [
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// How many connections to the database a bridge may have.
pub(super) fn connections(text: &str) -> Result<u32, String> {
    let allowed = DATABASE_CONNECTIONS_MIN..=DATABASE_CONNECTIONS_MAX;
    text.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
        format!("must be a whole number from {DATABASE_CONNECTIONS_MIN} to {DATABASE_CONNECTIONS_MAX}")
    })
}

/// Checks that a `DATABASE_URL` says only what is obeyed. No error repeats a part that may hold a password.
pub(super) fn check(text: &str) -> Result<(), String> {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err("must be a postgres:// URL".to_owned());
    }
    let unescaped = || {
        let rule =
            "user or password has a character that must be percent-encoded (/ as %2F, ? as %3F, # as %23)";
        Err(rule.to_owned())
    };
    let (_, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
    let names_hold_at = query.split('&').any(|pair| pair.split('=').next().unwrap_or_default().contains('@'));
    if behind.contains('#') || path.contains('@') || names_hold_at {
        return unescaped();
    }
    let servers = database_servers(text)?;
    for server in &servers {
        let Ok(url) = Url::parse(server) else {
            return Err("is not a URL: check host and port".to_owned());
        };
        for (name, value) in url.query_pairs() {
            // What looks like a parameter may be a part of a password with a ? in it.
            check_parameter(&name, &value)
                .or_else(|rule| if query.contains('@') { unescaped() } else { Err(rule) })?;
        }
    }
    Ok(())
}

fn check_parameter(name: &str, value: &str) -> Result<(), String> {
    let known = PARAMETERS.contains(&name) || (name.starts_with("options[") && name.ends_with(']'));
    if !known {
        let shown: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
        return Err(format!("parameter {shown} is not supported; these are: {}", PARAMETERS.join(", ")));
    }
    match name {
        "sslmode" | "ssl-mode" if !MODES.iter().any(|mode| value.eq_ignore_ascii_case(mode)) => {
            Err(format!("{name} must be one of {}", MODES.join(", ")))
        }
        "hostaddr" if value.parse::<IpAddr>().is_err() => Err("hostaddr must be an IP address".to_owned()),
        "port" if value.parse::<u16>().is_err() => Err("port must be a number up to 65535".to_owned()),
        _ => Ok(()),
    }
}

/// Whether the way to each server that a `DATABASE_URL` names stays on this machine, or is TLS.
pub(super) fn is_protected(text: &str, variables: &Variables) -> bool {
    // Another rule has its say of a list that cannot be read.
    database_servers(text)
        .map_or(true, |servers| servers.iter().all(|url| is_protected_alone(url, variables)))
}

/// The same of one server. Reads the address as sqlx does: parameters win over what stands before them, and
/// variables of Postgres' own fill in what is not said.
fn is_protected_alone(text: &str, variables: &Variables) -> bool {
    let Ok(url) = Url::parse(text) else {
        return true; // another rule has its say
    };
    let own = |name: &str| variables.get(name).map(str::to_owned);
    let mut hosts = vec![own("PGHOSTADDR").or_else(|| own("PGHOST")).unwrap_or_default()];
    hosts.extend(url.host_str().filter(|host| !host.is_empty()).map(str::to_owned));
    let mut mode = own("PGSSLMODE").unwrap_or_default();
    for (key, value) in url.query_pairs() {
        match &*key {
            "host" | "hostaddr" => hosts.push(value.into_owned()),
            "sslmode" | "ssl-mode" => mode = value.into_owned(),
            _ => {}
        }
    }
    // A socket wins over every host, wherever it is said.
    let is_socket = |host: &String| host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
    let last = hosts.last().map(String::as_str).unwrap_or_default();
    hosts.iter().any(is_socket)
        || is_this_machine(last)
        || PROTECTED.iter().any(|known| mode.eq_ignore_ascii_case(known))
}

/// Without a host Postgres' own library looks for a socket on this machine.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    let loopback = bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    bare.is_empty() || bare.eq_ignore_ascii_case("localhost") || loopback
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_this_machine_is_reached_without_tls() {
        let nothing = Variables::default();
        for text in [
            "postgres://u:p@localhost/b",
            "postgres://u:p@127.0.0.1:5432/b",
            "postgres://u:p@[::1]/b",
            "postgres:///b?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/b",
            "postgres://localhost/b?host=/tmp",
            "postgres://db/b?sslmode=require",
            "postgres://db/b?ssl-mode=VERIFY-FULL",
            "postgres://db/b?sslmode=disable&sslmode=verify-ca",
            "postgres://one,two/b?sslmode=verify-full",
            "postgres://localhost,127.0.0.1:5433/b",
        ] {
            assert!(is_protected(text, &nothing), "{text}");
        }
        for text in [
            "postgres://db/b",
            "postgres://10.0.0.8/b",
            "postgres://[fd00::1]/b",
            "postgres://localhost/b?host=db",
            "postgres://localhost/b?hostaddr=10.0.0.8",
            "postgres://db/b?sslmode=prefer",
            "postgres://db/b?sslmode=require&sslmode=disable",
            "postgres://localhost.example/b",
            "postgres://localhost,db/b",
        ] {
            assert!(!is_protected(text, &nothing), "{text}");
        }
    }

    #[test]
    fn an_address_that_says_more_than_is_obeyed_is_refused_by_name() {
        for text in [
            "postgres://u:p@localhost/b",
            "postgresql://u:p@db:6432/b?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            "postgres:///b?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/b",
            "postgres://u:p@ss@localhost/b",
            "postgres://u:p%2Fs%23s@localhost/b",
            "postgres://localhost/b?user=u&password=p@ss",
            "postgres://localhost/b?options=-csearch_path%3Dbridge&options[jit]=on",
            "postgres://u:p@one:5432,two:5433/b?target_session_attrs=read-write",
            "postgres:///b?host=one,two&port=5432,5433&target_session_attrs=primary",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let escape = "must be percent-encoded";
        for (text, said) in [
            ("jdbc:postgresql://db/b", "must be a postgres:// URL"),
            ("host=db user=u", "must be a postgres:// URL"),
            ("postgres://u:CANARY/s@localhost/b", escape),
            ("postgres://u:1/CANARY@localhost/b", escape),
            ("postgres://u:CANARY?s@localhost/b", escape),
            ("postgres://u:1?CANARY=s@localhost/b", escape),
            ("postgres://u:p@ss?CANARY=s@localhost/b", escape),
            ("postgres://u:CANARY#s@localhost/b", escape),
            ("postgres://u:CANARY@one,two:x/b", "is not a URL"),
            ("postgres:///b?host=one,two&port=1,2,3", "port must have an item"),
            ("postgres://db/b?schema=bridge", "parameter schema is not supported"),
            ("postgres://db/b?target_session_attrs=prefer-standby", "one of any, read-write, primary"),
            ("postgres://db/b?application_name=me", "parameter application_name"),
            ("postgres://db/b?sslmode=verify_full", "sslmode must be one of"),
            ("postgres://db/b?hostaddr=db", "hostaddr must be"),
            ("postgres://db/b?port=x", "port must be"),
            ("postgres://db:x/b", "is not a URL"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.contains(said) && !refused.contains("CANARY"), "{text}: {refused}");
        }
    }

    #[test]
    fn variables_of_postgres_fill_in_what_is_not_said() {
        let with =
            |pairs: &[(&str, &str)], text| is_protected(text, &Variables::from_pairs(pairs.iter().copied()));
        assert!(!with(&[("PGHOST", "db")], "postgres:///b"));
        assert!(with(&[("PGHOST", "db"), ("PGSSLMODE", "verify-full")], "postgres:///b"));
        assert!(!with(&[("PGSSLMODE", "verify-full")], "postgres://db/b?sslmode=prefer"));
        assert!(with(&[("PGHOST", "db")], "postgres://localhost/b"));
    }
}
