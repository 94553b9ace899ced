//! What is advised on a failed call to the platform, by what its own owner can mend: for `presence-bridge
//! doctor`, for examinations over the API, and for the console.

use std::time::Duration;

/// Kinds of errors that are handled differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401: the token is expired or revoked, or the client secret is wrong.
    Unauthorized,
    /// 403: a permission is missing; asking again does not help.
    Forbidden,
    /// 409 or 422: a limit is met.
    Limit,
    /// 429: too many requests; the wait that the platform asks for, if any.
    RateLimited(Option<Duration>),
    /// Any other status that is not success.
    Status,
    /// No whole answer in time.
    TimedOut,
    /// No connection, or it broke.
    Transport,
    /// An answer that lacks what it must hold.
    BadAnswer,
    /// A socket address that does not belong to the source; it is not dialled.
    ForeignHost,
}

/// What to do about a failed call of this step; `what` is the error's text.
#[must_use]
pub fn remedy(step: &str, kind: ErrorKind, status: Option<u16>, what: &str) -> &'static str {
    let says = |code: &str| what.contains(code);
    match (step, kind, status) {
        _ if says("the proxy answered 407") => {
            "the proxy wants other credentials: BRIDGE_GENESYS_PROXY=http://user:password@host:port, with what is special in them percent-encoded"
        }
        _ if says("the proxy answered") => {
            "the proxy does not let this host through: have it allow CONNECT to port 443 of api., login. and streaming. of the region"
        }
        _ if says("the proxy") => {
            "see that host and port in BRIDGE_GENESYS_PROXY are those of an HTTP proxy that this machine reaches"
        }
        (_, ErrorKind::Transport | ErrorKind::TimedOut, _) => {
            "see that this machine reaches the address: name resolution, firewall, proxy, and the region in the settings"
        }
        _ if says("ip.not.authorized") => {
            "the organisation allows only listed addresses: add this machine's public address (Admin > Organization Settings)"
        }
        ("login", _, Some(401)) => {
            "client id or secret are wrong, or belong to another region: copy both again (Admin > Integrations > OAuth)"
        }
        ("login", _, Some(400)) => {
            "the OAuth client is disabled, its grant is not Client Credentials, or its id is mistyped (Admin > Integrations > OAuth)"
        }
        (_, ErrorKind::RateLimited(_), _) => {
            "the OAuth client makes too many requests: see which other program uses it, and give each one its own"
        }
        ("rosters", _, Some(404)) => {
            "a queue or group does not exist, or lies in a division in which the client has no role"
        }
        ("rosters", _, Some(403)) => {
            "give the client's role the permission Routing > Queue > View (for queues)"
        }
        ("presences", ErrorKind::Forbidden, _) => {
            "labels will be missing: give the client's role the permission Presence > PresenceDefinition > View"
        }
        (_, ErrorKind::Unauthorized, _) => {
            "the platform refuses the token: see that the client is active, then try again"
        }
        (_, ErrorKind::Forbidden, _) => {
            "give the OAuth client a role with the permission that is named, in every division"
        }
        (_, ErrorKind::ForeignHost, _) => {
            "the platform names a socket on another host: see that the address in the settings is Genesys' own"
        }
        (_, ErrorKind::BadAnswer, _) => {
            "this is not what the platform answers: see that the address in the settings is Genesys' own"
        }
        (_, ErrorKind::Limit, _) => {
            "the OAuth client has reached a limit: see which other program uses it, and give each one its own"
        }
        _ => remedy_of_status(status, what),
    }
}

/// What to do about an answer of this status, or about whoever else answers.
fn remedy_of_status(status: Option<u16>, what: &str) -> &'static str {
    match status {
        Some(300..=399) => {
            "the address in the settings leads elsewhere: give the one that it leads to, without a path"
        }
        Some(404 | 405 | 410) => {
            "there is nothing at this address: see that those in the settings are Genesys' own (https://api.…, https://login.…), without a path"
        }
        Some(407) => "a proxy on the way wants a name and a password: give them in its address",
        Some(400..=499) => {
            "the request is refused as it is: see that the ids of agents, queues and groups are those of this organisation, and that the address is Genesys' own"
        }
        _ if what.contains("correlation ") => {
            "the platform fails: try again later; if it stays, Genesys' support can find the call by its correlation id"
        }
        _ => {
            "whoever answers fails and is not Genesys: see that the address in the settings is Genesys' own, and which proxy is on the way"
        }
    }
}

/// What to do about a failure of which only the text was kept; `None` if the text tells too little.
#[must_use]
pub fn remedy_of_text(step: &str, what: &str) -> Option<&'static str> {
    let step = if what.starts_with("token: ") { "login" } else { step };
    let status = what.split_once("status ").and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    let kind = match status {
        Some(401) => ErrorKind::Unauthorized,
        Some(403) => ErrorKind::Forbidden,
        Some(409 | 422) => ErrorKind::Limit,
        Some(429) => ErrorKind::RateLimited(None),
        Some(_) => ErrorKind::Status,
        None if what.contains("no answer") || what.contains("the proxy") => ErrorKind::Transport,
        None => return None,
    };
    Some(remedy(step, kind, status, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind, status: u16, what: &str) -> (ErrorKind, Option<u16>, String) {
        (kind, Some(status), what.to_owned())
    }

    #[test]
    fn each_trouble_has_its_own_remedy() {
        let cases = [
            (
                "login",
                failed(ErrorKind::Unauthorized, 401, "token: status 401, code invalid_client"),
                "secret are wrong",
            ),
            ("login", failed(ErrorKind::Status, 400, "token: status 400, code invalid_client"), "disabled"),
            (
                "token",
                failed(ErrorKind::Unauthorized, 401, "status 401, code ip.not.authorized"),
                "public address",
            ),
            ("rosters", failed(ErrorKind::Status, 404, "status 404"), "does not exist"),
            ("presences", failed(ErrorKind::Forbidden, 403, "status 403"), "labels"),
            ("subscribe", failed(ErrorKind::Forbidden, 403, "status 403"), "every division"),
            ("subscribe", failed(ErrorKind::Limit, 409, "status 409"), "a limit"),
            ("login", failed(ErrorKind::Status, 302, "status 302"), "leads elsewhere"),
            ("login", failed(ErrorKind::Status, 404, "status 404"), "nothing at this address"),
            ("login", failed(ErrorKind::Status, 405, "status 405"), "nothing at this address"),
            ("channels", failed(ErrorKind::Status, 407, "status 407"), "a password"),
            ("rosters", failed(ErrorKind::Status, 400, "status 400, correlation c"), "ids of agents"),
            ("proxy", failed(ErrorKind::Transport, 0, "the proxy answered 407"), "other credentials"),
            ("socket", failed(ErrorKind::Transport, 0, "socket: the proxy answered 403"), "streaming."),
            ("proxy", failed(ErrorKind::Transport, 0, "the proxy cannot be reached"), "host and port"),
            ("state", failed(ErrorKind::Status, 502, "status 502"), "not Genesys"),
            ("state", failed(ErrorKind::Status, 503, "status 503, correlation c-1"), "Genesys' support"),
        ];
        for (step, (kind, status, what), word) in cases {
            let remedy = remedy(step, kind, status, &what);
            assert!(remedy.contains(word), "{step}: {remedy}");
        }
    }

    #[test]
    fn nobody_is_sent_to_support_for_what_is_their_own_to_mend() {
        for step in ["login", "token", "rosters", "presences", "channels", "subscribe", "socket", "state"] {
            for status in 300..500 {
                for kind in [ErrorKind::Status, ErrorKind::Limit, ErrorKind::BadAnswer] {
                    let what = format!("status {status}, correlation c-1");
                    let remedy = remedy(step, kind, Some(status), &what);
                    assert!(!remedy.contains("support"), "{step} {status} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn a_text_that_was_kept_is_understood_as_the_error_was() {
        for (step, what, word) in [
            ("rosters", "token: status 401, code invalid_client", "secret are wrong"),
            ("rosters", "queue members: status 403, code missing.permissions", "Queue > View"),
            ("subscribe", "subscribe: status 403", "every division"),
            ("subscribe", "make a channel: no answer in time", "firewall"),
        ] {
            let remedy = remedy_of_text(step, what).unwrap_or_default();
            assert!(remedy.contains(word), "{what}: {remedy}");
        }
        assert_eq!(remedy_of_text("subscribe", "an operator had it closed"), None);
    }
}
