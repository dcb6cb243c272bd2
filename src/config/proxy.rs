//! What the settings of the Docker API proxy can hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

use crate::types::ParseError;

/// The port of the proxy, which was Weave Net's.
const PORT: u16 = 12375;

/// The socket of the proxy, which was Weave Net's.
const SOCKET: &str = "/var/run/weave/weave.sock";

/// Where the proxy listens, written as in `DOCKER_HOST`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ProxyAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl Default for ProxyAddress {
    fn default() -> Self {
        Self::Unix(SOCKET.into())
    }
}

impl ProxyAddress {
    /// Whether it is a TCP port.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Where the proxy is to be for clients that reach Docker at this address: on its own port, on
    /// this host alone where Docker is.
    #[must_use]
    pub fn beside(docker: &str) -> Option<Self> {
        let text = docker.strip_prefix("tcp://")?;
        let any = Ipv4Addr::UNSPECIFIED.into();
        let ip = match text.parse() {
            Ok(Self::Tcp(address)) if address.ip().is_loopback() => address.ip(),
            Ok(Self::Tcp(address)) if address.is_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
            _ => any,
        };
        Some(Self::Tcp(SocketAddr::new(ip, PORT)))
    }

    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => address.ip().is_loopback(),
        }
    }

    /// Where a client on this host finds it.
    #[must_use]
    pub fn of_client(self) -> Self {
        match self {
            Self::Tcp(mut address) if address.ip().is_unspecified() => {
                address.set_ip(match address.ip() {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                });
                Self::Tcp(address)
            }
            address => address,
        }
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for ProxyAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseError::new(
                "unix:///PATH below /run, or tcp://ADDRESS[:PORT] with an address of this host",
                text,
            )
        };
        if let Some(path) = text.strip_prefix("unix://").or(text.strip_prefix("unix:")) {
            return match path.starts_with('/') && !path.ends_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(error()),
            };
        }
        let text = text.strip_prefix("tcp://").unwrap_or(text);
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Self::Tcp(SocketAddr::new(ip, PORT)));
        }
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let port = match port {
            "" => PORT,
            port => port.parse().map_err(|_| error())?,
        };
        match host {
            "localhost" => Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into())),
            "" if text.contains(':') => Ok(Self::Tcp((Ipv4Addr::UNSPECIFIED, port).into())),
            _ => Err(error()),
        }
    }
}

impl From<ProxyAddress> for String {
    fn from(address: ProxyAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for ProxyAddress {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// The expression.
    pub const fn get(&self) -> &Regex {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for Pattern {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pattern = Regex::new(text).map(Self);
        pattern.map_err(|_| ParseError::new("a regular expression like ^aws-(.*)$", text))
    }
}

/// Text that is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainText(String);

impl PlainText {
    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlainText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PlainText {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_for_docker() {
        for (text, shown) in [
            (
                "unix:///run/weave/weave.sock",
                "unix:///run/weave/weave.sock",
            ),
            ("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:12375"),
            ("tcp://:12375", "tcp://0.0.0.0:12375"),
            ("localhost", "tcp://127.0.0.1:12375"),
            ("tcp://[::1]:2375", "tcp://[::1]:2375"),
            ("[::1]", "tcp://[::1]:12375"),
        ] {
            let address: ProxyAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
        for text in [
            "",
            "unix://",
            "unix://x",
            "unix:///x/",
            "tcp://",
            "example:1",
            "tcp://:x",
        ] {
            assert!(text.parse::<ProxyAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_proxy_is_where_clients_reach_docker() {
        let beside = |docker| ProxyAddress::beside(docker).map(|address| address.to_string());
        assert_eq!(beside(""), None);
        assert_eq!(beside("unix:///run/docker.sock"), None);
        for (docker, proxy) in [
            ("tcp://127.0.0.1:2375", "tcp://127.0.0.1:12375"),
            ("tcp://localhost:2375", "tcp://127.0.0.1:12375"),
            ("tcp://[::1]:2375", "tcp://[::1]:12375"),
            ("tcp://host1:2376", "tcp://0.0.0.0:12375"),
            ("tcp://192.0.2.1:2376", "tcp://0.0.0.0:12375"),
        ] {
            assert_eq!(beside(docker).as_deref(), Some(proxy), "{docker}");
        }
    }

    #[test]
    fn a_client_of_this_host_is_told_an_address_that_it_can_reach() {
        let client = |text: &str| {
            text.parse::<ProxyAddress>()
                .unwrap()
                .of_client()
                .to_string()
        };
        assert_eq!(client("tcp://0.0.0.0:1"), "tcp://127.0.0.1:1");
        assert_eq!(client("tcp://[::]:1"), "tcp://[::1]:1");
        assert_eq!(client("tcp://192.0.2.1:1"), "tcp://192.0.2.1:1");
    }
}
