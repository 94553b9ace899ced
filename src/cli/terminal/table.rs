//! Tables: for a terminal as wide as it is and in colour, behind a pipe one line a row.

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table};
use console_terminal::Term;
use serde_json::Value;

use super::text::plain;

/// A column: its head, and what it shows of a row.
pub struct Column {
    head: &'static str,
    read: Read,
    is_whole: bool,
}

enum Read {
    At(&'static str),
    By(fn(&Value) -> String),
}

impl Column {
    /// Shows the value at a JSON pointer.
    #[must_use]
    pub const fn at(head: &'static str, pointer: &'static str) -> Self {
        Self { head, read: Read::At(pointer), is_whole: false }
    }

    /// The same, never broken over lines: what is copied, as an id is.
    #[must_use]
    pub const fn whole(head: &'static str, pointer: &'static str) -> Self {
        Self { head, read: Read::At(pointer), is_whole: true }
    }

    /// Shows what a function makes of the row.
    #[must_use]
    pub const fn by(head: &'static str, read: fn(&Value) -> String) -> Self {
        Self { head, read: Read::By(read), is_whole: false }
    }

    fn text(&self, row: &Value) -> String {
        let text = match self.read {
            Read::At(pointer) => row.pointer(pointer).map(in_words).unwrap_or_default(),
            Read::By(read) => read(row),
        };
        plain(&text).into_owned()
    }
}

/// The value at a JSON pointer; null if there is none.
#[must_use]
pub fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// A value as a person reads it: nothing for null, lists with commas, times to the second.
#[must_use]
pub fn in_words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => to_the_second(text),
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A time without the digits behind its seconds; any other text as it is.
fn to_the_second(text: &str) -> String {
    let is_time = text.len() >= 20
        && text.ends_with('Z')
        && text
            .bytes()
            .zip(*b"0000-00-00T00:00:00")
            .all(|(found, shape)| if shape == b'0' { found.is_ascii_digit() } else { found == shape });
    match text.get(..19).filter(|_| is_time) {
        Some(seconds) => format!("{seconds}Z"),
        None => text.to_owned(),
    }
}

/// Words that say how something stands, and their colours.
fn color_of(text: &str) -> Option<Color> {
    match text {
        "active" | "open" | "ok" | "delivered" | "done" | "yes" => Some(Color::Green),
        "paused" | "waiting" | "sending" | "blocked" | "unverified" | "running" | "connecting"
        | "backing_off" | "superseded" | "held" => Some(Color::Yellow),
        "disabled" | "dead" | "expired" | "refused" | "stale" | "failed" | "revoked" | "terminated"
        | "no" | "webhook_gone" | "webhook_disabled" => Some(Color::Red),
        _ => None,
    }
}

fn cell(text: String) -> Cell {
    let color = color_of(&text);
    let cell = Cell::new(text);
    match color {
        Some(color) => cell.fg(color),
        None => cell,
    }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if console_terminal::colors_enabled() {
        table.enforce_styling();
        table.style_text_only();
    } else {
        table.force_no_tty();
    }
    match Term::stdout().size_checked().filter(|_| console_terminal::user_attended()) {
        Some((_, width)) => {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table
}

fn text_of(table: &Table) -> String {
    // Every line begins with the padding of its first cell.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// Rows under their heads.
#[must_use]
pub fn rows(columns: &[Column], rows: &[Value]) -> String {
    let mut table = bare();
    table.set_header(columns.iter().map(|column| Cell::new(column.head)));
    for row in rows {
        table.add_row(columns.iter().map(|column| cell(column.text(row))));
    }
    for (column, made) in columns.iter().zip(table.column_iter_mut()) {
        if column.is_whole {
            made.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    text_of(&table)
}

/// One thing, a line a field.
#[must_use]
pub fn fields(fields: &[(String, Value)]) -> String {
    let mut table = bare();
    let mut flat = Vec::new();
    for (name, value) in fields {
        flatten(name, value, &mut flat);
    }
    for (name, text) in flat {
        table.add_row([Cell::new(name), cell(plain(&text).into_owned())]);
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    text_of(&table)
}

fn flatten(name: &str, value: &Value, flat: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (inner, value) in members {
                flatten(&format!("{name}.{inner}"), value, flat);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            flat.push((name.to_owned(), value.to_string()));
        }
        other => flat.push((plain(name).into_owned(), in_words(other))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        for (value, words) in [
            (json!(null), ""),
            (json!(["a", "b"]), "a, b"),
            (json!("2026-11-23T09:30:00.123456Z"), "2026-11-23T09:30:00Z"),
            (json!("2026-11-23T09:30:00Z"), "2026-11-23T09:30:00Z"),
            (json!("2026-11-23 is no time, is itZ"), "2026-11-23 is no time, is itZ"),
            (json!(7), "7"),
        ] {
            assert_eq!(in_words(&value), words);
        }
    }

    #[test]
    fn behind_a_pipe_a_row_is_a_line_whatever_its_cells_hold() {
        let columns = [Column::whole("ID", "/id"), Column::by("SAYS", |row| in_words(&row["says"]))];
        let made = [
            json!({"id": "1", "says": "x".repeat(300)}),
            json!({"id": "2", "says": "two\nlines\u{1b}[31m"}),
            json!({"id": "3"}),
        ];
        let text = rows(&columns, &made);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines.get(2).copied(), Some("2   two lines [31m"), "{text}");
    }
}
