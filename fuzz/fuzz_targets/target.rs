#![no_main]
//! The parser that judges an address and the one that dials it must read the same host and port.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(url) = presence_bridge::fuzzing::target(bytes) else { return };
    let uri: http::Uri = url.as_str().parse().expect("the dialler reads it");
    let authority = uri.authority().expect("with a host");
    assert!(!authority.as_str().contains('@'));
    assert_eq!(Some(authority.host()), url.host_str());
    assert_eq!(authority.port_u16(), url.port());
    assert_eq!(uri.scheme_str(), Some(url.scheme()));
});
