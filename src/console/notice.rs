//! What an action has just done, said by the page that the browser goes to then: it travels in a cookie, so
//! that addresses stay as they are.

use actix_web::HttpRequest;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use url::form_urlencoded;

use super::ROOT;

const NAME: &str = "bridge_console_notice";
/// If no page comes, it is forgotten.
const LIVES: Duration = Duration::seconds(30);

/// The cookie that carries a sentence.
pub fn of(sentence: &str) -> Cookie<'static> {
    let value: String = form_urlencoded::byte_serialize(sentence.as_bytes()).collect();
    Cookie::build(NAME, value).path(ROOT).max_age(LIVES).http_only(true).same_site(SameSite::Strict).finish()
}

/// The sentence that a request brings.
pub fn brought_by(request: &HttpRequest) -> Option<String> {
    let cookie = request.cookie(NAME)?;
    let (sentence, _) = form_urlencoded::parse(cookie.value().as_bytes()).next()?;
    Some(sentence.into_owned()).filter(|sentence| !sentence.is_empty())
}

/// Takes the sentence back, once it is shown.
pub fn shown() -> Cookie<'static> {
    Cookie::build(NAME, "").path(ROOT).max_age(Duration::ZERO).finish()
}
