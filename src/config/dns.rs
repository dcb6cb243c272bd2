//! What the settings of weaveDNS can hold.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::values::Switch;
use crate::types::{DnsName, ParseError};

/// The port of DNS.
const PORT: u16 = 53;

/// The longest time for which answers may be remembered, in seconds: a week (RFC 8767).
const MAX_TTL: u32 = 604_800;

/// Whether weaveDNS is on, where that is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DnsSwitch(Option<bool>);

impl DnsSwitch {
    /// What was said.
    pub const fn get(self) -> Option<bool> {
        self.0
    }
}

impl fmt::Display for DnsSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(on) => Switch(on).fmt(f),
            None => f.write_str("off in the managed plugin, else on"),
        }
    }
}

impl FromStr for DnsSwitch {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Switch>().map(|switch| Self(Some(switch.0)))
    }
}

/// The domain of all names that weaveDNS serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsDomain(DnsName);

impl DnsDomain {
    /// The domain.
    pub const fn get(&self) -> &DnsName {
        &self.0
    }
}

impl Default for DnsDomain {
    fn default() -> Self {
        // The text is a name.
        Self("weave.local".parse().expect("a domain"))
    }
}

impl fmt::Display for DnsDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DnsDomain {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| ParseError::new("a domain like `weave.local`", text))
    }
}

/// Where weaveDNS listens: one address of this host, with port 53 unless it says another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsAddress(SocketAddr);

impl DnsAddress {
    /// The address.
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for DnsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DnsAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
        address
            .or_else(|_| text.parse::<SocketAddr>())
            .ok()
            // An answer must come from the address that was asked.
            .filter(|address| !address.ip().is_unspecified() && !address.ip().is_multicast())
            .filter(|address| address.port() != 0)
            .map(Self)
            .ok_or_else(|| {
                ParseError::new(
                    "one address of this host as `address` or `address:port`, like 172.17.0.1",
                    text,
                )
            })
    }
}

/// How long answers may be remembered, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsTtl(u32);

impl DnsTtl {
    /// The number of seconds.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for DnsTtl {
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for DnsTtl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DnsTtl {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .filter(|seconds| *seconds <= MAX_TTL)
            .map(Self)
            .ok_or_else(|| ParseError::new("a number of seconds from 0 to 604800", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, shown) in [
            ("172.17.0.1", "172.17.0.1:53"),
            ("172.17.0.1:5353", "172.17.0.1:5353"),
            ("fd00::1", "[fd00::1]:53"),
        ] {
            assert_eq!(text.parse::<DnsAddress>().unwrap().to_string(), shown);
        }
        for text in ["", "0.0.0.0:53", "[::]:53", "host", "172.17.0.1:0", ":53"] {
            assert!(text.parse::<DnsAddress>().is_err(), "{text:?}");
        }
        for text in ["", "-1", "604801", "1s"] {
            assert!(text.parse::<DnsTtl>().is_err(), "{text:?}");
        }
        for text in ["", ".", "a b", "a..b"] {
            assert!(text.parse::<DnsDomain>().is_err(), "{text:?}");
        }
        assert_eq!(
            "foo.bar.".parse::<DnsDomain>().unwrap().to_string(),
            "foo.bar"
        );
        assert_eq!("no".parse::<DnsSwitch>().unwrap().get(), Some(false));
        assert!("maybe".parse::<DnsSwitch>().is_err());
    }
}
