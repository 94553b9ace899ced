//! Fields of forms that change something: with the value that was given, and what is wrong with it.

use maud::{Markup, html};

use crate::api::http::problem::ApiError;
use crate::console::Result;
use crate::domain::violation::Violation;

/// The fields of one form, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Inputs {
    wrong: Vec<Violation>,
    /// What is wrong with none of them in particular.
    refused: Option<String>,
}

impl Inputs {
    /// Fields of a form that breaks these rules.
    pub fn wrong(wrong: Vec<Violation>) -> Self {
        Self { wrong, refused: None }
    }

    /// Fields of a form that was refused as a whole for what whoever sent it can mend: a name that is taken,
    /// a state that does not allow it, a limit.
    ///
    /// # Errors
    /// Anything else that went wrong.
    pub fn refused(error: ApiError) -> Result<Self> {
        match error.status().as_u16() {
            409 | 422 => Ok(Self { wrong: Vec::new(), refused: Some(refusal(&error)) }),
            _ => Err(error),
        }
    }

    /// What is wrong with none of the fields in particular, and how many fields are wrong.
    pub fn summary(&self, known: &[&str]) -> Markup {
        let unplaced = self.wrong.iter().filter(|wrong| !known.iter().any(|name| is_about(wrong, name)));
        html! {
            @if let Some(refused) = &self.refused { p.alert role="alert" { (refused) } }
            @if !self.wrong.is_empty() {
                div.alert role="alert" {
                    p { "Nothing was changed: " (self.wrong.len()) " of the fields break a rule." }
                    @for wrong in unplaced { p { code { (wrong.field) } " " (wrong.what) "." } }
                }
            }
        }
    }

    /// A line of text.
    pub fn text(&self, name: &str, label: &str, value: &str, hint: &str) -> Markup {
        self.field(name, label, hint, &|described, invalid| {
            html! {
                input id=(name) name=(name) value=(value) spellcheck="false" autocomplete="off"
                    aria-describedby=[described] aria-invalid=[invalid];
            }
        })
    }

    /// A line of text that is not shown, and not filled in again.
    pub fn secret(&self, name: &str, label: &str, hint: &str) -> Markup {
        self.field(name, label, hint, &|described, invalid| {
            html! {
                input id=(name) name=(name) type="password" autocomplete="new-password"
                    aria-describedby=[described] aria-invalid=[invalid];
            }
        })
    }

    /// Several lines.
    pub fn lines(&self, name: &str, label: &str, value: &str, hint: &str) -> Markup {
        self.field(name, label, hint, &|described, invalid| {
            html! {
                textarea id=(name) name=(name) rows="3" spellcheck="false"
                    aria-describedby=[described] aria-invalid=[invalid] { (value) }
            }
        })
    }

    /// One of several values, each with what it is called.
    pub fn choice(
        &self,
        name: &str,
        label: &str,
        value: &str,
        hint: &str,
        choices: &[(&str, &str)],
    ) -> Markup {
        self.field(name, label, hint, &|described, invalid| {
            html! {
                select id=(name) name=(name) aria-describedby=[described] aria-invalid=[invalid] {
                    @for (each, shown) in choices { option value=(each) selected[*each == value] { (shown) } }
                }
            }
        })
    }

    /// Something to be ticked; `value` is what is sent if it is.
    pub fn tick(&self, name: &str, value: &str, label: &str, is_ticked: bool) -> Markup {
        html! {
            label.tick { input type="checkbox" name=(name) value=(value) checked[is_ticked]; span { (label) } }
        }
    }

    /// What is wrong with a field that is made of several inputs.
    pub fn complaints(&self, name: &str) -> Markup {
        html! { @for wrong in self.about(name) { p.wrong { (place(wrong, name)) (wrong.what) "." } } }
    }

    fn field(
        &self,
        name: &str,
        label: &str,
        hint: &str,
        input: &dyn Fn(Option<String>, Option<&'static str>) -> Markup,
    ) -> Markup {
        let is_wrong = self.about(name).next().is_some();
        let id = format!("{name}-about");
        let described = (is_wrong || !hint.is_empty()).then(|| id.clone());
        html! {
            div.entry {
                label for=(name) { (label) }
                (input(described, is_wrong.then_some("true")))
                @if is_wrong || !hint.is_empty() {
                    div id=(id) {
                        @for wrong in self.about(name) { p.wrong { (place(wrong, name)) (wrong.what) "." } }
                        @if !hint.is_empty() { p.hint { (hint) } }
                    }
                }
            }
        }
    }

    fn about(&self, name: &str) -> impl Iterator<Item = &Violation> {
        self.wrong.iter().filter(move |wrong| is_about(wrong, name))
    }
}

fn is_about(wrong: &Violation, name: &str) -> bool {
    wrong.field.split('/').next() == Some(name)
}

/// What stands before a complaint: which item of a list it is about.
fn place(wrong: &Violation, name: &str) -> String {
    let item = wrong.field.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')?.parse::<usize>().ok());
    item.map_or_else(|| "It ".to_owned(), |item| format!("Item {} ", item + 1))
}

fn refusal(error: &ApiError) -> String {
    let each = error.errors().iter().filter_map(|each| {
        Some(format!("{} {}", each["pointer"].as_str()?.trim_start_matches('/'), each["detail"].as_str()?))
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() { error.detail().to_owned() } else { format!("{}.", each.join("; ")) }
}

/// A list as people write it: by lines or commas.
pub fn list(text: &str) -> Vec<String> {
    text.split(['\n', ',', ';']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
