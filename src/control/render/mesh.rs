//! Peers and the connections between them.

use std::net::SocketAddr;

use comfy_table::Table;

use super::duration;
use super::table::{State, cell, header, optional, state_cell};
use crate::control::Report;
use crate::control::report::TransportReport;
use crate::mesh::{ConnectionStatus, MeshStatus, PeerStatus};
use crate::types::PeerId;

pub(super) fn overview(
    report: &Report,
    mesh: &MeshStatus,
    line: &mut impl FnMut(&str, String, State),
) {
    line("Peer", mesh.id.called(&mesh.nickname), State::Plain);
    match &mesh.listening {
        Ok(address) => line("Listening", address.to_string(), State::Plain),
        Err(reason) => line("Listening", format!("no: {reason}"), State::Bad),
    }
    let password = match mesh.password {
        true => "set",
        false => {
            "not set: any host that reaches this one can join, and containers' traffic is in the clear"
        }
    };
    line("Password", password.to_owned(), State::Plain);
    let reachable = mesh.peers.iter().filter(|p| p.reachable).count();
    let state = match reachable == mesh.peers.len() {
        true => State::Good,
        false => State::Bad,
    };
    let known = mesh.peers.len();
    line(
        "Peers",
        format!("{known}, {reachable} of them reachable"),
        state,
    );
    let states = tally(mesh.connections.iter().map(|c| c.state.as_str()));
    line("Connections", states, State::Plain);
    let failing = mesh.targets.iter().filter(|t| t.error.is_some()).count();
    match failing {
        0 => line("Targets", mesh.targets.len().to_string(), State::Plain),
        _ => {
            let all = mesh.targets.len();
            line(
                "Targets",
                format!("{all}, {failing} not resolved"),
                State::Bad,
            );
        }
    }
    let transports = tally(report.transports.iter().map(|t| t.transport.as_str()));
    line("Transports", transports, State::Plain);
}

pub(super) fn connections(report: &Report, table: &mut Table) {
    let Some(mesh) = &report.mesh else { return };
    let heads = [
        "DIR",
        "ADDRESS",
        "STATE",
        "PEER",
        "TRANSPORT",
        "MTU",
        "RTT",
        "INFO",
    ];
    header(table, &heads);
    for connection in &mesh.connections {
        let transport = connection.peer.and_then(|peer| transport(report, peer));
        let direction = if connection.outbound { "->" } else { "<-" };
        table.add_row([
            cell(direction),
            cell(connection.address),
            state_cell(&connection.state, state(connection)),
            cell(connection.nickname.as_deref().unwrap_or("-")),
            cell(transport.map_or("-", |t| t.transport.as_str())),
            optional(transport.and_then(|t| t.mtu)),
            optional(connection.rtt.map(duration)),
            cell(info(connection, transport)),
        ]);
    }
}

fn info(connection: &ConnectionStatus, transport: Option<&TransportReport>) -> String {
    let mut info = vec![connection.reason.clone()];
    info.extend(transport.map(|t| t.reason.clone()));
    info.extend(
        connection
            .retry_in
            .map(|after| format!("again in {}", duration(after))),
    );
    info.retain(|part| !part.is_empty());
    info.join("; ")
}

fn state(connection: &ConnectionStatus) -> State {
    match connection.state.as_str() {
        "established" => State::Good,
        "connecting" => State::Plain,
        _ => State::Bad,
    }
}

pub(super) fn peers(report: &Report, table: &mut Table) {
    let Some(mesh) = &report.mesh else { return };
    let heads = [
        "PEER",
        "ID",
        "REACHED",
        "TRANSPORT",
        "MTU",
        "LINKS",
        "VERSION",
        "ADDRESSES",
    ];
    header(table, &heads);
    for peer in &mesh.peers {
        let transport = transport(report, peer.id);
        let (reached, state) = reached(mesh, peer);
        table.add_row([
            cell(&peer.nickname),
            cell(peer.id.short()),
            state_cell(&reached, state),
            cell(transport.map_or("-", |t| t.transport.as_str())),
            optional(transport.and_then(|t| t.mtu)),
            cell(peer.links.len()),
            cell(&peer.version),
            cell(addresses(&peer.addresses)),
        ]);
    }
}

fn reached(mesh: &MeshStatus, peer: &PeerStatus) -> (String, State) {
    let via = |via: PeerId| {
        let hop = mesh.peers.iter().find(|p| p.id == via);
        hop.map_or_else(|| via.short(), |p| p.nickname.clone())
    };
    match peer.via {
        _ if peer.id == mesh.id => ("this host".to_owned(), State::Good),
        Some(hop) if peer.reachable && hop == peer.id => ("directly".to_owned(), State::Good),
        Some(hop) if peer.reachable => (format!("via {}", via(hop)), State::Good),
        _ => ("no".to_owned(), State::Bad),
    }
}

pub(super) fn targets(report: &Report, table: &mut Table) {
    let Some(mesh) = &report.mesh else { return };
    header(table, &["TARGET", "GIVEN BY", "ADDRESSES"]);
    for target in &mesh.targets {
        let resolved = match &target.error {
            Some(error) => state_cell(error, State::Bad),
            None => cell(addresses(&target.addresses)),
        };
        table.add_row([cell(&target.target), cell(&target.source), resolved]);
    }
}

fn transport(report: &Report, peer: PeerId) -> Option<&TransportReport> {
    report.transports.iter().find(|t| t.peer == peer)
}

fn addresses(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" ")
}

fn tally<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut counts = std::collections::BTreeMap::<_, usize>::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    let parts: Vec<_> = counts
        .iter()
        .map(|(word, n)| format!("{n} {word}"))
        .collect();
    match parts.is_empty() {
        true => "none".to_owned(),
        false => parts.join(", "),
    }
}
