//! Every page of the console, found by following its links, and what is looked for on each of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;
use url::Url;

use crate::support::bridge::API_KEY;
use crate::support::browser::{Appearance, Browser};
use crate::support::site::{HOSTILE, MARKED, Site};

/// Kinds of pages that there must be; whatever else is linked is looked at too.
const PAGES: &[&str] = &[
    "/console/",
    "/console/agents/{id}?source",
    "/console/audit",
    "/console/audit/verifications",
    "/console/audit/{id}",
    "/console/board",
    "/console/configuration",
    "/console/connections",
    "/console/connections/{id}",
    "/console/connections/{id}/terminate",
    "/console/deliveries",
    "/console/deliveries/retry",
    "/console/deliveries/{id}",
    "/console/events",
    "/console/events/{id}",
    "/console/explain",
    "/console/explain?event&webhook",
    "/console/gaps",
    "/console/keys",
    "/console/keys/new",
    "/console/keys/{id}",
    "/console/keys/{id}/revoke",
    "/console/quarantine",
    "/console/quarantine/{id}",
    "/console/recoveries",
    "/console/rejected-topics",
    "/console/sources",
    "/console/sources/new",
    "/console/sources/{id}",
    "/console/sources/{id}/delete",
    "/console/sources/{id}/edit",
    "/console/tenants",
    "/console/webhooks",
    "/console/webhooks/new",
    "/console/webhooks/{id}",
    "/console/webhooks/{id}/access",
    "/console/webhooks/{id}/delete",
    "/console/webhooks/{id}/edit",
    "/console/webhooks/{id}/recover",
    "/console/webhooks/{id}/rotate",
];
/// Pages about one thing that are looked at of each kind; the second one in one appearance.
const OF_A_KIND: usize = 2;
/// Rules that a page which keeps all of them can break in other colours, or where it is narrow.
const OF_COLOURS: &[&str] = &["color-contrast", "link-in-text-block"];
const OF_WIDTH: &[&str] = &["scrollable-region-focusable", "target-size"];

/// What was found on the way through all pages.
#[derive(Default)]
struct Walk {
    /// Addresses by the kind of their page.
    pages: BTreeMap<String, Vec<String>>,
    /// Addresses that forms send to.
    actions: BTreeSet<String>,
    /// Pages that show the hostile text.
    showing: BTreeSet<String>,
    wrong: Vec<String>,
}

/// An address with ids replaced, and the names of what its query gives.
fn kind(url: &Url) -> String {
    let segments: Vec<_> =
        url.path().split('/').map(|s| if s.contains(is_digit) { "{id}" } else { s }).collect();
    let given: BTreeSet<_> =
        url.query_pairs().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.into_owned()).collect();
    let mut kind = segments.join("/");
    for name in given {
        kind.push_str(&format!("{}{name}", if kind.contains('?') { "&" } else { "?" }));
    }
    kind
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

impl Walk {
    /// Follows links from the first page until each kind of page was looked at.
    async fn through_all(browser: &Browser) -> Self {
        let (mut walk, mut waiting) = (Self::default(), VecDeque::from(["/console".to_owned()]));
        while let Some(linked) = waiting.pop_front() {
            if walk.knows(&browser.url().await.join(&linked).unwrap()) {
                continue;
            }
            browser.goto(&linked).await;
            let url = browser.url().await;
            // A link may lead on to another page.
            if walk.knows(&url) {
                continue;
            }
            let address = address_of(&url);
            walk.pages.entry(kind(&url)).or_default().push(address.clone());
            let links = "return [...document.querySelectorAll('a[href]')].map(link => link.href)";
            waiting
                .extend(strings(&browser.execute(links).await).iter().filter_map(|link| inside(&url, link)));
            walk.look(browser, &address).await;
        }
        walk
    }

    /// Whether this address, or enough of its kind, was looked at.
    fn knows(&self, url: &Url) -> bool {
        let known = self.pages.get(&kind(url));
        let enough = if kind(url).contains("{id}") { OF_A_KIND } else { 1 };
        known.is_some_and(|known| known.len() >= enough || known.contains(&address_of(url)))
    }

    /// Looks at the page that is shown.
    async fn look(&mut self, browser: &Browser, address: &str) {
        let is_first = self.pages[&kind(&browser.url().await)].len() == 1;
        let mut wrong = |what: String| self.wrong.push(format!("{address}: {what}"));
        for appearance in Appearance::ALL.into_iter().take(if is_first { 3 } else { 1 }) {
            browser.appear(appearance).await;
            let rules = match appearance {
                Appearance::Light => &[],
                Appearance::Dark => OF_COLOURS,
                Appearance::Narrow => OF_WIDTH,
            };
            browser
                .breaches_of(rules)
                .await
                .into_iter()
                .for_each(|breach| wrong(format!("{appearance:?}: {breach}")));
            let overflow = browser.overflow().await;
            if overflow > 0 {
                wrong(format!("{appearance:?}: {overflow} px wider than its window"));
            }
            let name = address.trim_start_matches('/').replace(['/', '?', '&', '='], "_");
            browser.screenshot(&format!("{name}-{appearance:?}").to_lowercase()).await;
        }
        if is_first {
            browser.appear(Appearance::Light).await;
        }
        browser.faults().await.into_iter().for_each(&mut wrong);
        if browser.count(MARKED).await > 0 {
            wrong("a text of somebody else has become an element".to_owned());
        }
        if browser.text().await.contains(HOSTILE) {
            self.showing.insert(kind(&browser.url().await));
        }
        let forms =
            "return [...document.forms].filter(form => form.method === 'post').map(form => form.action)";
        let forms = strings(&browser.execute(forms).await);
        self.actions.extend(forms.iter().map(|action| address_of(&Url::parse(action).unwrap())));
    }

    fn addresses(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pages.iter().flat_map(|(kind, all)| all.iter().map(|address| (kind.as_str(), address.as_str())))
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn address_of(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// The address of a link, if it leads to a page of the console.
fn inside(page: &Url, link: &str) -> Option<String> {
    let url = Url::parse(link).ok()?;
    (url.origin() == page.origin() && url.path().starts_with("/console")).then(|| address_of(&url))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_sound_for_everybody_and_shows_what_others_wrote_as_text() {
    let site = Site::start().await;
    let Some(browser) = Browser::start(&site.world.bridge.url).await else { return };
    browser.log_in(API_KEY).await;
    let walk = Walk::through_all(&browser).await;
    assert!(walk.wrong.is_empty(), "{}", walk.wrong.join("\n"));
    let missing: Vec<_> = PAGES.iter().filter(|page| !walk.pages.contains_key(**page)).collect();
    assert!(missing.is_empty(), "not linked: {missing:?} in {:#?}", walk.pages.keys());
    assert!(walk.showing.contains("/console/board"), "{:#?}", walk.showing);
    what_cannot_be_shown_is_said_on_a_sound_page(&browser).await;
    a_reader_has_no_buttons(&site, &browser, &walk).await;
    another_tenant_sees_nothing(&site, &browser, &walk).await;
}

/// Chromium itself notes in the console that a page was answered with an error; there is nothing else there.
async fn what_cannot_be_shown_is_said_on_a_sound_page(browser: &Browser) {
    let wrong = urlencoded(HOSTILE);
    for (address, status) in [
        (format!("/console/deliveries?state={wrong}&since={wrong}"), 400),
        (format!("/console/board?connected={wrong}"), 400),
        (format!("/console/webhooks/{wrong}"), 404),
        ("/console/nowhere".to_owned(), 404),
    ] {
        browser.goto(&address).await;
        assert_eq!(browser.breaches().await, BTreeSet::new(), "{address}");
        assert_eq!(browser.count(MARKED).await, 0, "{address}");
        let faults = browser.faults().await;
        assert!(
            faults.len() == 1 && faults[0].contains(&format!("a status of {status}")),
            "{address}: {faults:#?}"
        );
        browser.appear(Appearance::Narrow).await;
        assert_eq!(browser.overflow().await, 0, "{address}");
        browser.appear(Appearance::Light).await;
    }
}

fn urlencoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A key that may only read is offered nothing that it may not do, and is refused it when it asks all the
/// same.
async fn a_reader_has_no_buttons(site: &Site, browser: &Browser, walk: &Walk) {
    browser.log_in(&site.reader).await;
    let forms = r#"form[method="post"]:not([action="/console/logout"])"#;
    let cookies = browser.cookies().await;
    for (_, address) in walk.addresses() {
        let page = site.ask(&cookies, "GET", address).await.text();
        let forms =
            page.matches(r#"method="post""#).count() - page.matches(r#"action="/console/logout""#).count();
        assert_eq!(forms, 0, "{address}");
    }
    browser.goto("/console/webhooks").await;
    assert_eq!((browser.count(forms).await, browser.count(MARKED).await), (0, 0));
    for action in walk.actions.iter().filter(|action| *action != "/console/logout") {
        assert_eq!(site.ask(&cookies, "POST", action).await.status, 403, "{action}");
    }
}

/// Addresses of what one tenant has lead nowhere for another one, whose lists do not hold it either.
async fn another_tenant_sees_nothing(site: &Site, browser: &Browser, walk: &Walk) {
    browser.log_in(&site.other).await;
    let cookies = browser.cookies().await;
    for (kind, address) in walk.addresses() {
        let answer = site.ask(&cookies, "GET", address).await;
        if kind.contains("{id}") {
            assert_eq!(answer.status, 404, "{address}");
        }
        // What is asked for stands in the form again.
        for theirs in ["agent-1", "/good", "data-marker"].iter().filter(|text| !address.contains(**text)) {
            assert!(!answer.text().contains(theirs), "{address} holds {theirs}: {}", answer.text());
        }
    }
    for action in walk.actions.iter().filter(|action| action.contains(is_digit)) {
        let status = site.ask(&cookies, "POST", action).await.status;
        assert!([404, 422].contains(&status), "{action} answered {status}");
    }
}
