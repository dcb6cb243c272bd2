//! Tables: aligned, with colour where it is wanted, and with nothing that could steer a terminal.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::Style;

/// How something is, as colour shows it.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Plain,
    Faint,
    Heading,
    Good,
    Bad,
}

pub(super) fn table(style: Style) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    match style {
        Style::Plain => table.force_no_tty(),
        Style::Coloured => table.enforce_styling(),
    };
    table.style_text_only();
    table
}

pub(super) fn header(table: &mut Table, heads: &[&str]) {
    table.set_header(heads.iter().map(|head| state_cell(head, State::Heading)));
}

pub(super) fn optional<T: ToString>(value: Option<T>) -> Cell {
    match value {
        Some(value) => cell(value.to_string()),
        None => cell("-"),
    }
}

pub(super) fn cell(text: impl ToString) -> Cell {
    state_cell(&text.to_string(), State::Plain)
}

pub(super) fn state_cell(text: &str, state: State) -> Cell {
    let cell = Cell::new(printable(text));
    match state {
        State::Plain => cell,
        State::Faint => cell.add_attribute(Attribute::Dim),
        State::Heading => cell.add_attribute(Attribute::Bold),
        State::Good => cell.fg(Color::Green),
        State::Bad => cell.fg(Color::Red),
    }
}

/// A text without control characters. Names come from other hosts: they must not steer the
/// terminal.
pub(super) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

pub(super) fn finish(text: &mut String, table: &Table) {
    for line in table.lines() {
        // Every cell begins with a blank of padding.
        let line = line.trim_end();
        let line = line.strip_prefix(' ').unwrap_or(line);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
