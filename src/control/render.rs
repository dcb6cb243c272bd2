//! The report as text for people.

mod dns;
mod ipam;
mod mesh;
mod networks;
mod plugin;
mod proxy;
mod settings;
mod table;
mod tunnel;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use self::table::{State, finish, state_cell, table};
use super::report::Report;
use crate::types::ParseError;

/// Whether text is for a terminal that shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Nothing but text.
    Plain,
    /// With ANSI escape sequences.
    Coloured,
}

/// A part of the status that has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Connections to peers, and attempts.
    Connections,
    /// All known peers.
    Peers,
    /// Where the daemon was told to connect to.
    Targets,
    /// Networks and their segments.
    Networks,
    /// Containers' endpoints.
    Endpoints,
    /// Virtual addresses of swarm's services.
    Services,
    /// Addresses: who owns how many, and how many are in use.
    Ipam,
    /// Names: where they are served, what they stand for, who asked.
    Dns,
    /// The Docker API proxy.
    Proxy,
    /// The tunnel: to whom, which way, how much.
    Tunnel,
    /// Where the Engine finds us, and what it is told.
    Plugin,
    /// Settings in force and rejected ones.
    Settings,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Connections,
        Self::Peers,
        Self::Targets,
        Self::Networks,
        Self::Endpoints,
        Self::Services,
        Self::Ipam,
        Self::Dns,
        Self::Proxy,
        Self::Tunnel,
        Self::Plugin,
        Self::Settings,
    ];

    /// Its name in commands and addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Peers => "peers",
            Self::Targets => "targets",
            Self::Networks => "networks",
            Self::Endpoints => "endpoints",
            Self::Services => "services",
            Self::Ipam => "ipam",
            Self::Dns => "dns",
            Self::Proxy => "proxy",
            Self::Tunnel => "tunnel",
            Self::Plugin => "plugin",
            Self::Settings => "settings",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Section {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|section| section.name() == text);
        found.ok_or_else(|| {
            ParseError::new(
                "connections, peers, targets, networks, endpoints, services, ipam, dns, proxy, tunnel, \
                 plugin or settings",
                text,
            )
        })
    }
}

/// The overview: what is wrong first, then everything in a line each.
pub fn overview(report: &Report, style: Style) -> String {
    let mut text = problems(report, style);
    let mut table = table(style);
    let mut line = |label: &str, value: String, state: State| {
        let label = format!("{label:>13}:");
        table.add_row([
            state_cell(&label, State::Heading),
            state_cell(&value, state),
        ]);
    };
    let uptime = duration(Duration::from_secs(report.uptime_seconds));
    line(
        "Version",
        format!("{}, up {uptime}", report.version),
        State::Plain,
    );
    match &report.mesh {
        Some(mesh) => mesh::overview(report, mesh, &mut line),
        None => line("Mesh", "not started".to_owned(), State::Bad),
    }
    let scope = match &report.scope {
        Some(scope) => format!("{} ({})", scope.in_force, scope.reason),
        None => "not decided yet".to_owned(),
    };
    line("Scope", scope, State::Plain);
    let networks: usize = report.segments.iter().map(|s| s.networks.len()).sum();
    let segments = counted(report.segments.len(), "segment");
    line(
        "Networks",
        format!("{networks} here, {segments} known"),
        State::Plain,
    );
    let local = report.endpoints.iter().filter(|e| e.local).count();
    let remote = report.endpoints.len() - local;
    line(
        "Endpoints",
        format!("{local} here, {remote} elsewhere"),
        State::Plain,
    );
    if let Some(ipam) = &report.ipam {
        let state = match ipam.state.as_str() {
            "ready" | "idle" => State::Plain,
            _ => State::Bad,
        };
        line(
            "Addresses",
            format!("{} ({})", ipam.state, ipam.reason),
            state,
        );
    }
    if let Some(dns) = &report.dns {
        let known = dns.entries.len();
        match &dns.listening {
            Ok(address) => line(
                "Names",
                format!("{known} in {}, served at {address}", dns.domain),
                State::Plain,
            ),
            Err(reason) => line("Names", format!("not served: {reason}"), State::Bad),
        }
    }
    for listener in report.proxy.iter().flat_map(|proxy| &proxy.listeners) {
        let address = &listener.address;
        match &listener.error {
            None => line("Proxy", address.to_string(), State::Plain),
            Some(error) => line("Proxy", format!("{address}: {error}"), State::Bad),
        }
    }
    for socket in &report.plugin_sockets {
        match &socket.error {
            None => line("Plugin", socket.path.clone(), State::Plain),
            Some(error) => line("Plugin", format!("{}: {error}", socket.path), State::Bad),
        }
    }
    let usable = report.capabilities.iter().filter(|c| c.available);
    let usable: Vec<_> = usable.map(|c| c.name.as_str()).collect();
    if !usable.is_empty() {
        line("Kernel", usable.join(", "), State::Plain);
    }
    finish(&mut text, &table);
    text
}

/// One section as a table.
pub fn section(report: &Report, section: Section, style: Style) -> String {
    let mut table = table(style);
    match section {
        Section::Connections => mesh::connections(report, &mut table),
        Section::Peers => mesh::peers(report, &mut table),
        Section::Targets => mesh::targets(report, &mut table),
        Section::Networks => networks::networks(report, &mut table),
        Section::Endpoints => networks::endpoints(report, &mut table),
        Section::Services => networks::services(report, &mut table),
        Section::Ipam => return ipam::ipam(report, table),
        Section::Dns => return dns::dns(report, table),
        Section::Proxy => return proxy::proxy(report),
        Section::Tunnel => return tunnel::tunnel(report, table),
        Section::Plugin => return plugin::plugin(report, table),
        Section::Settings => return settings::settings(report, table, style),
    }
    if table.is_empty() {
        return format!("no {section}\n");
    }
    let mut text = String::new();
    finish(&mut text, &table);
    text
}

/// A duration in its two largest units, as people say it.
pub fn duration(duration: Duration) -> String {
    let (seconds, micros) = (duration.as_secs(), duration.subsec_micros());
    match seconds {
        0 if (1..1000).contains(&micros) => format!("{micros} µs"),
        0 if micros > 0 => format!("{:.1} ms", f64::from(micros) / 1000.0),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A number of bytes with three digits or less, as people say it.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // 999.95 would be shown as 1000.0.
    while value >= 999.95
        && let Some(larger) = units.next()
    {
        value /= 1000.0;
        unit = Some(larger);
    }
    format!("{value:.1} {}", unit.unwrap_or(&UNITS[0]))
}

fn problems(report: &Report, style: Style) -> String {
    let problems = report.problems();
    if problems.is_empty() {
        return String::new();
    }
    let mut table = table(style);
    table.add_row([state_cell("Warnings", State::Bad)]);
    for problem in problems {
        table.add_row([state_cell(&format!("  ! {}", problem.what), State::Plain)]);
        if !problem.remedy.is_empty() {
            table.add_row([state_cell(&format!("    {}", problem.remedy), State::Faint)]);
        }
    }
    let mut text = String::new();
    finish(&mut text, &table);
    text.push('\n');
    text
}

fn counted(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests;
