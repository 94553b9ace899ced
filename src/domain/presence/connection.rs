//! Closed sets about a connection upstream: its desired and present state, causes of its loss, close and
//! replacement, reasons of malformed frames.

use crate::domain::closed_set::closed_set;

/// Column `connection.desired`, field `desired` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DesiredState {
    /// It is to be open.
    Open,
    /// An operator wants it closed until a restart is asked for.
    Terminated,
    /// It is to end for good, and its row to go.
    Removed,
}

closed_set!(DesiredState { Open = "open", Terminated = "terminated", Removed = "removed" });

/// Column `connection.state`, field `state` of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Not started, or ended by us and wanted again.
    Idle,
    /// On its way to an open socket.
    Connecting,
    /// Its socket is open.
    Open,
    /// An attempt failed, and the next one waits.
    BackingOff,
    /// The platform denies permission (403).
    Refused,
    /// An operator had it closed.
    Terminated,
}

closed_set!(ConnectionState {
    Idle = "idle",
    Connecting = "connecting",
    Open = "open",
    BackingOff = "backing_off",
    Refused = "refused",
    Terminated = "terminated",
});

/// Cause of a monitoring gap: column `gap.cause`, field `cause` of the API and of `presence.gap`. Also the
/// label `reason` of the count of reconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The socket ended, with a close frame or without.
    SocketClosed,
    /// The peer broke a rule of WebSocket.
    ProtocolViolation,
    /// No frame arrived for too long.
    Silence,
    /// The queue of changes had no room.
    Backpressure,
    /// Another program took the channel's place.
    Displaced,
    /// Another program took subscriptions from the channel.
    SubscriptionsTaken,
    /// The token that made the channel was revoked.
    TokenRevoked,
    /// The platform does not know the channel any more.
    ChannelGone,
    /// No process was running.
    BridgeDown,
    /// An operator had the connection closed.
    Terminated,
    /// The connection was not wanted any more, or not with these settings.
    Replaced,
    /// The bridge stopped.
    BridgeStopped,
    /// A failover of the database, or a restored copy, lost events.
    Database,
}

closed_set!(GapCause {
    SocketClosed = "socket_closed",
    ProtocolViolation = "protocol_violation",
    Silence = "silence",
    Backpressure = "backpressure",
    Displaced = "displaced",
    SubscriptionsTaken = "subscriptions_taken",
    TokenRevoked = "token_revoked",
    ChannelGone = "channel_gone",
    BridgeDown = "bridge_down",
    Terminated = "terminated",
    Replaced = "replaced",
    BridgeStopped = "bridge_stopped",
    Database = "database",
});

/// Why we close a connection, as the audit entry of its end names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCause {
    /// An operator wants it closed.
    Terminated,
    /// Its agent or source is not wanted any more, or it is made again with other settings.
    Replaced,
    /// Another connection has taken its place and covers the same agents.
    Rotated,
    /// The bridge stops.
    BridgeStopped,
}

closed_set!(CloseCause {
    Terminated = "terminated",
    Replaced = "replaced",
    Rotated = "rotated",
    BridgeStopped = "bridge_stopped",
});

impl CloseCause {
    /// Cause of the gap that begins with such a close; `None` if another connection covers its agents.
    #[must_use]
    pub const fn gap(self) -> Option<GapCause> {
        match self {
            Self::Terminated => Some(GapCause::Terminated),
            Self::Replaced => Some(GapCause::Replaced),
            Self::Rotated => None,
            Self::BridgeStopped => Some(GapCause::BridgeStopped),
        }
    }
}

/// Another connection is made when this part of the present one's life is over.
pub const ROTATE_AFTER: f64 = 0.75;

/// Why a connection is replaced while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotateCause {
    /// Most of its life upstream is over.
    Expiry,
    /// Upstream announced its end.
    Maintenance,
}

closed_set!(RotateCause { Expiry = "expiry", Maintenance = "maintenance" });

/// Why a frame is kept in quarantine instead of being an update. Also the label `reason` of the count of such
/// frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MalformedReason {
    /// A binary message.
    Binary,
    /// Text that is no JSON.
    NotJson,
    /// JSON other than an object.
    NotAnObject,
    /// Neither a topic nor an answer to a message of ours.
    NoTopic,
    /// An answer to a message of ours that we do not know.
    UnexpectedAnswer,
    /// A topic that we do not know.
    UnknownTopic,
    /// A topic of the platform about the channel that we do not know.
    UnknownSystemTopic,
    /// A topic of an agent without a body.
    NoEventBody,
    /// No part of the body could be read.
    NothingTold,
    /// An agent that the connection does not watch.
    UnwatchedAgent,
}

closed_set!(MalformedReason {
    Binary = "binary",
    NotJson = "not_json",
    NotAnObject = "not_an_object",
    NoTopic = "no_topic",
    UnexpectedAnswer = "unexpected_answer",
    UnknownTopic = "unknown_topic",
    UnknownSystemTopic = "unknown_system_topic",
    NoEventBody = "no_event_body",
    NothingTold = "nothing_told",
    UnwatchedAgent = "unwatched_agent",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_of_the_database_and_the_api() {
        assert_eq!(DesiredState::WORDS, ["open", "terminated", "removed"]);
        assert_eq!(
            ConnectionState::WORDS,
            ["idle", "connecting", "open", "backing_off", "refused", "terminated"]
        );
        for word in DesiredState::WORDS {
            assert_eq!(DesiredState::from_name(word).map(DesiredState::as_str), Some(*word));
        }
        for word in ConnectionState::WORDS {
            assert_eq!(ConnectionState::from_name(word).map(ConnectionState::as_str), Some(*word));
        }
        assert_eq!(ConnectionState::from_name("Open"), None);
    }

    #[test]
    fn causes_and_reasons_have_the_names_that_are_stored_and_counted() {
        assert_eq!(
            GapCause::WORDS,
            [
                "socket_closed",
                "protocol_violation",
                "silence",
                "backpressure",
                "displaced",
                "subscriptions_taken",
                "token_revoked",
                "channel_gone",
                "bridge_down",
                "terminated",
                "replaced",
                "bridge_stopped",
                "database",
            ]
        );
        assert_eq!(CloseCause::WORDS, ["terminated", "replaced", "rotated", "bridge_stopped"]);
        assert_eq!(RotateCause::WORDS, ["expiry", "maintenance"]);
        assert_eq!(
            MalformedReason::WORDS,
            [
                "binary",
                "not_json",
                "not_an_object",
                "no_topic",
                "unexpected_answer",
                "unknown_topic",
                "unknown_system_topic",
                "no_event_body",
                "nothing_told",
                "unwatched_agent",
            ]
        );
    }

    #[test]
    fn a_close_begins_a_gap_of_its_own_name_unless_another_connection_takes_over() {
        for cause in CloseCause::WORDS.iter().filter_map(|word| CloseCause::from_name(word)) {
            let expected = (cause != CloseCause::Rotated).then(|| cause.as_str());
            assert_eq!(cause.gap().map(GapCause::as_str), expected);
        }
    }
}
