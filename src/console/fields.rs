//! Fields of forms: each with its label, what is to be said about it, and what was wrong with what was typed.
//! A field has the name of the setting that it sets, as the REST API points to it: `batch/max_items`.

use maud::{Markup, html};
use serde_json::Value;

use super::Result;
use crate::api::http::problem::ApiError;
use crate::domain::violation::Violation;

/// What was wrong with a form that was sent; nothing at first.
#[derive(Debug, Default)]
pub struct Fields {
    wrong: Vec<Violation>,
    /// What is wrong with the form as a whole.
    refused: Option<String>,
}

/// What the rules have made of a form, or its fields with all that is wrong: what could not be read, and what
/// the rules say of the rest.
pub fn checked<T>(mut unread: Vec<Violation>, checked: Result<T, Vec<Violation>>) -> Result<T, Fields> {
    match checked {
        Ok(checked) if unread.is_empty() => Ok(checked),
        checked => {
            let mut rules = checked.err().unwrap_or_default();
            // What could not be read was told already; the rules would only repeat it.
            rules.retain(|rule| !unread.iter().any(|told| told.field == rule.field));
            unread.append(&mut rules);
            Err(Fields { wrong: unread, refused: None })
        }
    }
}

/// What stands at a field.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Name of the setting.
    pub name: &'a str,
    /// What people call it.
    pub label: &'a str,
    /// What it does, and what happens without it; may be empty.
    pub hint: &'a str,
}

/// A field of this name, called this, of which this is to be said.
pub const fn field<'a>(name: &'a str, label: &'a str, hint: &'a str) -> Field<'a> {
    Field { name, label, hint }
}

/// Id of an element for a name, which may hold slashes.
fn id(name: &str) -> String {
    format!("field-{}", name.replace('/', "-"))
}

impl Fields {
    /// Fields of a form with one fault.
    pub fn wrong(fault: Violation) -> Self {
        Self { wrong: vec![fault], refused: None }
    }

    /// What an error says of the fields, or of the form as a whole.
    pub fn of(error: &ApiError) -> Self {
        let fault = |each: &Value| {
            let field = each["pointer"].as_str().or(each["parameter"].as_str())?;
            Some(Violation::new(field.trim_start_matches('/'), each["detail"].as_str()?))
        };
        let wrong: Vec<_> = error.errors().iter().filter_map(fault).collect();
        Self { refused: wrong.is_empty().then(|| error.detail().to_owned()), wrong }
    }

    /// Fields of a form that was refused for what whoever sent it can mend: a name that is taken, a state that
    /// does not allow it, a limit.
    ///
    /// # Errors
    /// Anything else that went wrong.
    pub fn refused(error: ApiError) -> Result<Self> {
        if matches!(error.status().as_u16(), 409 | 422) { Ok(Self::of(&error)) } else { Err(error) }
    }

    /// What is wrong with a setting, or with items of it, a sentence each.
    fn faults(&self, name: &str) -> Vec<String> {
        let fault = |violation: &Violation| {
            let rest = violation.field.strip_prefix(name)?;
            let about = match rest.strip_prefix('/') {
                Some(item) => match item.parse::<usize>() {
                    Ok(at) => format!("Item {}", at.saturating_add(1)),
                    Err(_) => item.to_owned(),
                },
                None => rest.is_empty().then(|| "It".to_owned())?,
            };
            Some(format!("{about} {}.", violation.what))
        };
        self.wrong.iter().filter_map(fault).collect()
    }

    /// Whether something is wrong with one of these settings: what is folded must be opened then.
    pub fn is_wrong(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !self.faults(name).is_empty())
    }

    /// What is wrong with the form as a whole.
    pub fn refusal(&self) -> Markup {
        html! { @if let Some(refused) = &self.refused { p.alert role="alert" { (refused) } } }
    }

    /// Everything that is wrong with a form that was not taken; each fault stands at its field too.
    pub fn summary(&self) -> Markup {
        html! {
            (self.refusal())
            @if !self.wrong.is_empty() {
                div.alert role="alert" {
                    p { "Nothing was changed. " @match self.wrong.len() { 1 => "One field needs another look:", _ => "Some fields need another look:" } }
                    ul { @for fault in &self.wrong { li { code { (fault.field) } " " (fault.what) "." } } }
                }
            }
        }
    }

    /// Faults and hint of a field, and the ids of both to describe it by.
    fn notes(&self, field: Field<'_>) -> (Markup, Option<String>) {
        let (id, wrong) = (id(field.name), self.faults(field.name).join(" "));
        let notes = [("wrong", wrong.as_str()), ("hint", field.hint)]
            .map(|(kind, text)| (kind, format!("{id}-{kind}"), text));
        let shown: Vec<_> = notes.iter().filter(|(_, _, text)| !text.is_empty()).collect();
        let ids: Vec<_> = shown.iter().map(|(_, id, _)| id.as_str()).collect();
        let markup = html! { @for (kind, id, text) in &shown { p class=(kind) id=(id) { (text) } } };
        (markup, (!ids.is_empty()).then(|| ids.join(" ")))
    }

    /// Label and notes around a control, which is given its id, what describes it and whether it is invalid.
    fn around(
        &self,
        field: Field<'_>,
        control: impl FnOnce(&str, Option<&str>, Option<&str>) -> Markup,
    ) -> Markup {
        let (id, (notes, described)) = (id(field.name), self.notes(field));
        let invalid = self.is_wrong(&[field.name]).then_some("true");
        html! { div.field { label for=(id) { (field.label) } (control(&id, described.as_deref(), invalid)) (notes) } }
    }

    /// One line of text.
    pub fn text(&self, field: Field<'_>, value: &str) -> Markup {
        self.around(field, |id, described, invalid| {
            html! {
                input id=(id) name=(field.name) value=(value) spellcheck="false" autocomplete="off"
                    aria-describedby=[described] aria-invalid=[invalid];
            }
        })
    }

    /// What must not be seen over a shoulder; it is never filled in.
    pub fn secret(&self, field: Field<'_>) -> Markup {
        self.around(field, |id, described, invalid| {
            html! {
                input id=(id) name=(field.name) type="password" autocomplete="new-password"
                    aria-describedby=[described] aria-invalid=[invalid];
            }
        })
    }

    /// A whole number; `placeholder` says what holds if it is left empty.
    pub fn number(&self, field: Field<'_>, value: &str, placeholder: &str) -> Markup {
        self.around(field, |id, described, invalid| {
            html! {
                input id=(id) name=(field.name) value=(value) inputmode="numeric" placeholder=(placeholder)
                    autocomplete="off" aria-describedby=[described] aria-invalid=[invalid];
            }
        })
    }

    /// Several lines.
    pub fn lines(&self, field: Field<'_>, value: &str) -> Markup {
        self.around(field, |id, described, invalid| {
            html! {
                // The first line break behind the tag does not count as text.
                textarea id=(id) name=(field.name) rows="3" spellcheck="false"
                    aria-describedby=[described] aria-invalid=[invalid] { "\n" (value) }
            }
        })
    }

    /// One of several values; one that is none of them stays until another is chosen.
    pub fn choice(&self, field: Field<'_>, value: &str, choices: &[(&str, &str)]) -> Markup {
        let is_known = value.is_empty() || choices.iter().any(|(known, _)| *known == value);
        self.around(field, |id, described, invalid| {
            html! {
                select id=(id) name=(field.name) aria-describedby=[described] aria-invalid=[invalid] {
                    @for (known, shown) in choices { option value=(known) selected[*known == value] { (shown) } }
                    @if !is_known { option value=(value) selected { (value) } }
                }
            }
        })
    }

    /// Any of several values.
    pub fn ticks(&self, field: Field<'_>, values: &[impl AsRef<str>], choices: &[(&str, &str)]) -> Markup {
        let (notes, described) = self.notes(field);
        html! {
            fieldset aria-describedby=[described] {
                legend { (field.label) }
                (notes)
                @for (known, shown) in choices {
                    (tick(field.name, known, shown, values.iter().any(|value| value.as_ref() == *known)))
                }
            }
        }
    }
}

/// Something to be ticked; `value` is what is sent if it is.
pub fn tick(name: &str, value: &str, label: &str, is_ticked: bool) -> Markup {
    html! { label.tick { input type="checkbox" name=(name) value=(value) checked[is_ticked]; span { (label) } } }
}

/// Fields that carry a form from one page to the next.
pub fn hidden(pairs: &[(String, String)]) -> Markup {
    html! { @for (name, value) in pairs { input type="hidden" name=(name) value=(value); } }
}

/// The items of a field with one on each line.
pub fn items(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A whole number, if one was given; what else was typed is wrong.
pub fn integer(name: &str, text: &str, wrong: &mut Vec<Violation>) -> Option<i32> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let number = text.parse().ok();
    if number.is_none() {
        wrong.push(Violation::new(name, "is no whole number of the allowed size"));
    }
    number
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::api::http::problem::Code;

    #[test]
    fn what_is_wrong_stands_at_its_field() {
        let wrong = [
            Violation::new("url", "is not a public address"),
            Violation::new("agents/2", "is empty"),
            Violation::new("headers/X-A", "has a name that is not free"),
            Violation::new("batch/max_items", "is not between 1 and 1000"),
        ];
        let fields = Fields { wrong: wrong.to_vec(), refused: None };
        assert_eq!(fields.faults("url"), ["It is not a public address."]);
        assert_eq!(fields.faults("agents"), ["Item 3 is empty."]);
        assert_eq!(fields.faults("headers"), ["X-A has a name that is not free."]);
        assert_eq!(fields.faults("batch/max_items"), ["It is not between 1 and 1000."]);
        assert!(fields.faults("batch/max").is_empty());
        let drawn = fields.text(field("url", "Address", "Where to."), "http://10.0.0.1/").into_string();
        assert!(
            drawn.contains(r#"aria-describedby="field-url-wrong field-url-hint" aria-invalid="true""#),
            "{drawn}"
        );
        let summary = fields.summary().into_string();
        assert!(wrong.iter().all(|fault| summary.contains(&fault.what)), "{summary}");
        assert!(!Fields::default().text(field("url", "Address", ""), "").into_string().contains("aria-"));
    }

    #[test]
    fn what_could_not_be_read_is_told_once_and_the_rules_say_the_rest() {
        let (unread, missing) = (Violation::new("a", "is no number"), Violation::new("a", "is missing"));
        let rules = [Violation::new("b", "is empty"), Violation::new("b", "is no name")];
        assert_eq!(checked(Vec::new(), Ok(1)).ok(), Some(1));
        assert!(checked(vec![unread.clone()], Ok(1)).is_err(), "the rules do not see it");
        let all = checked::<()>(vec![unread.clone()], Err([&[missing], &rules[..]].concat())).err();
        assert_eq!(all.map(|all| all.wrong), Some([&[unread], &rules[..]].concat()));
    }

    #[test]
    fn an_error_is_told_of_its_fields_or_of_the_whole() {
        let whole = Fields::refused(ApiError::new(Code::NameTaken, "Another has it.")).unwrap();
        assert!(whole.summary().into_string().contains("Another has it."));
        let of_one = Fields::refused(ApiError::fields(&[Violation::new("name", "is empty")])).unwrap();
        assert!(of_one.refused.is_none() && of_one.is_wrong(&["name"]));
        assert!(Fields::refused(ApiError::not_found()).is_err(), "nobody can mend it");
    }

    #[test]
    fn numbers_and_lines_are_read_as_people_type_them() {
        let mut wrong = Vec::new();
        assert_eq!(integer("timeout_ms", " 5000 ", &mut wrong), Some(5000));
        assert_eq!(integer("timeout_ms", "", &mut wrong), None);
        assert!(wrong.is_empty());
        assert_eq!(integer("timeout_ms", "5s", &mut wrong), None);
        assert_eq!(wrong, [Violation::new("timeout_ms", "is no whole number of the allowed size")]);
        assert_eq!(items("a\r\n\r\n  b \n"), ["a", "b"]);
    }
}
