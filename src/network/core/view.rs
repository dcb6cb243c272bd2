//! What is known, for whoever asks.

use std::collections::BTreeSet;

use super::{Core, holder_of, segment_of};
use crate::network::status::{EndpointStatus, NetworkStatus, RouteStatus, SegmentStatus};
use crate::types::SegmentId;

impl Core {
    /// What is known.
    pub(in crate::network) fn status(&self) -> NetworkStatus {
        NetworkStatus {
            segments: self
                .segments
                .keys()
                .filter_map(|name| self.segment_status(name))
                .collect(),
            endpoints: self.endpoint_statuses(),
            routes: self
                .peers
                .iter()
                .filter(|(_, peer)| peer.reachable || peer.claims().next().is_some())
                .map(|(id, peer)| RouteStatus {
                    peer: *id,
                    address: peer.address,
                    route: self.config.policy.route(*id, peer.address, peer.choice),
                })
                .collect(),
            warnings: self.conflicts(),
        }
    }

    fn segment_status(&self, name: &SegmentId) -> Option<SegmentStatus> {
        let spec = self.segment_spec(name)?;
        let networks = &self.segments.get(name)?.networks;
        let subnets: BTreeSet<_> = networks
            .iter()
            .filter_map(|id| self.networks.get(id))
            .flat_map(|spec| &spec.pools)
            .map(|pool| pool.subnet)
            .collect();
        let peers = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.claims().any(|record| record.segment == *name));
        Some(SegmentStatus {
            segment: name.clone(),
            vni: spec.vni,
            mtu: spec.mtu,
            networks: networks.iter().cloned().collect(),
            subnets: subnets.into_iter().collect(),
            peers: peers.map(|(id, _)| *id).collect(),
        })
    }

    fn endpoint_statuses(&self) -> Vec<EndpointStatus> {
        let here = self.endpoints.iter().filter_map(|(id, endpoint)| {
            let network = &endpoint.spec.network;
            Some(EndpointStatus {
                segment: segment_of(self.networks.get(network)?),
                network: Some(network.clone()),
                endpoint: id.clone(),
                container: endpoint.container.clone(),
                addresses: endpoint.addresses(),
                mac: endpoint.assigned_mac,
                peer: self.config.id,
                host: self.config.nickname.clone(),
            })
        });
        let elsewhere = self.peers.iter().flat_map(|(peer_id, peer)| {
            peer.endpoints.iter().filter_map(|(id, record)| {
                self.segments.get(&record.segment)?;
                let host = peer.segments.get(&record.segment);
                Some(EndpointStatus {
                    segment: record.segment.clone(),
                    network: None,
                    endpoint: std::str::from_utf8(id).ok()?.parse().ok()?,
                    container: record.container.clone(),
                    addresses: record.addresses(),
                    mac: record.mac,
                    peer: *peer_id,
                    host: host.map_or_else(|| peer_id.short(), |known| known.host.clone()),
                })
            })
        });
        here.chain(elsewhere).collect()
    }

    /// Addresses that endpoints of this host share with endpoints of others.
    fn conflicts(&self) -> Vec<String> {
        let mut conflicts = Vec::new();
        for endpoint in self.endpoints.values() {
            let Some(name) = self.networks.get(&endpoint.spec.network).map(segment_of) else {
                continue;
            };
            for peer in self.peers.values().filter(|peer| peer.reachable) {
                let host = peer.segments.get(&name).map_or("?", |known| &known.host);
                for (id, record) in &peer.endpoints {
                    let shared = [endpoint.spec.ipv4, endpoint.spec.ipv6]
                        .into_iter()
                        .flatten()
                        .find(|address| record.has_address(address));
                    if let Some(address) = shared.filter(|_| record.segment == name) {
                        conflicts.push(format!(
                            "address {} of {} is also used by {} on host {host}: restart one of \
                             them, and give each host its own part of the subnet (`--ip-range`)",
                            address.addr(),
                            endpoint.holder(),
                            holder_of(id, record),
                        ));
                    }
                }
            }
        }
        conflicts
    }
}
