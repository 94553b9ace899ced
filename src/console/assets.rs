//! Style sheet, modules and icon, inside of the binary. Their address names their content, so a browser asks
//! for each once.

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use sha2::{Digest, Sha256};

use super::ROOT;

/// Name, media type and content.
const ASSETS: &[(&str, &str, &str)] = &[
    ("console.css", "text/css; charset=utf-8", include_str!("assets/console.css")),
    ("console.js", JAVASCRIPT, include_str!("assets/console.js")),
    ("copies.js", JAVASCRIPT, include_str!("assets/copies.js")),
    ("keyboard.js", JAVASCRIPT, include_str!("assets/keyboard.js")),
    ("live.js", JAVASCRIPT, include_str!("assets/live.js")),
    ("morph.js", JAVASCRIPT, include_str!("assets/morph.js")),
    ("ping.js", JAVASCRIPT, include_str!("assets/ping.js")),
    ("times.js", JAVASCRIPT, include_str!("assets/times.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Changes with any of them: modules load one another.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = ASSETS.iter().fold(Sha256::new(), |hash, (_, _, content)| hash.chain_update(content));
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
});

/// The address of an asset.
pub fn address(name: &str) -> String {
    format!("{ROOT}/assets/{}/{name}", *VERSION)
}

/// Serves one. Under an address of another version it is not kept.
pub async fn serve(path: web::Path<(String, String)>) -> HttpResponse {
    let (version, name) = path.into_inner();
    let Some((_, media_type, content)) = ASSETS.iter().find(|(known, ..)| *known == name) else {
        return HttpResponse::NotFound().finish();
    };
    let kept = if version == *VERSION { "public, max-age=31536000, immutable" } else { "no-store" };
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, *media_type))
        .insert_header((header::CACHE_CONTROL, kept))
        .body(*content)
}
