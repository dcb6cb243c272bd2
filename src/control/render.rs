//! The report as text for people.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::report::{Report, TaskReport, TransportReport};
use crate::mesh::{ConnectionStatus, MeshStatus, PeerStatus};
use crate::network::services::TaskState;
use crate::types::{ParseError, PeerId};

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
    /// Settings in force and rejected ones.
    Settings,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::Peers,
        Self::Targets,
        Self::Networks,
        Self::Endpoints,
        Self::Services,
        Self::Ipam,
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
                "connections, peers, targets, networks, endpoints, services, ipam or settings",
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
        Some(mesh) => mesh_lines(report, mesh, &mut line),
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
        Section::Connections => connections(report, &mut table),
        Section::Peers => peers(report, &mut table),
        Section::Targets => targets(report, &mut table),
        Section::Networks => networks(report, &mut table),
        Section::Endpoints => endpoints(report, &mut table),
        Section::Services => services(report, &mut table),
        Section::Ipam => return ipam(report, table),
        Section::Settings => return settings(report, table, style),
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

fn mesh_lines(report: &Report, mesh: &MeshStatus, line: &mut impl FnMut(&str, String, State)) {
    line(
        "Peer",
        format!("{} ({})", mesh.nickname, mesh.id.short()),
        State::Plain,
    );
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

fn connections(report: &Report, table: &mut Table) {
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

fn peers(report: &Report, table: &mut Table) {
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

fn targets(report: &Report, table: &mut Table) {
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

fn networks(report: &Report, table: &mut Table) {
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
            let name = network.name.as_deref().unwrap_or(network.id.short());
            let subnets: Vec<_> = network.subnets.iter().map(ToString::to_string).collect();
            let own = [cell(name), cell(network.scope), cell(subnets.join(" "))];
            table.add_row(own.into_iter().chain(shared()));
        }
    }
}

fn endpoints(report: &Report, table: &mut Table) {
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

fn services(report: &Report, table: &mut Table) {
    let heads = [
        "SERVICE", "NETWORK", "ADDRESS", "READY", "TASK", "HOST", "STATE",
    ];
    header(table, &heads);
    for service in &report.services {
        let ready = |task: &&TaskReport| task.reachable && task.state == TaskState::Ready;
        let ready = service.tasks.iter().filter(ready).count();
        let mut own = [
            cell(&service.service),
            cell(service.network.short()),
            cell(service.vip),
            cell(format!("{ready}/{}", service.tasks.len())),
        ];
        if service.tasks.is_empty() {
            let nothing = [cell("-"), cell("-"), cell("-")];
            table.add_row(own.iter().cloned().chain(nothing));
        }
        for task in &service.tasks {
            let (text, state) = task_state(task);
            let of_task = [
                cell(task.address),
                cell(&task.host),
                state_cell(text, state),
            ];
            table.add_row(own.into_iter().chain(of_task));
            own = [cell(""), cell(""), cell(""), cell("")];
        }
    }
}

fn task_state(task: &TaskReport) -> (&'static str, State) {
    match task.state {
        _ if !task.reachable => ("host not reachable", State::Bad),
        TaskState::Ready => ("ready", State::Good),
        TaskState::Starting => ("starting", State::Plain),
        TaskState::Unhealthy => ("unhealthy", State::Bad),
        TaskState::Stopping => ("stopping", State::Plain),
    }
}

fn ipam(report: &Report, mut table: Table) -> String {
    let Some(ipam) = &report.ipam else {
        return format!("no {}\n", Section::Ipam);
    };
    let mut text = format!("{}: {}\n", ipam.state, ipam.reason);
    if !ipam.pending.is_empty() {
        let waiting: Vec<_> = ipam
            .pending
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        text += &format!("waiting: {}\n", waiting.join(", "));
    }
    for conflict in &ipam.conflicts {
        text += &format!(
            "conflict: {}\n",
            conflict.replace(char::is_control, "\u{fffd}")
        );
    }
    if ipam.ring.is_none() {
        return text;
    }
    text.push('\n');
    let heads = ["SUBNET", "PEER", "ADDRESSES", "SHARE", "IN USE", "REACHED"];
    header(&mut table, &heads);
    let percent = |thousandths: u32| format!("{}.{} %", thousandths / 10, thousandths % 10);
    for space in &ipam.spaces {
        for share in &space.peers {
            let (reached, state) = match share.reachable {
                true => ("yes", State::Good),
                false => ("no", State::Bad),
            };
            table.add_row([
                cell(space.subnet),
                cell(&share.nickname),
                cell(share.addresses),
                cell(percent(share.share)),
                cell(share.active),
                state_cell(reached, state),
            ]);
        }
    }
    finish(&mut text, &table);
    for space in &ipam.spaces {
        for (number, whose) in [
            (space.unreachable, "of peers that cannot be reached"),
            (space.unaccounted, "of no peer that is known"),
        ] {
            if number > 0 {
                text += &format!("{}: {number} addresses {whose}\n", space.subnet);
            }
        }
    }
    text
}

fn settings(report: &Report, mut table: Table, style: Style) -> String {
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
        let mut table = self::table(style);
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

fn transport(report: &Report, peer: PeerId) -> Option<&TransportReport> {
    report.transports.iter().find(|t| t.peer == peer)
}

fn addresses(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" ")
}

fn counted(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
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

#[derive(Debug, Clone, Copy)]
enum State {
    Plain,
    Faint,
    Heading,
    Good,
    Bad,
}

fn table(style: Style) -> Table {
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

fn header(table: &mut Table, heads: &[&str]) {
    table.set_header(heads.iter().map(|head| state_cell(head, State::Heading)));
}

fn optional<T: ToString>(value: Option<T>) -> Cell {
    match value {
        Some(value) => cell(value.to_string()),
        None => cell("-"),
    }
}

fn cell(text: impl ToString) -> Cell {
    state_cell(&text.to_string(), State::Plain)
}

fn state_cell(text: &str, state: State) -> Cell {
    // Names come from other hosts: they must not steer the terminal.
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    let cell = Cell::new(text);
    match state {
        State::Plain => cell,
        State::Faint => cell.add_attribute(Attribute::Dim),
        State::Heading => cell.add_attribute(Attribute::Bold),
        State::Good => cell.fg(Color::Green),
        State::Bad => cell.fg(Color::Red),
    }
}

fn finish(text: &mut String, table: &Table) {
    for line in table.lines() {
        // Every cell begins with a blank of padding.
        let line = line.trim_end();
        let line = line.strip_prefix(' ').unwrap_or(line);
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::examples;
    use super::*;

    fn shown(section: Section) -> String {
        self::section(&examples::report(), section, Style::Plain)
    }

    #[test]
    fn the_overview_begins_with_what_is_wrong() {
        assert_eq!(
            overview(&examples::report(), Style::Plain),
            "\
Warnings
  ! docker.sock does not answer
    wait, or restart Docker
  ! 192.0.2.9 has another password
  ! WEAVE_MTU=\"99\" is not obeyed: expected a number of bytes from 576 to 65535; in force is: found from the path to the peers

      Version:  3.0.0, up 1d 2h
         Peer:  node1 (0101010101)
    Listening:  0.0.0.0:6783
     Password:  set
        Peers:  2, 2 of them reachable
  Connections:  1 established, 1 retrying
      Targets:  1
   Transports:  1 vxlan
        Scope:  local (this engine is not part of a swarm)
     Networks:  1 here, 1 segment known
    Endpoints:  1 here, 0 elsewhere
    Addresses:  ready (524288 addresses of 10.32.0.0/12 are this host's)
       Plugin:  /run/docker/plugins/weave.sock
       Kernel:  vxlan
"
        );
    }

    #[test]
    fn tables_are_aligned() {
        assert_eq!(
            shown(Section::Connections),
            "\
DIR  ADDRESS         STATE        PEER   TRANSPORT  MTU   RTT     INFO
->   192.0.2.2:6783  established  node2  vxlan      1450  412 µs  target of the settings; nothing is encrypted
->   192.0.2.3:6783  retrying     -      -          -     -       connection refused; again in 1m 15s
"
        );
        assert_eq!(
            shown(Section::Peers),
            "\
PEER   ID          REACHED    TRANSPORT  MTU   LINKS  VERSION  ADDRESSES
node1  0101010101  this host  -          -     1      3.0.0    192.0.2.2:6783
node2  0202020202  directly   vxlan      1450  1      3.0.0    192.0.2.2:6783
"
        );
        assert_eq!(
            shown(Section::Targets),
            "\
TARGET  GIVEN BY  ADDRESSES
node2   settings  192.0.2.2:6783
"
        );
        assert_eq!(
            shown(Section::Networks),
            "\
NETWORK  SCOPE  SUBNETS      VNI   MTU   PEERS        SEGMENT
web      local  10.1.0.0/16  4097  1450  node1 node2  name:web
"
        );
        assert_eq!(
            shown(Section::Ipam),
            "\
ready: 524288 addresses of 10.32.0.0/12 are this host's

SUBNET        PEER   ADDRESSES  SHARE   IN USE  REACHED
10.32.0.0/12  node1  524288     50.0 %  3       yes
10.32.0.0/12  node2  524288     50.0 %  0       no
10.32.0.0/12: 524288 addresses of peers that cannot be reached
"
        );
        assert_eq!(
            shown(Section::Endpoints),
            "\
CONTAINER  NETWORK  ADDRESSES  MAC                HOST
shop       web      10.1.0.2   02:77:0a:01:00:02  node1
"
        );
    }

    #[test]
    fn services_are_shown_with_their_tasks() {
        assert_eq!(
            shown(Section::Services),
            "\
SERVICE  NETWORK       ADDRESS   READY  TASK      HOST   STATE
shop     ob5a0kd8tmw1  10.2.0.2  1/2    10.2.0.3  node1  ready
                                        10.2.0.4  node2  stopping
"
        );
    }

    #[test]
    fn settings_are_shown_without_the_password() {
        let text = shown(Section::Settings);
        assert!(text.contains("WEAVE_PASSWORD          "), "{text}");
        assert!(text.contains("NOT OBEYED  WAS SET TO  WHY\n"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn colour_is_for_terminals_and_names_cannot_steer_them() {
        let mut report = examples::report();
        report.endpoints[0].host = "\u{1b}[2Jhost".to_owned();
        report.endpoints[0].container = Some("a\nb".to_owned());
        let plain = section(&report, Section::Endpoints, Style::Plain);
        assert!(!plain.contains('\u{1b}'), "{plain}");
        assert_eq!(plain.lines().count(), 2);
        let coloured = overview(&report, Style::Coloured);
        assert!(coloured.contains("\u{1b}["), "{coloured}");
    }

    #[test]
    fn empty_sections_say_so() {
        let report = Report::of_settings(vec![], vec![]);
        for section in Section::ALL {
            assert!(!self::section(&report, section, Style::Plain).is_empty());
        }
        assert!(overview(&report, Style::Plain).contains("not started"));
    }

    #[test]
    fn durations_are_readable() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1 µs"),
            (1_500, "1.5 ms"),
            (59_000_000, "59s"),
            (61_000_000, "1m 1s"),
            (3_660_000_000, "1h 1m"),
            (90_000_000_000, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }
}
