//! Fields of forms: each with its label, what is to be said about it, and what was wrong with what was typed.
//! A field has the name of the setting that it sets, as the REST API points to it: `batch/max_items`.

use maud::{Markup, html};

use crate::domain::violation::Violation;

/// What was wrong with a form that was sent; nothing at first.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [Violation]);

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

impl Fields<'_> {
    /// What is wrong with a setting, or with items of it.
    fn wrong_with(&self, name: &str) -> Vec<String> {
        let of = |violation: &Violation| {
            let rest = violation.field.strip_prefix(name)?;
            let item = rest.strip_prefix('/');
            match (rest, item.map(str::parse::<usize>)) {
                ("", _) => Some(violation.what.clone()),
                (_, Some(Ok(item))) => Some(format!("line {} {}", item + 1, violation.what)),
                (_, Some(Err(_))) => Some(format!("{} {}", item.unwrap_or_default(), violation.what)),
                _ => None,
            }
        };
        self.0.iter().filter_map(of).collect()
    }

    /// Whether something is wrong with one of these settings: what is folded must be opened then.
    pub fn is_wrong(&self, names: &[&str]) -> bool {
        names.iter().any(|name| !self.wrong_with(name).is_empty())
    }

    /// The line over a form that was not taken; every fault stands at its field too.
    pub fn summary(&self) -> Markup {
        html! {
            @if !self.0.is_empty() {
                div.alert role="alert" {
                    p { "Nothing was changed. " @match self.0.len() { 1 => "One field needs another look:", _ => "Some fields need another look:" } }
                    ul { @for violation in self.0 { li { code { (violation.field) } " " (violation.what) } } }
                }
            }
        }
    }

    /// Label, hint and faults around a control, which is given its id and what describes it.
    fn around(&self, field: Field<'_>, control: impl FnOnce(&str, Option<&str>, bool) -> Markup) -> Markup {
        let (id, wrong) = (id(field.name), self.wrong_with(field.name));
        let (hint_id, wrong_id) = (format!("{id}-hint"), format!("{id}-wrong"));
        let mut described = Vec::new();
        if !field.hint.is_empty() {
            described.push(hint_id.as_str());
        }
        if !wrong.is_empty() {
            described.push(wrong_id.as_str());
        }
        let described = (!described.is_empty()).then(|| described.join(" "));
        html! {
            div.setting {
                label for=(id) { (field.label) }
                (control(&id, described.as_deref(), !wrong.is_empty()))
                @if !field.hint.is_empty() { p.hint id=(hint_id) { (field.hint) } }
                @if !wrong.is_empty() { p.wrong id=(wrong_id) { (wrong.join("; ")) } }
            }
        }
    }

    /// One line of text.
    pub fn text(&self, field: Field<'_>, value: &str) -> Markup {
        self.around(field, |id, described, wrong| {
            html! {
                input.wide id=(id) name=(field.name) value=(value) spellcheck="false" autocomplete="off"
                    aria-describedby=[described] aria-invalid=[wrong.then_some("true")];
            }
        })
    }

    /// What must not be seen over a shoulder; it is never filled in.
    pub fn secret(&self, field: Field<'_>) -> Markup {
        self.around(field, |id, described, wrong| {
            html! {
                input.wide id=(id) name=(field.name) type="password" autocomplete="new-password"
                    aria-describedby=[described] aria-invalid=[wrong.then_some("true")];
            }
        })
    }

    /// A whole number; `placeholder` says what holds if it is left empty.
    pub fn number(&self, field: Field<'_>, value: &str, placeholder: &str) -> Markup {
        self.around(field, |id, described, wrong| {
            html! {
                input id=(id) name=(field.name) value=(value) inputmode="numeric" placeholder=(placeholder)
                    autocomplete="off" aria-describedby=[described] aria-invalid=[wrong.then_some("true")];
            }
        })
    }

    /// Several lines.
    pub fn lines(&self, field: Field<'_>, value: &str) -> Markup {
        self.around(field, |id, described, wrong| {
            html! {
                // The first line break behind the tag does not count as text.
                textarea id=(id) name=(field.name) rows="3" spellcheck="false" aria-describedby=[described]
                    aria-invalid=[wrong.then_some("true")] { "\n" (value) }
            }
        })
    }

    /// One of several values.
    pub fn choice(&self, field: Field<'_>, value: &str, choices: &[(&str, &str)]) -> Markup {
        self.around(field, |id, described, wrong| {
            html! {
                select id=(id) name=(field.name) aria-describedby=[described] aria-invalid=[wrong.then_some("true")] {
                    @for (known, shown) in choices { option value=(known) selected[*known == value] { (shown) } }
                }
            }
        })
    }

    /// Any of several values.
    pub fn checks(&self, field: Field<'_>, values: &[String], choices: &[(&str, &str)]) -> Markup {
        let wrong = self.wrong_with(field.name);
        html! {
            fieldset.checks {
                legend { (field.label) }
                @if !field.hint.is_empty() { p.hint { (field.hint) } }
                @for (known, shown) in choices {
                    label { input type="checkbox" name=(field.name) value=(known) checked[values.iter().any(|v| v == known)];
                            " " (shown) }
                }
                @if !wrong.is_empty() { p.wrong { (wrong.join("; ")) } }
            }
        }
    }
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
    use super::*;

    #[test]
    fn what_is_wrong_stands_at_its_field() {
        let wrong = [
            Violation::new("url", "is not a public address"),
            Violation::new("agents/2", "is empty"),
            Violation::new("headers/X-A", "has a name that is not free"),
            Violation::new("batch/max_items", "is not between 1 and 1000"),
        ];
        let fields = Fields(&wrong);
        assert_eq!(fields.wrong_with("url"), ["is not a public address"]);
        assert_eq!(fields.wrong_with("agents"), ["line 3 is empty"]);
        assert_eq!(fields.wrong_with("headers"), ["X-A has a name that is not free"]);
        assert_eq!(fields.wrong_with("batch/max_items"), ["is not between 1 and 1000"]);
        assert!(fields.wrong_with("batch/max").is_empty());
        let drawn = fields.text(field("url", "Address", "Where to."), "http://10.0.0.1/").into_string();
        assert!(
            drawn.contains(r#"aria-describedby="field-url-hint field-url-wrong" aria-invalid="true""#),
            "{drawn}"
        );
        assert!(!Fields(&[]).text(field("url", "Address", ""), "").into_string().contains("aria-"));
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
