//! Where the Engine finds us, and what it is told.

use comfy_table::Table;

use super::table::{State, cell, finish, header, printable, state_cell};
use crate::control::Report;

pub(super) fn plugin(report: &Report, mut table: Table) -> String {
    let mut text = match &report.scope {
        Some(scope) => format!(
            "networks are of {} scope: {} (WEAVE_SCOPE is {})\n",
            scope.in_force,
            printable(&scope.reason),
            scope.asked
        ),
        None => "the scope of networks is not decided yet\n".to_owned(),
    };
    for lacking in report.capabilities.iter().filter(|c| !c.available) {
        text += &format!(
            "this host lacks {}: {}\n",
            lacking.name,
            printable(&lacking.detail)
        );
    }
    if report.plugin_sockets.is_empty() {
        return text + "no socket is served for Docker: see `weave launch-plugin`\n";
    }
    text.push('\n');
    header(&mut table, &["SOCKET", "STATE"]);
    for socket in &report.plugin_sockets {
        let state = match &socket.error {
            None => state_cell("served", State::Good),
            Some(error) => state_cell(&format!("not served: {error}"), State::Bad),
        };
        table.add_row([cell(&socket.path), state]);
    }
    finish(&mut text, &table);
    text
}
