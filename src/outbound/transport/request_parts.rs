//! Parts of a request that registered settings become: the address, credentials, headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::Uri;
use hyper::header::HeaderValue;
use url::Url;

/// Address of a request. Two parsers must agree about host and port, or nothing is sent.
pub(in crate::outbound::transport) fn address(text: &str) -> Option<Uri> {
    let url = Url::parse(text).ok()?;
    let uri: Uri = url.as_str().parse().ok()?;
    let agree = uri.host()?.eq_ignore_ascii_case(url.host_str()?)
        && uri.port_u16() == url.port()
        && uri.scheme_str() == Some(url.scheme());
    // What stands before an @ would be sent as part of the name over HTTP/2.
    let plain = url.username().is_empty() && url.password().is_none();
    (agree && plain && matches!(url.scheme(), "http" | "https")).then_some(uri)
}

/// Credentials of RFC 7617.
pub(in crate::outbound::transport) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    hidden(&format!("Basic {}", BASE64.encode(format!("{username}:{password}"))))
}

/// A value that no `Debug` shows, and no header compression remembers.
pub(in crate::outbound::transport) fn hidden(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
