//! Pools: their handles, and the subnets for networks whose users gave none.

use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::range::Range;
use super::{AddressSpace, IpamError, PoolId};

/// The option that names a network.
pub const NAME_OPTION: &str = "works.weave.network";

/// The network whose subnet the settings give.
pub const DEFAULT_NETWORK: &str = "weave";

/// By how many bits a subnet for one network is longer than the main range: 256 networks of 4,096
/// addresses in the default 10.32.0.0/12.
const CARVE_BITS: u8 = 8;

/// Longest prefix of a subnet carved from the main range, so that it has room for containers.
const LONGEST_CARVED: u8 = 28;

/// What a pool's handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// Whose networks it is for.
    pub space: AddressSpace,
    /// The subnet.
    pub subnet: IpNet,
    /// The part of it to allocate from.
    pub range: Option<IpNet>,
}

impl Handle {
    /// The addresses that may be handed out.
    pub fn hosts(&self) -> Range {
        let hosts = Range::of_hosts(&self.subnet);
        let part = self.range.map_or(hosts, |range| Range::of_net(&range));
        // A sub-range lies within its subnet; that was checked when the handle was read.
        hosts.intersection(part).unwrap_or(hosts)
    }

    /// In text, as Docker keeps it.
    pub fn id(&self) -> PoolId {
        let space = match self.space {
            AddressSpace::Local => "local",
            AddressSpace::Global => "global",
        };
        PoolId(match self.range {
            None => format!("weave-{space}-{}", self.subnet),
            Some(range) => format!("weave-{space}-{}-{range}", self.subnet),
        })
    }

    /// Checks what a user asked for.
    pub fn new(
        space: AddressSpace,
        subnet: IpNet,
        range: Option<IpNet>,
    ) -> Result<Self, IpamError> {
        if let Some(range) = range
            && !subnet.contains(&range)
        {
            return Err(IpamError::Invalid(format!(
                "--ip-range {range} does not lie in --subnet {subnet}"
            )));
        }
        Ok(Self {
            space,
            subnet: subnet.trunc(),
            range: range.map(|range| range.trunc()),
        })
    }
}

impl FromStr for Handle {
    type Err = IpamError;

    fn from_str(text: &str) -> Result<Self, IpamError> {
        let unknown = || IpamError::UnknownPool(text.to_owned());
        let mut words = text.split('-');
        let space = match (words.next(), words.next()) {
            (Some("weave"), Some("local")) => AddressSpace::Local,
            (Some("weave"), Some("global")) => AddressSpace::Global,
            _ => return Err(unknown()),
        };
        let subnet = words.next().ok_or_else(unknown)?;
        let range = words.next().map(str::parse).transpose();
        match (subnet.parse(), range, words.next()) {
            (Ok(subnet), Ok(range), None) => Self::new(space, subnet, range).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// The subnets into which the main range is cut for networks whose users gave none.
#[derive(Debug, Clone, Copy)]
pub struct Carving {
    range: IpNet,
    prefix: u8,
}

impl Carving {
    /// Those of this range.
    pub fn of(range: IpNet) -> Self {
        let longest = LONGEST_CARVED.max(range.prefix_len());
        Self {
            range: range.trunc(),
            prefix: (range.prefix_len() + CARVE_BITS).min(longest),
        }
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        1 << (self.prefix - self.range.prefix_len()).min(CARVE_BITS)
    }

    /// One of them, counted around.
    pub fn get(&self, index: u32) -> IpNet {
        let index = index % self.count();
        match self.range {
            IpNet::V4(net) => {
                let base = u32::from(net.network());
                let step = index << (32 - self.prefix).min(31);
                let address = base.wrapping_add(step).into();
                Ipv4Net::new(address, self.prefix).map_or(self.range, IpNet::V4)
            }
            IpNet::V6(net) => {
                let base = u128::from(net.network());
                let step = u128::from(index) << (128 - self.prefix).min(127);
                let address = base.wrapping_add(step).into();
                Ipv6Net::new(address, self.prefix).map_or(self.range, IpNet::V6)
            }
        }
    }

    /// Whether this is one of them.
    pub fn has(&self, subnet: &IpNet) -> bool {
        self.range.contains(subnet) && subnet.prefix_len() == self.prefix
    }

    /// Where the search for the subnet of a named network begins: the same on all hosts.
    pub fn start(&self, name: &str) -> u32 {
        let digest = Sha256::digest(name.as_bytes());
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % self.count()
    }
}

/// The IPv6 subnet of a network by its name, unique enough to be the same on all hosts without
/// asking anyone: a unique local prefix (RFC 4193, section 3.2.2) made from the name.
pub fn subnet_v6(name: &str) -> IpNet {
    let digest = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..8].copy_from_slice(&digest[..7]);
    Ipv6Net::new(bytes.into(), 64).map_or_else(|_| Ipv6Net::default().into(), IpNet::V6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn handles_say_everything_in_text() {
        for text in [
            "weave-local-10.32.0.0/12",
            "weave-global-10.6.0.0/16-10.6.4.0/24",
            "weave-local-fd00:1::/64",
        ] {
            assert_eq!(text.parse::<Handle>().unwrap().id().0, text);
        }
        for text in [
            "",
            "weave",
            "test-10.0.0.0-16",
            "weave-local-10.6.0.0/16-10.7.0.0/24",
        ] {
            assert!(text.parse::<Handle>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_range_is_cut_into_256_networks() {
        let carving = Carving::of("10.32.0.0/12".parse().unwrap());
        assert_eq!(carving.count(), 256);
        assert_eq!(carving.get(255).to_string(), "10.47.240.0/20");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_handle_panic(text in "(weave-(local|global)-)?[0-9a-f.:/-]*") {
            let _ = text.parse::<Handle>();
        }

        #[test]
        fn what_is_carved_lies_in_the_range_and_apart(prefix in 0u8..=32, a: u32, b: u32, address: u32) {
            let range: IpNet = Ipv4Net::new(address.into(), prefix).unwrap().trunc().into();
            let carving = Carving::of(range);
            let (one, two) = (carving.get(a), carving.get(b));
            prop_assert!(carving.has(&one));
            prop_assert_eq!(one == two, one.contains(&two.network()));
        }
    }
}
