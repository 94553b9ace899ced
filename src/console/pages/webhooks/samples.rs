//! A new secret, shown once, with receivers that verify a POST with it: small programs that run as they are.
//! `tests/it/console_samples.rs` runs those whose languages are there against a POST of ours.

use maud::{Markup, html};

use crate::domain::delivery::signature::SigningKey;
use crate::domain::webhook::WebhookSettings;

/// One language: its name, the name of the file, how it is run, and the file.
const SAMPLES: &[(&str, &str, &str, &str)] = &[
    ("Python", "receiver.py", "python receiver.py", include_str!("samples/receiver.py")),
    ("JavaScript", "receiver.mjs", "node receiver.mjs", include_str!("samples/receiver.mjs")),
    ("Java", "Receiver.java", "java Receiver.java", include_str!("samples/Receiver.java")),
    ("C#", "Program.cs", "dotnet run", include_str!("samples/Receiver.cs")),
    ("PHP", "receiver.php", "php -S 0.0.0.0:8080 receiver.php", include_str!("samples/receiver.php")),
];

/// The secret, and what to do with it.
pub fn with_secret(secret: &SigningKey, settings: &WebhookSettings, public_key: Option<&str>) -> Markup {
    let secret = secret.to_text();
    html! {
        section.card {
            h2 { "Its secret" }
            p.warning { "This is shown once. Put it where your receiver finds it; nobody can ask for it again." }
            pre data-copy data-secret { (secret) }
            p { "For a shell:" }
            pre data-copy { "export WEBHOOK_SECRET=" (secret) }
            @if let Some(key) = public_key {
                p { "The public key of its v1a signatures, which is shown again on its page: " }
                pre data-copy { (key) }
            }
        }
        h2 { "A receiver that verifies" }
        @if settings.signatures.v1 {
            p { "Each of these runs as it is, with " code { "WEBHOOK_SECRET" } " in its environment, and listens at port 8080." }
            @for (language, file, run, code) in SAMPLES {
                details.sample open[*language == "Python"] {
                    summary { (language) }
                    p { "Save it as " code { (file) } " and run " code { (run) } ":" }
                    pre data-copy { (code) }
                }
            }
        } @else {
            p { "This webhook signs with v1a alone: ed25519 over " code { "{webhook-id}.{webhook-timestamp}.{body}" }
                ", to be verified with the public key." }
        }
    }
}
