//! Receivers and databases show certificates of whatever kind their authorities issue; nginx shows them here,
//! and openssl issues them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::neighbour::{Neighbour, free_port, listens, set_up_nginx};
use crate::support::{World, eventually};

/// A way of nginx to show itself.
struct Kind {
    name: &'static str,
    /// Of the key, for `openssl genpkey`.
    key: &'static [&'static str],
    /// More for `openssl req`.
    request: &'static [&'static str],
    /// Lines of nginx' server.
    settings: &'static str,
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const RSA_4096: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"];
const RSA_1024: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
const LOCALHOST: &[&str] = &["-addext", "subjectAltName=DNS:localhost"];

const fn kind(name: &'static str, key: &'static [&'static str]) -> Kind {
    Kind { name, key, request: LOCALHOST, settings: "" }
}

/// Each is signed by an authority of P-521.
const TAKEN: [Kind; 12] = [
    kind("p256", P256),
    kind("p384", P384),
    kind("p521", P521),
    kind("ed25519", &["-algorithm", "ED25519"]),
    kind("rsa2048", RSA_2048),
    kind("rsa4096", RSA_4096),
    Kind { name: "p521-tls12", key: P521, request: LOCALHOST, settings: "ssl_protocols TLSv1.2;" },
    Kind { name: "p521-tls13", key: P521, request: LOCALHOST, settings: "ssl_protocols TLSv1.3;" },
    Kind { name: "rsa-tls12", key: RSA_2048, request: LOCALHOST, settings: "ssl_protocols TLSv1.2;" },
    Kind { name: "rsa-tls13", key: RSA_2048, request: LOCALHOST, settings: "ssl_protocols TLSv1.3;" },
    Kind {
        name: "curve-tls12",
        key: P256,
        request: LOCALHOST,
        settings: "ssl_protocols TLSv1.2; ssl_ecdh_curve secp521r1:P-256;",
    },
    Kind {
        name: "curve-tls13",
        key: RSA_2048,
        request: LOCALHOST,
        settings: "ssl_protocols TLSv1.3; ssl_ecdh_curve secp521r1;",
    },
];

/// With a word of the reason that is told.
const REFUSED: [(Kind, &str); 3] = [
    (kind("rsa1024", RSA_1024), "RSA"),
    (Kind { name: "cn-only", key: P256, request: &[], settings: "" }, "name"),
    (
        Kind {
            name: "tls11",
            key: RSA_2048,
            request: LOCALHOST,
            settings: "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;",
        },
        "TLS 1.2",
    ),
];

fn openssl(dir: &Path, arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
    assert!(ran.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn generate(dir: &Path, key: &[&str], file: &str) {
    openssl(dir, &[&["genpkey"], key, &["-out", file]].concat());
}

/// nginx with a server for each kind, which answers 204.
struct Servers {
    program: Neighbour,
    ports: Vec<u16>,
}

/// Issues certificates of these kinds in a folder; gives nginx' servers that show them.
fn issue(dir: &Path, kinds: &[&Kind], ports: &[u16]) -> String {
    generate(dir, P521, "ca.key");
    let authority =
        ["req", "-x509", "-key", "ca.key", "-subj", "/CN=authority", "-days", "2", "-out", "ca.pem"];
    openssl(dir, &authority);
    let mut servers = String::new();
    for (Kind { name, key, request, settings }, port) in kinds.iter().zip(ports) {
        generate(dir, key, &format!("{name}.key"));
        let (own, out) = (format!("{name}.key"), format!("{name}.pem"));
        let issue =
            ["req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-key", &own, "-subj", "/CN=localhost"];
        let leaf = ["-days", "2", "-addext", "basicConstraints=critical,CA:FALSE", "-out", &out];
        openssl(dir, &[&issue[..], &leaf, request].concat());
        servers += &format!(
            "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {name}.pem; ssl_certificate_key {name}.key; \
             {settings} location / {{ return 204; }} }}\n"
        );
    }
    servers
}

impl Servers {
    /// `None` where nginx or openssl cannot be had.
    async fn of(kinds: &[&Kind]) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: openssl cannot be had here");
            return None;
        }
        let mut ports: Vec<u16> = kinds.iter().skip(1).map(|_| free_port()).collect();
        let program = Neighbour::start("nginx", |command, dir, port| {
            ports.insert(0, port);
            set_up_nginx(command, dir, &issue(dir, kinds, &ports));
            // OpenSSL would not show what is refused here.
            let lax = "openssl_conf = all\n[all]\nssl_conf = modules\n[modules]\nsystem_default = lax\n\
                       [lax]\nCipherString = DEFAULT@SECLEVEL=0\nMinProtocol = TLSv1\n";
            std::fs::write(dir.join("openssl.cnf"), lax).unwrap();
            command.env("OPENSSL_CONF", dir.join("openssl.cnf"));
        })
        .await?;
        for port in &ports {
            listens(*port).await;
        }
        Some(Self { program, ports })
    }

    /// A bridge that trusts the authority, with one webhook for each server, all told of one change.
    async fn with_webhooks(&self) -> (World, Vec<String>) {
        let trusted = self.program.dir.path().join("ca.pem");
        let variables = [("SSL_CERT_FILE", trusted.to_str().unwrap())];
        let world = World::with_options(&["ann"], Default::default(), &variables).await;
        let mut webhooks = Vec::new();
        for port in &self.ports {
            let url = format!("https://localhost:{port}/");
            let answer = world.bridge.post("/v1/webhooks", &json!({"url": url})).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            webhooks.push(answer.json()["id"].as_str().unwrap().to_owned());
        }
        world.genesys.set_presence("ann", "BUSY").await;
        (world, webhooks)
    }
}

/// The entry of the first attempt at a webhook.
async fn attempt(world: &World, webhook: &str) -> Value {
    eventually("an attempt is on record", || async {
        let entries = world.audit("DELIVERY_ATTEMPT").await;
        entries.into_iter().rfind(|entry| entry["webhook_id"] == webhook)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_algorithm_of_current_authorities_is_taken() {
    let kinds: Vec<_> = TAKEN.iter().collect();
    let Some(servers) = Servers::of(&kinds).await else { return };
    let (world, webhooks) = servers.with_webhooks().await;
    for (kind, webhook) in kinds.iter().zip(&webhooks) {
        let entry = attempt(&world, webhook).await;
        assert_eq!(entry["outcome"], "ok", "{}: {entry}", kind.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_on_purpose_is_refused_with_its_reason() {
    let kinds: Vec<_> = REFUSED.iter().map(|(kind, _)| kind).collect();
    let Some(servers) = Servers::of(&kinds).await else { return };
    let (world, webhooks) = servers.with_webhooks().await;
    for ((kind, word), webhook) in REFUSED.iter().zip(&webhooks) {
        let entry = attempt(&world, webhook).await;
        assert_eq!(entry["outcome"], "tls", "{}: {entry}", kind.name);
        let reason = entry["data"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(word), "{}: {entry}", kind.name);
    }
}
