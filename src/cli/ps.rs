//! Who has which addresses on this host.

use std::collections::BTreeMap;
use std::io;

use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::client::{Client, ClientError};
use super::terminal;
use crate::control::Report;
use crate::control::report::EndpointReport;

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Only these containers, by name or the beginning of their identifiers, or `weave:expose`
    containers: Vec<String>,
}

/// One container, or this host.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    container: String,
    name: String,
    mac: String,
    addresses: Vec<IpNet>,
}

impl Ps {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let report = client.get("/report").await?;
        let report: Report = serde_json::from_str(&report).map_err(io::Error::from)?;
        let mut rows = rows(&report);
        if !self.containers.is_empty() {
            rows.retain(|row| self.containers.iter().any(|name| row.is_called(name)));
        }
        if self.json {
            let text = serde_json::to_string_pretty(&rows).map_err(io::Error::from)?;
            return Ok(terminal::print(&(text + "\n"))?);
        }
        Ok(terminal::print(
            &rows.iter().map(Row::line).collect::<String>(),
        )?)
    }
}

impl Row {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.container.starts_with(name)
    }

    /// As Weave Net had it, with the container's name where its identifier is not known.
    fn line(&self) -> String {
        let container = match self.container.as_str() {
            "" => &self.name,
            id if id.len() == 64 => &id[..12],
            id => id,
        };
        let addresses: String = self.addresses.iter().map(|a| format!(" {a}")).collect();
        format!("{container} {}{addresses}\n", self.mac)
    }
}

fn rows(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let attached: BTreeMap<_, _> = report
        .attachments
        .iter()
        .map(|a| (a.endpoint.short(), a))
        .collect();
    let mut add = |container: &str, name: &str, mac: String, addresses: Vec<IpNet>| {
        let same = |row: &&mut Row| row.container == container && row.name == name;
        match rows.iter_mut().find(same) {
            Some(row) => row.addresses.extend(addresses),
            None => rows.push(Row {
                container: container.to_owned(),
                name: name.to_owned(),
                mac,
                addresses,
            }),
        }
    };
    for attachment in attached.values() {
        let mac = attachment.mac.to_string();
        let (id, name) = (&attachment.container, &attachment.name);
        add(id, name, mac, vec![attachment.address]);
    }
    for endpoint in report.endpoints.iter().filter(|e| e.local) {
        if attached.contains_key(endpoint.endpoint.short()) {
            continue;
        }
        let name = endpoint.container.as_deref();
        let name = name.unwrap_or_else(|| endpoint.endpoint.short());
        let addresses = with_prefix(report, endpoint);
        add("", name, endpoint.mac.to_string(), addresses);
    }
    rows
}

/// The addresses with the prefix lengths of their network's subnets.
fn with_prefix(report: &Report, endpoint: &EndpointReport) -> Vec<IpNet> {
    let segments = report.segments.iter().filter(|s| s.id == endpoint.segment);
    let networks = segments.flat_map(|segment| &segment.networks);
    let subnets: Vec<IpNet> = networks.flat_map(|n| n.subnets.clone()).collect();
    let of_address = |address: &std::net::IpAddr| {
        let subnet = subnets.iter().find(|subnet| subnet.contains(address));
        let prefix = subnet.map_or(if address.is_ipv4() { 32 } else { 128 }, IpNet::prefix_len);
        IpNet::new(*address, prefix).ok()
    };
    endpoint.addresses.iter().filter_map(of_address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::examples;

    #[test]
    fn attachments_come_once_and_docker_s_endpoints_with_their_prefix() {
        let mut report = examples::report();
        let lines: String = rows(&report).iter().map(Row::line).collect();
        assert_eq!(lines, "weave:expose 02:77:0a:20:00:01 10.32.0.1/12\n");
        report.attachments.clear();
        let rows = rows(&report);
        assert_eq!(rows[0].line(), "shop 02:77:0a:01:00:02 10.1.0.2/16\n");
        assert!(rows[0].is_called("shop") && !rows[0].is_called("shopping"));
    }
}
