//! What the host looks like: its addresses, its bridges, its DNS servers.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// The bridges where containers find the host, the best first: Docker's default one, and the one
/// of containers whose networks have no gateway.
const BRIDGES: [&str; 2] = ["docker0", "docker_gwbridge"];

/// How Docker calls the bridges of user-defined networks.
const USER_BRIDGE: &str = "br-";

/// The configuration of the host's resolver. Docker mounts it into a plugin of the host's network.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where programs that replace that file as a whole keep its content, below `/run`: a mount of the
/// file goes stale then.
const GENERATED: [&str; 3] = [
    "systemd/resolve/stub-resolv.conf",
    "NetworkManager/resolv.conf",
    "resolvconf/resolv.conf",
];

/// The host's addresses as far as they tell who asks.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    pub(super) own: BTreeSet<IpAddr>,
    pub(super) bridges: Vec<IpNet>,
}

struct Address {
    interface: String,
    net: IpNet,
}

/// The host's addresses now.
pub(super) fn interfaces() -> Interfaces {
    let mut interfaces = Interfaces::default();
    for address in addresses() {
        interfaces.own.insert(address.net.addr());
        let name = address.interface.as_str();
        if BRIDGES.contains(&name) || name.starts_with(USER_BRIDGE) {
            interfaces.bridges.push(address.net.trunc());
        }
    }
    interfaces
}

/// The address by which containers reach the host, or why there is none.
pub(super) fn bridge_address() -> Result<IpAddr, String> {
    let addresses = addresses();
    let of = |bridge: &&str| {
        let mut its = addresses.iter().filter(|a| a.interface == *bridge);
        its.find(|a| a.net.addr().is_ipv4()).map(|a| a.net.addr())
    };
    let found = BRIDGES.iter().find_map(of);
    found.ok_or_else(|| format!("neither {} has an IPv4 address", BRIDGES.join(" nor ")))
}

/// The content of the host's resolver configuration, as far as it can be read.
pub(super) fn resolv_conf(run_dir: &Path) -> Option<String> {
    let stale = fs::metadata(RESOLV_CONF).is_ok_and(|file| file.nlink() == 0);
    let generated = GENERATED.iter().filter(|_| stale);
    let live = generated.filter_map(|path| fs::read_to_string(run_dir.join(path)).ok());
    let fixed = || fs::read_to_string(RESOLV_CONF).ok();
    live.into_iter().next().or_else(fixed)
}

fn addresses() -> Vec<Address> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = ip(interface.address.as_ref()?)?;
        let net = match interface.netmask.as_ref().and_then(ip) {
            Some(mask) => IpNet::with_netmask(address, mask).ok()?,
            None => IpNet::from(address),
        };
        Some(Address {
            interface: interface.interface_name,
            net,
        })
    });
    addresses.collect()
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let ipv4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    ipv4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_its_loopback_address() {
        let own = interfaces().own;
        assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
    }
}
