//! Settings in force and rejected ones.

use comfy_table::Table;

use super::Style;
use super::table::{State, cell, finish, header, state_cell};
use crate::control::Report;

pub(super) fn settings(report: &Report, mut table: Table, style: Style) -> String {
    header(&mut table, &["SETTING", "VALUE", "SET BY"]);
    for setting in &report.settings {
        table.add_row([
            cell(&setting.setting),
            cell(&setting.value),
            cell(setting.source),
        ]);
    }
    let mut text = String::new();
    finish(&mut text, &table);
    if !report.rejected.is_empty() {
        let mut table = super::table::table(style);
        header(&mut table, &["NOT OBEYED", "WAS SET TO", "WHY"]);
        for rejected in &report.rejected {
            table.add_row([
                state_cell(&rejected.setting, State::Bad),
                cell(rejected.value.as_deref().unwrap_or("-")),
                cell(&rejected.reason),
            ]);
        }
        text.push('\n');
        finish(&mut text, &table);
    }
    text
}
