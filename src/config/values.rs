//! What a setting can hold: parsed once, valid ever after.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::types::ParseError;

/// The control port where neither setting nor target names one; the port after it is VXLAN's.
pub const DEFAULT_PORT: u16 = 6783;

/// Longest host name (RFC 1035, section 2.3.4, as text without the final dot).
const MAX_HOST_NAME: usize = 253;

/// Longest nickname: the kernel's limit for host names (`HOST_NAME_MAX`).
const MAX_NICKNAME: usize = 64;

/// A place where a peer may be found: `host[:port]`, IPv6 addresses with a port in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PeerAddress {
    host: Host,
    port: Option<u16>,
}

/// The host part of a [`PeerAddress`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address that needs no resolving.
    Ip(IpAddr),
    /// A name to resolve, in lower case.
    Name(String),
}

impl PeerAddress {
    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port that was given, if any; without one it is the mesh's own.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Ip(IpAddr::V6(ip)), Some(port)) => write!(f, "[{ip}]:{port}"),
            (Host::Ip(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (Host::Ip(ip), None) => write!(f, "{ip}"),
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (Host::Name(name), None) => f.write_str(name),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseError::new(
                "a host name or address as `host`, `host:port`, `address:port` or \
                 `[IPv6 address]:port`, with a port from 1 to 65535",
                text,
            )
        };
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Self::new(Host::Ip(ip.into()), None).ok_or_else(error);
        }
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(None) => return Err(error()),
            Some(Some((ip, ""))) => (bracketed(ip).ok_or_else(error)?, None),
            Some(Some((ip, rest))) => {
                let port = rest.strip_prefix(':').ok_or_else(error)?;
                (bracketed(ip).ok_or_else(error)?, Some(port))
            }
            None => match text.split_once(':') {
                Some((host, port)) => (named(host).ok_or_else(error)?, Some(port)),
                None => (named(text).ok_or_else(error)?, None),
            },
        };
        let port = match port.map(parse_port) {
            Some(None) => return Err(error()),
            Some(port) => port,
            None => None,
        };
        Self::new(host, port).ok_or_else(error)
    }
}

impl PeerAddress {
    fn new(host: Host, port: Option<u16>) -> Option<Self> {
        match host {
            Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => None,
            host => Some(Self { host, port }),
        }
    }
}

fn bracketed(text: &str) -> Option<Host> {
    let ip = text.parse::<Ipv6Addr>().ok()?;
    Some(Host::Ip(ip.into()))
}

fn named(text: &str) -> Option<Host> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Some(Host::Ip(ip.into()));
    }
    // Only digits and dots: a mistyped IPv4 address, which no resolver should be asked for.
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > MAX_HOST_NAME || !name.split('.').all(label) {
        return None;
    }
    Some(Host::Name(name.to_ascii_lowercase()))
}

fn parse_port(text: &str) -> Option<u16> {
    if !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What the Engine is told of the networks' scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Global on a swarm node, local on a lone engine.
    #[default]
    Auto,
    /// Swarm's managers define the networks.
    Global,
    /// Each engine defines its own networks.
    Local,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Global => "global",
            Self::Local => "local",
        })
    }
}

impl FromStr for Scope {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "global" | "swarm" => Ok(Self::Global),
            "local" => Ok(Self::Local),
            _ => Err(ParseError::new("`auto`, `global` or `local`", text)),
        }
    }
}

/// The largest IP packet that containers may send: 576 (RFC 791, what every host must accept) to
/// 65535 bytes (the largest there is).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtu(u16);

impl Mtu {
    /// The number of bytes.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mtu {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|bytes| *bytes >= 576)
            .map(Self)
            .ok_or_else(|| ParseError::new("a number of bytes from 576 to 65535", text))
    }
}

/// The mesh's port, TCP and UDP; the one after it is VXLAN's, so it is never the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(u16);

impl Port {
    /// The port of sessions and of the tunnel.
    pub const fn control(self) -> u16 {
        self.0
    }

    /// The UDP port of VXLAN.
    pub const fn vxlan(self) -> u16 {
        self.0 + 1
    }
}

impl Default for Port {
    fn default() -> Self {
        Self(DEFAULT_PORT)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_port(text)
            .filter(|port| *port < u16::MAX)
            .map(Self)
            .ok_or_else(|| ParseError::new("a port from 1 to 65534", text))
    }
}

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress(IpAddr);

impl HostAddress {
    /// The address.
    pub const fn get(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for HostAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>()
            .ok()
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
            .map(Self)
            .ok_or_else(|| {
                ParseError::new(
                    "one address of this host, like 192.0.2.1; leave it empty for all addresses",
                    text,
                )
            })
    }
}

/// What a peer calls itself: 1 to 64 printable characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nickname(String);

impl Nickname {
    /// The name of this host, or `weave` where it has none.
    pub fn of_this_host() -> Self {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.to_str()?.parse().ok())
            .unwrap_or_else(|| Self("weave".to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Nickname {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.is_empty() && text.chars().count() <= MAX_NICKNAME;
        if !fits || text.chars().any(char::is_control) {
            return Err(ParseError::new("1 to 64 printable characters", text));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where status is served over TCP, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusAddress(Option<SocketAddr>);

impl StatusAddress {
    /// The address to listen on; `None` when it is switched off.
    pub const fn get(self) -> Option<SocketAddr> {
        self.0
    }
}

impl Default for StatusAddress {
    fn default() -> Self {
        Self(Some((Ipv4Addr::LOCALHOST, 6782).into()))
    }
}

impl fmt::Display for StatusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for StatusAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let all_addresses = text.strip_prefix(':').and_then(parse_port);
        let address = match all_addresses {
            Some(port) => Some((Ipv4Addr::UNSPECIFIED, port).into()),
            None => text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0),
        };
        address.map(|a| Self(Some(a))).ok_or_else(|| {
            ParseError::new(
                "`address:port` like 127.0.0.1:6782, or nothing to switch it off",
                text,
            )
        })
    }
}

/// How many connections to peers there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit(u32);

impl ConnectionLimit {
    /// The number; `None` when there is no limit.
    pub const fn get(self) -> Option<usize> {
        match self.0 {
            0 => None,
            limit => Some(limit as usize),
        }
    }
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self(200)
    }
}

impl fmt::Display for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no limit"),
            limit => limit.fmt(f),
        }
    }
}

impl FromStr for ConnectionLimit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ParseError::new("a number of connections, 0 for no limit", text))
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What fails.
    Error,
    /// And what is not as it should be.
    Warning,
    /// And what changes.
    #[default]
    Info,
    /// And how it comes about.
    Debug,
    /// Everything, the libraries' own messages included.
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

impl FromStr for LogLevel {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "error" => Ok(Self::Error),
            "warning" | "warn" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(ParseError::new(
                "`error`, `warning`, `info`, `debug` or `trace`",
                text,
            )),
        }
    }
}

/// A subnet of either family; host bits are dropped, an address stands for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet(IpNet);

impl Subnet {
    /// The subnet.
    pub const fn get(self) -> IpNet {
        self.0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(|net| Self(net.trunc()))
            .map_err(|_| ParseError::new("a subnet like 192.0.2.0/24 or fd00::/64", text))
    }
}

/// A range of IPv4 addresses to allocate from, of at least 4 addresses; host bits are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range(Ipv4Net);

impl Range {
    /// The range.
    pub const fn get(self) -> Ipv4Net {
        self.0
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Range {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Ipv4Net>()
            .ok()
            .filter(|net| (2..=30).contains(&net.prefix_len()))
            .map(|net| Self(net.trunc()))
            .ok_or_else(|| {
                ParseError::new(
                    "an IPv4 range like 10.32.0.0/12, with a prefix length from 2 to 30",
                    text,
                )
            })
    }
}

/// After how long without contact a peer's addresses are taken over; never, if it is not to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeoverAfter(Option<Duration>);

impl TakeoverAfter {
    /// Shorter ones could not be told from a restart.
    const SHORTEST: Duration = Duration::from_secs(10);
    /// A day, in which an operator notices a host that is only switched off.
    const USUAL: Duration = Duration::from_secs(24 * 3600);

    /// After how long; `None` for never.
    pub const fn get(self) -> Option<Duration> {
        self.0
    }
}

impl Default for TakeoverAfter {
    fn default() -> Self {
        Self(Some(Self::USUAL))
    }
}

impl fmt::Display for TakeoverAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => humantime::format_duration(after).fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl FromStr for TakeoverAfter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "never" {
            return Ok(Self(None));
        }
        let after = humantime::parse_duration(text).ok();
        after
            .filter(|after| *after >= Self::SHORTEST)
            .map(|after| Self(Some(after)))
            .ok_or_else(|| {
                ParseError::new("`never`, or at least ten seconds as in 90s, 1h or 7d", text)
            })
    }
}

/// The range that peers share out among themselves, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationRange(Option<Range>);

impl AllocationRange {
    /// The range; `None` when no addresses are to be allocated.
    pub fn get(self) -> Option<Ipv4Net> {
        self.0.map(Range::get)
    }
}

impl Default for AllocationRange {
    fn default() -> Self {
        Self(
            Ipv4Net::new(Ipv4Addr::new(10, 32, 0, 0), 12)
                .ok()
                .map(Range),
        )
    }
}

impl fmt::Display for AllocationRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(range) => range.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for AllocationRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Ok(Self(None)),
            _ => text.parse().map(|range| Self(Some(range))),
        }
    }
}

/// How the first division of the allocation range comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllocationInit {
    /// By agreement of a majority of this many peers; without a number, of those it was told of.
    Consensus(Option<u16>),
    /// Among these peers, by nickname or identity; all must be given the same list.
    Seed(Vec<String>),
    /// By others; this peer only asks for a share later.
    Observer,
}

impl Default for AllocationInit {
    fn default() -> Self {
        Self::Consensus(None)
    }
}

impl fmt::Display for AllocationInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consensus(None) => f.write_str("consensus"),
            Self::Consensus(Some(peers)) => write!(f, "consensus={peers}"),
            Self::Seed(peers) => write!(f, "seed={}", peers.join(",")),
            Self::Observer => f.write_str("observer"),
        }
    }
}

impl FromStr for AllocationInit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseError::new(
                "`consensus`, `consensus=NUMBER`, `seed=PEER,PEER,...` or `observer`",
                text,
            )
        };
        let (word, value) = match text.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (text, None),
        };
        match (word, value) {
            ("observer", None) => Ok(Self::Observer),
            ("consensus", None) => Ok(Self::Consensus(None)),
            ("consensus", Some(peers)) => match peers.parse() {
                Ok(peers) if peers > 0 => Ok(Self::Consensus(Some(peers))),
                _ => Err(error()),
            },
            ("seed", Some(peers)) => {
                let peers: Vec<_> = peers
                    .split(',')
                    .map(str::trim)
                    .filter(|peer| !peer.is_empty())
                    .map(str::to_owned)
                    .collect();
                match peers.is_empty() {
                    true => Err(error()),
                    false => Ok(Self::Seed(peers)),
                }
            }
            _ => Err(error()),
        }
    }
}

/// A plugin socket by whose name swarm nodes, too, can make local-scope networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LegacySocket {
    /// The driver `weave`.
    Weave,
    /// The driver `weavemesh`, the local-scope one of Weave Net.
    Weavemesh,
}

impl LegacySocket {
    /// The driver's name, that of the socket without `.sock`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weave => "weave",
            Self::Weavemesh => "weavemesh",
        }
    }
}

/// The plugin sockets to serve beside the managed one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LegacySockets(Vec<LegacySocket>);

impl LegacySockets {
    /// Which ones, each once.
    pub fn get(&self) -> &[LegacySocket] {
        &self.0
    }
}

impl fmt::Display for LegacySockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("off");
        }
        let names: Vec<_> = self.0.iter().map(|socket| socket.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for LegacySockets {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match parse_switch(text) {
            Some(true) => return Ok(Self(vec![LegacySocket::Weave, LegacySocket::Weavemesh])),
            Some(false) => return Ok(Self::default()),
            None => {}
        }
        let mut sockets = text
            .split([',', ' '])
            .filter(|name| !name.is_empty())
            .map(|name| match name {
                "weave" => Ok(LegacySocket::Weave),
                "weavemesh" => Ok(LegacySocket::Weavemesh),
                _ => Err(ParseError::new(
                    "`true` for both, or the names to serve: `weave`, `weavemesh`",
                    text,
                )),
            })
            .collect::<Result<Vec<_>, _>>()?;
        sockets.sort();
        sockets.dedup();
        Ok(Self(sockets))
    }
}

/// Whether something is on: `true`, `yes`, `on`, `1` or `false`, `no`, `off`, `0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switch(pub bool);

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "on" } else { "off" })
    }
}

impl FromStr for Switch {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_switch(text)
            .map(Self)
            .ok_or_else(|| ParseError::new("`true` or `false`", text))
    }
}

/// Whether something is on: anything but `false`, `no`, `off`, `0` and nothing, as in Weave Net.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LooseSwitch(pub bool);

impl fmt::Display for LooseSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Switch(self.0).fmt(f)
    }
}

impl FromStr for LooseSwitch {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(!text.is_empty() && parse_switch(text) != Some(false)))
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<T: FromStr<Err = ParseError> + fmt::Display>(good: &[(&str, &str)], bad: &[&str]) {
        for (text, shown) in good {
            assert_eq!(text.parse::<T>().unwrap().to_string(), *shown, "{text:?}");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn peers_are_hosts_or_addresses_with_or_without_port() {
        check::<PeerAddress>(
            &[
                ("host2", "host2"),
                ("Host2.Example.:7000", "host2.example:7000"),
                ("192.0.2.1", "192.0.2.1"),
                ("192.0.2.1:6783", "192.0.2.1:6783"),
                ("fd00::1", "fd00::1"),
                ("[fd00::1]", "fd00::1"),
                ("[fd00::1]:6783", "[fd00::1]:6783"),
                ("my_host-1", "my_host-1"),
            ],
            &[
                "",
                ":",
                ":1",
                "host:",
                "host:0",
                "host:65536",
                "host:+1",
                "300.1.1.1",
                "1.2.3",
                "[host]:1",
                "[fd00::1",
                "[fd00::1]6783",
                "a..b",
                "-a",
                "a/b",
                "a b",
                "0.0.0.0",
                "[::]:6783",
                "224.0.0.1",
                "tcp://host",
            ],
        );
    }

    #[test]
    fn numbers_stay_within_their_ranges() {
        check::<Mtu>(
            &[("576", "576"), ("65535", "65535")],
            &["", "575", "65536", "-1", "1.5k", "1400 bytes"],
        );
        check::<Port>(
            &[("1", "1"), ("65534", "65534")],
            &["", "0", "65535", "65536", "http"],
        );
        check::<ConnectionLimit>(&[("0", "no limit"), ("30", "30")], &["", "-1", "many"]);
        assert_eq!("6783".parse::<Port>().unwrap().vxlan(), 6784);
        assert_eq!("0".parse::<ConnectionLimit>().unwrap().get(), None);
    }

    #[test]
    fn words_are_known_or_refused() {
        check::<Scope>(
            &[("Auto", "auto"), ("swarm", "global"), ("local", "local")],
            &["", "all"],
        );
        check::<LogLevel>(&[("WARN", "warning"), ("debug", "debug")], &["", "loud"]);
        check::<Switch>(&[("yes", "on"), ("0", "off")], &["", "maybe"]);
        check::<LooseSwitch>(
            &[
                ("maybe", "on"),
                ("1", "on"),
                ("", "off"),
                ("False", "off"),
                ("no", "off"),
            ],
            &[],
        );
        check::<LegacySockets>(
            &[
                ("true", "weave,weavemesh"),
                ("weavemesh, weave,weave", "weave,weavemesh"),
                ("weave", "weave"),
                ("off", "off"),
            ],
            &["docker"],
        );
        check::<AllocationInit>(
            &[
                ("consensus", "consensus"),
                ("consensus=3", "consensus=3"),
                ("seed=a, b", "seed=a,b"),
                ("observer", "observer"),
            ],
            &[
                "",
                "consensus=",
                "consensus=0",
                "seed=",
                "seed",
                "observer=1",
            ],
        );
    }

    #[test]
    fn addresses_are_ones_that_can_be_used() {
        check::<HostAddress>(
            &[("192.0.2.1", "192.0.2.1"), ("fd00::1", "fd00::1")],
            &["", "0.0.0.0", "::", "eth0", "192.0.2.1:6783"],
        );
        check::<StatusAddress>(
            &[
                ("127.0.0.1:6782", "127.0.0.1:6782"),
                (":6782", "0.0.0.0:6782"),
                ("[::1]:80", "[::1]:80"),
                ("", "off"),
                ("off", "off"),
            ],
            &[
                "127.0.0.1",
                "localhost:6782",
                "127.0.0.1:0",
                "/run/status.sock",
            ],
        );
        check::<AllocationRange>(
            &[
                ("10.32.0.0/12", "10.32.0.0/12"),
                ("10.33.1.2/12", "10.32.0.0/12"),
                ("", "off"),
            ],
            &["10.32.0.0", "10.32.0.0/31", "10.32.0.0/1", "fd00::/64"],
        );
        check::<TakeoverAfter>(
            &[
                ("24h", "1day"),
                ("10s", "10s"),
                ("1h 30m", "1h 30m"),
                ("never", "never"),
            ],
            &["", "9s", "1", "-1h", "soon"],
        );
        check::<Nickname>(&[("node 1", "node 1")], &["", "a\nb", &"x".repeat(65)]);
    }

    #[test]
    fn defaults_are_those_of_weave_net() {
        assert_eq!(AllocationRange::default().to_string(), "10.32.0.0/12");
        assert_eq!(StatusAddress::default().to_string(), "127.0.0.1:6782");
        assert_eq!(ConnectionLimit::default().get(), Some(200));
        assert_eq!(Port::default().control(), 6783);
    }

    proptest! {
        #[test]
        fn what_is_taken_for_a_peer_survives_text(text in "[a-z0-9:.\\[\\]-]{0,24}") {
            if let Ok(peer) = text.parse::<PeerAddress>() {
                prop_assert_eq!(peer.to_string().parse(), Ok(peer));
            }
        }
    }
}
