//! The tunnel: to whom, which way, how much, and what was dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;

use super::table::{State, cell, finish, header, optional, printable, state_cell};
use super::{bytes, duration};
use crate::control::Report;
use crate::control::report::TunnelPeerReport;

pub(super) fn tunnel(report: &Report, mut table: Table) -> String {
    let Some(tunnel) = &report.tunnel else {
        return "no tunnel: containers cannot be attached on this host\n".to_owned();
    };
    let mut text = match &tunnel.listening {
        Some(address) => format!("listening at {address}\n"),
        None => "not listening\n".to_owned(),
    };
    if let Some(problem) = &tunnel.problem {
        text += &format!("problem: {}\n", printable(problem));
    }
    if !tunnel.offloads.is_empty() {
        text += &format!("with the kernel's {}\n", tunnel.offloads.join(", "));
    }
    if !tunnel.drops.is_empty() {
        text += &format!("dropped, of no peer: {}\n", drops(&tunnel.drops));
    }
    if tunnel.peers.is_empty() {
        return text;
    }
    text.push('\n');
    let heads = [
        "PEER", "PATH", "TO", "RTT", "MTU", "CIPHER", "KEY AGE", "SENT", "RECEIVED", "RELAYED",
        "DROPPED",
    ];
    header(&mut table, &heads);
    for peer in &tunnel.peers {
        let state = match peer.path.as_str() {
            "down" => State::Bad,
            _ => State::Good,
        };
        let age = peer.key_age_seconds.map(Duration::from_secs);
        table.add_row([
            cell(&peer.nickname),
            state_cell(&peer.path, state),
            cell(to(peer)),
            optional(rtt(report, peer).map(duration)),
            optional(peer.mtu),
            optional(peer.cipher.as_ref()),
            optional(age.map(duration)),
            cell(bytes(peer.sent.bytes)),
            cell(bytes(peer.received.bytes)),
            cell(bytes(peer.relayed.bytes)),
            cell(drops(&peer.drops)),
        ]);
    }
    finish(&mut text, &table);
    text
}

fn to(peer: &TunnelPeerReport) -> String {
    match (&peer.via, peer.address) {
        (Some(via), _) => format!("via {via}"),
        (None, Some(address)) => address.to_string(),
        (None, None) => "-".to_owned(),
    }
}

/// The round trip to a peer that there is a session with.
fn rtt(report: &Report, peer: &TunnelPeerReport) -> Option<Duration> {
    let connections = report.mesh.iter().flat_map(|mesh| &mesh.connections);
    let mut of_peer = connections.filter(|c| c.peer == Some(peer.peer));
    of_peer.find_map(|connection| connection.rtt)
}

fn drops(drops: &BTreeMap<String, u64>) -> String {
    let causes: Vec<_> = drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{count} {cause}"))
        .collect();
    match causes.is_empty() {
        true => "none".to_owned(),
        false => causes.join(", "),
    }
}
