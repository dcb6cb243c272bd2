//! Names: where they are served, what they stand for, who asked.

use comfy_table::Table;

use super::table::{State, cell, finish, header, printable, state_cell};
use crate::control::Report;
use crate::types::PeerId;

pub(super) fn dns(report: &Report, mut table: Table) -> String {
    let Some(dns) = &report.dns else {
        return "names are not served: WEAVE_DNS is off\n".to_owned();
    };
    let mut text = match &dns.listening {
        Ok(address) => format!("serving {} at {address}\n", dns.domain),
        Err(reason) => format!("not serving {}: {reason}\n", dns.domain),
    };
    let upstreams: Vec<_> = dns.upstreams.iter().map(ToString::to_string).collect();
    text += &match upstreams.is_empty() {
        true => "other names: the host has no DNS servers\n".to_owned(),
        false => format!("other names: {}\n", upstreams.join(" ")),
    };
    let counters = &dns.counters;
    let outcomes = counters.total().named();
    let outcomes = outcomes.map(|(outcome, count)| format!("{count} {outcome}"));
    text += &format!("queries: {}\n", outcomes.join(", "));
    let times = &counters.answer_times;
    if times.count > 0 {
        let mean = times.sum.as_nanos() / u128::from(times.count);
        text += &format!(
            "mean time to answer: {}.{} µs\n",
            mean / 1000,
            mean / 100 % 10
        );
    }
    if let Some(failure) = &counters.last_failure {
        text += &format!("last failure: {}\n", printable(failure));
    }
    let retired = dns.entries.iter().filter(|entry| !entry.reachable).count();
    if retired > 0 {
        text += &format!("not answered, as their hosts cannot be reached: {retired}\n");
    }
    text += &format!("tombstones of names that are gone: {}\n", dns.tombstones);
    if dns.entries.is_empty() {
        return text;
    }
    text.push('\n');
    header(
        &mut table,
        &[
            "NAME",
            "ADDRESS",
            "CONTAINER",
            "SEGMENT",
            "HOST",
            "ANSWERED",
        ],
    );
    for entry in &dns.entries {
        let (answered, state) = match entry.reachable {
            true => ("yes", State::Good),
            false => ("no", State::Bad),
        };
        table.add_row([
            cell(&entry.name),
            cell(entry.address),
            cell(entry.container.as_deref().unwrap_or("-")),
            cell(
                entry
                    .segment
                    .as_ref()
                    .map_or("all", |segment| segment.as_str()),
            ),
            cell(nickname(report, entry.peer)),
            state_cell(answered, state),
        ]);
    }
    finish(&mut text, &table);
    text
}

fn nickname(report: &Report, peer: PeerId) -> String {
    let peers = report.mesh.iter().flat_map(|mesh| &mesh.peers);
    let found = peers
        .into_iter()
        .find(|known| known.id == peer && !known.nickname.is_empty());
    found.map_or_else(|| peer.short(), |known| known.nickname.clone())
}
