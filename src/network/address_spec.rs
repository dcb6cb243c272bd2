//! How operators and users write which address they mean.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::types::ParseError;

/// Which address is meant: `ip:10.2.1.5/24` or the same without `ip:` is this very one,
/// `net:10.2.1.0/24` any of that subnet, `net:default` any of the default subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum AddressSpec {
    /// This very one.
    Exact(IpNet),
    /// One of this subnet.
    Subnet(IpNet),
    /// One of the default subnet.
    Default,
}

impl AddressSpec {
    /// Whether an address is meant, where the default subnet is this.
    pub fn matches(&self, address: IpNet, default: IpNet) -> bool {
        match self {
            Self::Exact(exact) => *exact == address,
            Self::Subnet(subnet) => subnet.trunc() == address.trunc(),
            Self::Default => default.trunc() == address.trunc(),
        }
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(address) => write!(f, "ip:{address}"),
            Self::Subnet(subnet) => write!(f, "net:{subnet}"),
            Self::Default => f.write_str("net:default"),
        }
    }
}

impl FromStr for AddressSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "net:default" {
            return Ok(Self::Default);
        }
        if let Some(subnet) = text.strip_prefix("net:") {
            let expected = "a subnet like net:10.2.1.0/24, or net:default";
            let subnet = parse(subnet, expected, text)?;
            if subnet.addr() != subnet.network() {
                let expected = "the subnet's own address after net:, with no host's bits set";
                return Err(ParseError::new(expected, text));
            }
            if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
                let expected = "a subnet with room for hosts: /30 or larger";
                return Err(ParseError::new(expected, text));
            }
            return Ok(Self::Subnet(subnet));
        }
        let expected = "an address with prefix length like 10.2.1.5/24, net:SUBNET or net:default";
        let address = parse(text.strip_prefix("ip:").unwrap_or(text), expected, text)?;
        let has_hosts = address.max_prefix_len() - address.prefix_len() >= 2;
        let is_host = address.addr() != address.network() && address.addr() != address.broadcast();
        if has_hosts && !is_host {
            let expected = "the address of a host, not that of its subnet nor its broadcast";
            return Err(ParseError::new(expected, text));
        }
        Ok(Self::Exact(address))
    }
}

fn parse(part: &str, expected: &'static str, whole: &str) -> Result<IpNet, ParseError> {
    part.parse().map_err(|_| ParseError::new(expected, whole))
}

impl From<AddressSpec> for String {
    fn from(spec: AddressSpec) -> Self {
        spec.to_string()
    }
}

impl TryFrom<String> for AddressSpec {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_weave_net_had_them() {
        for (text, shown) in [
            ("10.2.1.5/24", "ip:10.2.1.5/24"),
            ("ip:10.2.1.5/24", "ip:10.2.1.5/24"),
            ("net:10.2.1.0/24", "net:10.2.1.0/24"),
            ("net:default", "net:default"),
            ("10.2.1.5/32", "ip:10.2.1.5/32"),
        ] {
            assert_eq!(text.parse::<AddressSpec>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_would_be_right() {
        for (text, expected) in [
            ("10.2.1.5", "prefix length"),
            ("net:10.2.1.5/24", "no host's bits"),
            ("net:10.2.1.0/31", "/30 or larger"),
            ("net:", "a subnet like"),
            ("10.2.1.0/24", "not that of its subnet"),
            ("10.2.1.255/24", "broadcast"),
            ("ip:net:default", "prefix length"),
        ] {
            let error = text.parse::<AddressSpec>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_spec_means_what_lies_in_its_subnet() {
        let default = "10.32.0.0/12".parse().unwrap();
        let means = |spec: &str, address: &str| {
            let spec: AddressSpec = spec.parse().unwrap();
            spec.matches(address.parse().unwrap(), default)
        };
        assert!(means("net:default", "10.32.0.7/12"));
        assert!(!means("net:default", "10.32.0.7/24"));
        assert!(means("net:10.2.1.0/24", "10.2.1.9/24"));
        assert!(means("10.2.1.9/24", "10.2.1.9/24"));
        assert!(!means("10.2.1.9/24", "10.2.1.8/24"));
    }
}
