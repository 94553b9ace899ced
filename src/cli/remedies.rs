//! What `presence-bridge doctor` advises on a failed call, by what its own owner can mend. Pure.

use crate::genesys::protocol::{ErrorKind, UpstreamError};

/// What to do about a failed call.
pub(super) fn remedy(step: &str, error: &UpstreamError) -> &'static str {
    let says = |code: &str| error.what.contains(code);
    match (step, error.kind, error.status) {
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
        (_, _, Some(300..=399)) => {
            "the address in the settings leads elsewhere: give the one that it leads to, without a path"
        }
        (_, _, Some(404 | 405 | 410)) => {
            "there is nothing at this address: see that those in the settings are Genesys' own (https://api.…, https://login.…), without a path"
        }
        (_, _, Some(407)) => "a proxy on the way wants a name and a password: give them in its address",
        (_, _, Some(400..=499)) => {
            "the request is refused as it is: see that the ids of agents, queues and groups are those of this organisation, and that the address is Genesys' own"
        }
        _ if says("correlation ") => {
            "the platform fails: try again later; if it stays, Genesys' support can find the call by its correlation id"
        }
        _ => {
            "whoever answers fails and is not Genesys: see that the address in the settings is Genesys' own, and which proxy is on the way"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind, status: u16, what: &str) -> UpstreamError {
        UpstreamError { kind, status: Some(status), what: what.to_owned() }
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
        for (step, error, word) in cases {
            assert!(remedy(step, &error).contains(word), "{step}: {}", remedy(step, &error));
        }
    }

    #[test]
    fn nobody_is_sent_to_support_for_what_is_their_own_to_mend() {
        for step in ["login", "token", "rosters", "presences", "channels", "subscribe", "socket", "state"] {
            for status in 300..500 {
                for kind in [ErrorKind::Status, ErrorKind::Limit, ErrorKind::BadAnswer] {
                    let error = failed(kind, status, &format!("status {status}, correlation c-1"));
                    assert!(!remedy(step, &error).contains("support"), "{step} {status} {kind:?}");
                }
            }
        }
    }
}
