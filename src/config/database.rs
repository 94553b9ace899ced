//! Whether what goes to the database, secrets and presences of people among it, is protected on its way.

use url::Url;

use super::Variables;

/// TLS modes that never fall back to plain text.
const PROTECTED: [&str; 3] = ["require", "verify-ca", "verify-full"];

/// Whether the way that a `DATABASE_URL` describes stays on this machine, or is TLS. Reads the address as
/// sqlx does: parameters win over what stands before them, and variables of Postgres' own fill in what is not
/// said.
pub(super) fn is_protected(text: &str, variables: &Variables) -> bool {
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
        ] {
            assert!(!is_protected(text, &nothing), "{text}");
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
