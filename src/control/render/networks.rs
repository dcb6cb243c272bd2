//! Networks, their endpoints, and swarm's services on them.

use comfy_table::Table;

use super::table::{State, cell, header, optional, state_cell};
use crate::control::Report;
use crate::control::report::TaskReport;
use crate::network::services::{Certainty, TaskState};
use crate::types::NetworkId;

pub(super) fn networks(report: &Report, table: &mut Table) {
    let heads = [
        "NETWORK", "SCOPE", "SUBNETS", "VNI", "MTU", "PEERS", "SEGMENT",
    ];
    header(table, &heads);
    for segment in &report.segments {
        let shared = || {
            [
                optional(segment.vni),
                optional(segment.mtu),
                cell(segment.peers.join(" ")),
                match &segment.problem {
                    Some(problem) => state_cell(&format!("{}: {problem}", segment.id), State::Bad),
                    None => cell(&segment.id),
                },
            ]
        };
        if segment.networks.is_empty() {
            let nothing = [cell("-"), cell("-"), cell("-")];
            table.add_row(nothing.into_iter().chain(shared()));
        }
        for network in &segment.networks {
            let subnets: Vec<_> = network.subnets.iter().map(ToString::to_string).collect();
            let own = [
                cell(name(&network.id, network.name.as_deref())),
                cell(network.scope),
                cell(subnets.join(" ")),
            ];
            table.add_row(own.into_iter().chain(shared()));
        }
    }
}

/// What people call a network, as far as that is known.
fn name<'a>(id: &'a NetworkId, name: Option<&'a str>) -> &'a str {
    name.unwrap_or(id.short())
}

pub(super) fn endpoints(report: &Report, table: &mut Table) {
    header(table, &["CONTAINER", "NETWORK", "ADDRESSES", "MAC", "HOST"]);
    for endpoint in &report.endpoints {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        let segment = endpoint.segment.as_str();
        table.add_row([
            cell(endpoint.container.as_deref().unwrap_or("-")),
            cell(endpoint.network.as_deref().unwrap_or(segment)),
            cell(addresses.join(" ")),
            cell(endpoint.mac),
            cell(&endpoint.host),
        ]);
    }
}

pub(super) fn services(report: &Report, table: &mut Table) {
    let heads = [
        "SERVICE",
        "NETWORK",
        "ADDRESS",
        "READY",
        "TASK",
        "HOST",
        "STATE",
        "CONNECTIONS",
    ];
    header(table, &heads);
    for service in &report.services {
        let ready = service.tasks.iter().filter(|task| task.is_ready()).count();
        let mut own = [
            cell(&service.service),
            cell(name(&service.network, service.network_name.as_deref())),
            cell(service.vip),
            cell(format!("{ready}/{}", service.tasks.len())),
        ];
        if service.tasks.is_empty() {
            let nothing = [cell("-"), cell("-"), cell("-"), cell("-")];
            table.add_row(own.iter().cloned().chain(nothing));
        }
        for task in &service.tasks {
            let (text, state) = task_state(task);
            let of_task = [
                cell(task.address),
                cell(&task.host),
                state_cell(text, state),
                cell(task.connections),
            ];
            table.add_row(own.into_iter().chain(of_task));
            own = [cell(""), cell(""), cell(""), cell("")];
        }
    }
}

fn task_state(task: &TaskReport) -> (&'static str, State) {
    match task.state {
        _ if task.certainty == Certainty::Unreachable => ("host not reachable", State::Bad),
        _ if task.certainty == Certainty::Remembered => ("not confirmed", State::Plain),
        TaskState::Ready => ("ready", State::Good),
        TaskState::Starting => ("starting", State::Plain),
        TaskState::Unhealthy => ("unhealthy", State::Bad),
        TaskState::Stopping => ("stopping", State::Plain),
    }
}
