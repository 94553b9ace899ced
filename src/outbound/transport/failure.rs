//! What errors of the libraries below mean: the class of the outcome, the reason in words, and whether the
//! request may be made again at once. Words are ours or a library's fixed ones, never the receiver's.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use time::OffsetDateTime;

use crate::clock::rfc3339;
use crate::domain::delivery::outcome::Outcome;
use crate::domain::delivery::reason::Failure;
use crate::outbound::transport::connector::{ConnectError, TooMuch};
use crate::outbound::transport::guard::GuardError;
use crate::outbound::transport::pool::Line;

/// Names of a certificate that are told at most.
const NAMES_MAX: usize = 5;

/// The deadline came first. `connected`: there was a connection by then.
pub fn timed_out(connected: bool) -> Failure {
    let reason = if connected { "no answer by the deadline" } else { "no connection by the deadline" };
    Failure::because(Outcome::TimedOut, reason)
}

/// Why there is no connection.
pub fn of_connect(error: &ConnectError) -> Failure {
    match error {
        ConnectError::Guard(GuardError::Refused) => Outcome::TargetRefused.into(),
        ConnectError::Guard(error @ GuardError::NoAddress) => {
            Failure::because(Outcome::NotResolved, &error.to_string())
        }
        ConnectError::Guard(GuardError::NotResolved(error)) => {
            Failure::because(Outcome::NotResolved, &error.to_string())
        }
        ConnectError::NotConnected(error) => Failure::because(Outcome::NotConnected, &of_dial(error)),
        ConnectError::TimedOut => timed_out(false),
        ConnectError::Tls(error) => Failure::because(Outcome::TlsFailed, &of_tls(error)),
        ConnectError::Http(error) => Failure::because(Outcome::Disconnected, &of_broken(error)),
    }
}

/// Why there is no answer over this connection.
pub fn of_exchange(error: &hyper::Error, line: &Line) -> Failure {
    if error.is_parse() {
        let status = line.heard().status();
        return Failure::because(Outcome::BadAnswer { status }, &error.to_string());
    }
    Failure::because(Outcome::Disconnected, &of_broken(error))
}

/// Whether the receiver cannot mind if it is asked once more: the connection was in use before and broke
/// without a byte of an answer, as it does when the other end closes it at the moment that we use it; or the
/// receiver said that it did not look at the request.
pub fn may_be_made_again(error: &hyper::Error, line: &Line) -> bool {
    was_refused_unread(error)
        || is_leaving(error)
        || (line.is_reused() && line.heard().is_nothing() && broke(error))
}

/// Over HTTP/2 one stream can end while the connection goes on.
pub fn is_of_stream(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error).is_some_and(h2::Error::is_reset)
}

/// Over HTTP/2 a receiver can say that it did not look at a request, though the connection goes on.
fn was_refused_unread(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error)
        .is_some_and(|http2| http2.is_remote() && http2.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Or that it came too late for a connection that the receiver closes.
fn is_leaving(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error).is_some_and(|http2| {
        http2.is_remote() && http2.is_go_away() && http2.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// The whole connection ended, and not by our doing.
fn broke(error: &hyper::Error) -> bool {
    let by_us = error.is_parse() || error.is_user() || says_too_much(error);
    let http2 = cause::<h2::Error>(error);
    !by_us && http2.is_none_or(|http2| http2.is_io() || (http2.is_go_away() && http2.is_remote()))
}

fn says_too_much(error: &hyper::Error) -> bool {
    let io = cause::<h2::Error>(error).and_then(h2::Error::get_io).or_else(|| cause::<io::Error>(error));
    io.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<TooMuch>())
}

fn of_broken(error: &hyper::Error) -> String {
    if says_too_much(error) {
        return TooMuch.to_string();
    }
    if let Some(http2) = cause::<h2::Error>(error) {
        let what = if http2.is_go_away() { "connection" } else { "stream" };
        let whose = if http2.is_remote() { "by the receiver" } else { "for what it sent" };
        if let Some(reason) = http2.reason() {
            return format!("HTTP/2 {what} ended {whose}: {}", reason.description());
        }
    }
    let io = cause::<h2::Error>(error).and_then(h2::Error::get_io).or_else(|| cause::<io::Error>(error));
    match io.map(io::Error::kind) {
        Some(ErrorKind::ConnectionReset) => "the connection was reset before an answer".to_owned(),
        Some(kind) => format!("the connection broke before an answer: {kind}"),
        None if error.is_timeout() => "the connection went silent".to_owned(),
        None => "the connection was closed before an answer".to_owned(),
    }
}

fn of_dial(error: &io::Error) -> String {
    // Only our own errors hold a text: those of the egress proxy.
    if let Some(ours) = error.get_ref() {
        return ours.to_string();
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to the host".to_owned(),
        ErrorKind::TimedOut => "timed out".to_owned(),
        ErrorKind::PermissionDenied => "not permitted on this machine".to_owned(),
        kind => kind.to_string(),
    }
}

fn of_tls(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            ErrorKind::UnexpectedEof => "the connection was closed in the handshake".to_owned(),
            ErrorKind::ConnectionReset => "the connection was reset in the handshake".to_owned(),
            ErrorKind::InvalidInput => "the host is no name that a certificate can have".to_owned(),
            kind => format!("the handshake broke off: {kind}"),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(error) => of_certificate(error),
        rustls::Error::PeerIncompatible(error) => of_incompatible(error),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
            "what the receiver speaks is no TLS".to_owned()
        }
        rustls::Error::NoCertificatesPresented => "the receiver shows no certificate".to_owned(),
        other => other.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    let at = |time: &rustls::pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| "a time unknown".to_owned(), rfc3339)
    };
    match error {
        E::Expired => "its certificate has expired".to_owned(),
        E::ExpiredContext { not_after, .. } => format!("its certificate expired at {}", at(not_after)),
        E::NotValidYet => "its certificate is not valid yet".to_owned(),
        E::NotValidYetContext { not_before, .. } => {
            format!("its certificate is valid only from {}", at(not_before))
        }
        E::Revoked => "its certificate was revoked".to_owned(),
        E::UnknownIssuer => "the issuer of its certificate is unknown here: the authority is not trusted, \
                             or the receiver does not send an intermediate certificate"
            .to_owned(),
        E::NotValidForName => "its certificate is for another name".to_owned(),
        E::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(NAMES_MAX).map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("its certificate is for {names}, not for {}", expected.to_str())
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "its certificate is not made for servers".to_owned()
        }
        E::BadSignature => {
            "a signature does not verify, as none does of an RSA key below 2048 bits".to_owned()
        }
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate is signed with an algorithm that is not supported".to_owned()
        }
        E::BadEncoding => "its certificate cannot be read".to_owned(),
        other => format!("its certificate is not valid: {other}"),
    }
}

/// A name of a certificate without the kind that the library writes around it.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn of_incompatible(error: &PeerIncompatible) -> String {
    match error {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => OLD_VERSION.to_owned(),
        PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoSignatureSchemesInCommon => NOTHING_IN_COMMON.to_owned(),
        other => format!("the receiver's TLS does not fit: {other:?}"),
    }
}

const OLD_VERSION: &str = "the receiver speaks neither TLS 1.2 nor 1.3";
const NOTHING_IN_COMMON: &str = "the receiver and we have no TLS algorithms in common";

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::ProtocolVersion => OLD_VERSION.to_owned(),
        A::HandshakeFailure | A::InsufficientSecurity => {
            format!("{NOTHING_IN_COMMON}, or it wants a client certificate (its alert: {alert:?})")
        }
        A::CertificateRequired => "the receiver wants a client certificate".to_owned(),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied => format!("the receiver refuses our client certificate (its alert: {alert:?})"),
        A::UnrecognisedName => "the receiver knows no such name".to_owned(),
        other => format!("the receiver broke the handshake off (its alert: {other:?})"),
    }
}

/// The first of an error's causes that is of this type.
fn cause<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(inner) = next {
        if let Some(found) = inner.downcast_ref::<E>() {
            return Some(found);
        }
        next = inner.source();
    }
    None
}
