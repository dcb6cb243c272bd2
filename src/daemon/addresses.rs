//! The address allocator, started as the settings say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tokio::sync::mpsc;

use crate::config::{AllocationInit, Host, Paths, PeerAddress, Settings};
use crate::control::{Warning, Warnings};
use crate::ipam::{Config, Init, Ipam, MeshCommand};
use crate::mesh::Mesh;

/// Where the allocator keeps its journal, within the directory of the state.
const DIRECTORY: &str = "ipam";

/// After how long without contact a majority takes over a peer's addresses: a day, in which an
/// operator notices a host that is only switched off.
const TAKEOVER_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Events of the mesh that wait for the allocator.
const QUEUE: usize = 1024;

/// The range where `IPALLOC_RANGE` is empty: then only subnets that users name are allocated from.
const NO_RANGE: &str = "10.32.0.0/12";

/// Starts the allocator; where it cannot be, everything else goes on without.
pub(super) fn start(settings: &Settings, paths: &Paths, mesh: &Mesh, warnings: &Warnings) -> Ipam {
    let range = match settings.ipalloc_range.get() {
        Some(range) => IpNet::V4(range),
        // The text is a constant and a network.
        None => NO_RANGE.parse().expect("the usual range is a network"),
    };
    let default_subnet = settings.ipalloc_default_subnet.map(|s| IpNet::V4(s.get()));
    let config = Config {
        me: mesh.id(),
        nickname: settings.nickname().to_string(),
        range,
        default_subnet: default_subnet.unwrap_or(range),
        init: init(settings),
        takeover_after: Some(TAKEOVER_AFTER),
    };
    let (commands, of_ipam) = mpsc::unbounded_channel();
    let (events, of_mesh) = mpsc::channel(QUEUE);
    match Ipam::start(config, &paths.state().join(DIRECTORY), commands, of_mesh) {
        Ok(ipam) => {
            tokio::spawn(carry_to_mesh(of_ipam, mesh.clone()));
            tokio::spawn(carry_from_mesh(mesh.clone(), events));
            ipam
        }
        Err(error) => {
            let remedy = "repair or remove the directory; until then `--ipam-driver` with this \
                          plugin does not work";
            warnings.set("ipam", Warning::new(error.to_string(), remedy));
            Ipam::unavailable(error.to_string())
        }
    }
}

fn init(settings: &Settings) -> Init {
    match &settings.ipalloc_init {
        AllocationInit::Consensus(Some(expected)) => Init::Consensus {
            expected: *expected,
        },
        AllocationInit::Consensus(None) => Init::Consensus {
            expected: expected(
                &settings.peers,
                settings.nickname().as_str(),
                &own_addresses(),
            ),
        },
        AllocationInit::Seed(founders) => Init::Seed(founders.clone()),
        AllocationInit::Observer => Init::Observer,
    }
}

/// How many peers there will be: this one, and those that were named beside it.
fn expected(peers: &[PeerAddress], name: &str, own: &BTreeSet<IpAddr>) -> u16 {
    let is_other = |peer: &&PeerAddress| match peer.host() {
        Host::Ip(address) => !own.contains(address),
        Host::Name(host) => host != name && host != "localhost",
    };
    let others = peers.iter().filter(is_other).count();
    u16::try_from(others).unwrap_or(u16::MAX).saturating_add(1)
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let ipv4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            ipv4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}

async fn carry_to_mesh(mut commands: mpsc::UnboundedReceiver<MeshCommand>, mesh: Mesh) {
    while let Some(command) = commands.recv().await {
        let refused = match command {
            MeshCommand::Publish(key, value) => {
                mesh.publish(key, value).err().map(|e| e.to_string())
            }
            MeshCommand::Send(to, kind, payload) => {
                mesh.send(to, kind, payload).err().map(|e| e.to_string())
            }
        };
        if let Some(error) = refused {
            tracing::error!(error, "the other peers are not told of addresses");
        }
    }
}

async fn carry_from_mesh(mesh: Mesh, events: mpsc::Sender<crate::mesh::MeshEvent>) {
    let mut of_mesh = mesh.subscribe();
    while let Some(event) = of_mesh.recv().await {
        if events.send(event).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_counts_once_whoever_names_it() {
        let own = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let count = |text: &str| {
            let peers: Vec<_> = text.split(' ').map(|p| p.parse().unwrap()).collect();
            expected(&peers, "node1", &own)
        };
        assert_eq!(count("192.0.2.1 192.0.2.2 node3"), 3);
        assert_eq!(count("node1 node2"), 2);
        assert_eq!(expected(&[], "node1", &own), 1);
    }
}
