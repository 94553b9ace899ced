//! Every page of the console, found by following its links, and what is looked for on each of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;
use url::Url;

use crate::support::bridge::API_KEY;
use crate::support::browser::{Appearance, Browser};
use crate::support::site::{HOSTILE, MARKED, Site};

/// Kinds of pages that there must be; whatever else is linked is looked at too.
const PAGES: &[&str] = &[
    "/console/board",
    "/console/events",
    "/console/events/{id}",
    "/console/deliveries",
    "/console/deliveries/{id}",
    "/console/explain",
    "/console/explain?event&webhook",
    "/console/gaps",
];
/// Pages of a kind that are looked at.
const OF_A_KIND: usize = 2;

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
        known.is_some_and(|known| known.len() >= OF_A_KIND || known.contains(&address_of(url)))
    }

    /// Looks at the page that is shown.
    async fn look(&mut self, browser: &Browser, address: &str) {
        let mut wrong = |what: String| self.wrong.push(format!("{address}: {what}"));
        for appearance in Appearance::ALL {
            browser.appear(appearance).await;
            browser
                .breaches()
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
        browser.appear(Appearance::Light).await;
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
    a_reader_has_no_buttons(&site, &browser, &walk).await;
    another_tenant_sees_nothing(&site, &browser, &walk).await;
}

/// A key that may only read is offered nothing that it may not do, and is refused it when it asks all the
/// same.
async fn a_reader_has_no_buttons(site: &Site, browser: &Browser, walk: &Walk) {
    browser.log_in(&site.reader).await;
    let forms = r#"form[method="post"]:not([action="/console/logout"])"#;
    for (_, address) in walk.addresses() {
        browser.goto(address).await;
        assert_eq!(browser.count(forms).await, 0, "{address}");
        assert_eq!(browser.count(MARKED).await, 0, "{address}");
    }
    let cookies = browser.cookies().await;
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
