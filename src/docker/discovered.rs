//! The nodes of the swarm that the Engine tells of by itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::wire::{DiscoveredNode, Discovery};

/// A node of the swarm (libnetwork `discoverapi.NodeDiscovery`).
const NODE_DISCOVERY: i64 = 1;

/// The other nodes that the Engine has told of since the daemon started; cloning gives another
/// handle.
///
/// The Engine tells of each node once, when it joins: a daemon started later is told of none.
#[derive(Debug, Clone, Default)]
pub struct DiscoveredNodes {
    addresses: Arc<watch::Sender<BTreeSet<IpAddr>>>,
}

impl DiscoveredNodes {
    /// Their addresses, now and whenever they change.
    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.addresses.subscribe()
    }

    /// `DiscoverNew`: a node has joined the swarm, or is there.
    pub fn handle_new(&self, discovery: Discovery) {
        if let Some(address) = other_node(discovery) {
            self.addresses.send_if_modified(|all| all.insert(address));
        }
    }

    /// `DiscoverDelete`: a node has left the swarm, or is not heard of any more.
    pub fn handle_delete(&self, discovery: Discovery) {
        if let Some(address) = other_node(discovery) {
            self.addresses.send_if_modified(|all| all.remove(&address));
        }
    }
}

/// The address of another node; anything else is of no use here and no reason to fail.
fn other_node(discovery: Discovery) -> Option<IpAddr> {
    if discovery.discovery_type != NODE_DISCOVERY {
        return None;
    }
    let node: DiscoveredNode = serde_json::from_value(discovery.discovery_data).ok()?;
    if node.is_self {
        return None;
    }
    let address: IpAddr = node.address.parse().ok()?;
    Some(address).filter(|address| !address.is_unspecified() && !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::docker::wire;

    fn discovery(kind: i64, address: &str, is_self: bool) -> Discovery {
        let json = json!({"DiscoveryType": kind, "DiscoveryData":
            {"Address": address, "BindAddress": "", "Self": is_self}});
        wire::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn other_nodes_come_and_go_and_anything_else_is_ignored() {
        let nodes = DiscoveredNodes::default();
        let seen = nodes.subscribe();
        nodes.handle_new(discovery(1, "192.0.2.1", true));
        nodes.handle_new(discovery(1, "192.0.2.2", false));
        nodes.handle_new(discovery(1, "192.0.2.2", false));
        nodes.handle_new(discovery(1, "", false));
        nodes.handle_new(discovery(2, "192.0.2.3", false));
        nodes.handle_new(Discovery::default());
        let two: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(*seen.borrow(), BTreeSet::from([two]));
        nodes.handle_delete(discovery(1, "192.0.2.9", false));
        nodes.handle_delete(discovery(1, "192.0.2.2", false));
        assert!(seen.borrow().is_empty());
    }
}
