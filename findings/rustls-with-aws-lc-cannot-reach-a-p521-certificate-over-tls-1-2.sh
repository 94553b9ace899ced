#!/usr/bin/env bash
# rustls with AWS-LC: checks signatures on P-521, but does not reach an OpenSSL server that has such a certificate over TLS 1.2.
#
# Seen with rustls 0.23.46 (provider aws-lc-rs 1.19.0) and openssl s_server 3.0.19. In TLS 1.2 the client's list of curves
# speaks for certificates, too: OpenSSL shows a P-521 certificate only to a client that lists P-521, even where the keys are
# exchanged over another curve. The provider lists P-521 nowhere, since it exchanges no keys over it. The same certificate
# comes through over TLS 1.3, where curves of certificates have a list of their own. So "P-521 is supported" depends on the
# version of TLS; a client that wants both adds a key exchange over P-521 to the provider.
#
# Needs cargo, a C compiler and openssl. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
server=""
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE 2>/dev/null

mkdir -p "$dir/crate/src"
cat >"$dir/crate/Cargo.toml" <<'TOML'
[package]
name = "p521-over-tls-1-2"
version = "0.1.0"
edition = "2021"

[dependencies]
rustls = { version = "=0.23.46", default-features = false, features = ["aws_lc_rs", "std", "tls12"] }
aws-lc-rs = { version = "=1.19.0", default-features = false, features = ["aws-lc-sys"] }
TOML
cat >"$dir/crate/src/main.rs" <<'RUST'
use std::{net::TcpStream, sync::Arc};

use rustls::pki_types::{pem::PemObject, CertificateDer};
use rustls::{crypto::aws_lc_rs, version, ClientConfig, ClientConnection, RootCertStore};

fn main() {
    let (cert, port) = (std::env::args().nth(1).unwrap(), std::env::args().nth(2).unwrap());
    for (name, version) in [("TLS 1.2", &version::TLS12), ("TLS 1.3", &version::TLS13)] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&cert).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut tcp = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let mut shaken = Ok(());
        while tls.is_handshaking() && shaken.is_ok() {
            shaken = tls.complete_io(&mut tcp).map(|_| ());
        }
        println!("{name}: {}", shaken.map_or_else(|error| error.to_string(), |()| "connected".to_owned()));
    }
}
RUST
cargo build --quiet --manifest-path "$dir/crate/Cargo.toml" --target-dir "$dir/target"
port=$((20000 + RANDOM % 10000))
openssl s_server -accept $port -cert "$dir/cert.pem" -key "$dir/key.pem" -quiet >/dev/null 2>&1 &
server=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
said=$("$dir/target/debug/p521-over-tls-1-2" "$dir/cert.pem" $port)
echo "$said"
grep -q '^TLS 1.2: .*HandshakeFailure' <<<"$said" && grep -q '^TLS 1.3: connected' <<<"$said"
