//! What follows for the devices of a segment, and for what the other peers are told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{Action, Core, segment_of};
use crate::datapath::{Forwarding, SegmentSpec, mtu};
use crate::network::record::SegmentRecord;
use crate::network::{NetworkSpec, SharedPeers};
use crate::types::SegmentId;

impl Core {
    /// Brings devices and record of a segment up to date, where they differ.
    pub(super) fn refresh_segment(&mut self, name: &SegmentId) {
        let Some(spec) = self.segment_spec(name) else {
            return;
        };
        let record = SegmentRecord {
            vni: spec.vni,
            underlay_mtu: self.underlay_mtu,
            host: self.config.nickname.clone(),
        };
        let Some(segment) = self.segments.get_mut(name) else {
            return;
        };
        if segment.ensured.as_ref() != Some(&spec) {
            self.unshared = true;
            // Devices that are made anew know no forwarding.
            segment.forwarding = None;
            segment.ensured = Some(spec.clone());
            self.actions.push_back(Action::Ensure(spec));
            self.dirty.insert(name.clone());
        }
        if segment.published.as_ref() != Some(&record) {
            segment.published = Some(record.clone());
            self.actions.push_back(Action::Publish(
                SegmentRecord::key(name),
                Some(record.encode()),
            ));
        }
    }

    pub(super) fn segment_spec(&self, name: &SegmentId) -> Option<SegmentSpec> {
        let segment = self.segments.get(name)?;
        let mtu = segment
            .networks
            .iter()
            .filter_map(|id| self.networks.get(id))
            .map(|spec| self.mtu_of(spec, name))
            .max()
            .unwrap_or(mtu::SMALLEST);
        Some(SegmentSpec {
            id: name.clone(),
            vni: segment.vni,
            mtu,
            vxlan: self.config.policy.allows_vxlan(),
            tunnel: true,
        })
    }

    /// Who takes part in segments of this host, and the largest packet that they exchange.
    pub(super) fn shared_peers(&self) -> SharedPeers {
        let mut mtus = BTreeMap::new();
        for name in self.segments.keys() {
            mtus.extend(self.segment_spec(name).map(|spec| (name, spec.mtu)));
        }
        let shared = self.peers.iter().filter_map(|(id, peer)| {
            let mtus = peer.segments.keys().filter_map(|name| mtus.get(name));
            Some((*id, *mtus.max()?))
        });
        shared.collect()
    }

    pub(super) fn mtu_of(&self, spec: &NetworkSpec, name: &SegmentId) -> u16 {
        if let Some(mtu) = spec.options.mtu.or(self.config.mtu) {
            return mtu;
        }
        let others = self
            .peers
            .values()
            .filter(|peer| peer.reachable)
            .filter_map(|peer| peer.segments.get(name))
            .map(|record| record.underlay_mtu);
        let underlay = others.fold(self.underlay_mtu, u16::min);
        // Some peer's being reached over IPv6 decides for all: they share the segment.
        let to = self
            .peers
            .values()
            .filter_map(|peer| peer.address)
            .find(IpAddr::is_ipv6)
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        match self.config.policy.encrypt {
            true => mtu::through_tunnel(underlay.into(), to),
            false => mtu::through_vxlan(underlay.into(), to),
        }
    }

    pub(super) fn forwarding(&self, name: &SegmentId) -> Forwarding {
        let here: BTreeSet<_> = self
            .endpoints
            .values()
            .filter(|endpoint| {
                self.networks
                    .get(&endpoint.spec.network)
                    .is_some_and(|spec| segment_of(spec) == *name)
            })
            .map(|endpoint| endpoint.assigned_mac)
            .collect();
        let mut forwarding = Forwarding::default();
        let mut best = BTreeMap::new();
        for (id, peer) in &self.peers {
            let route = self.config.policy.route(*id, peer.address, peer.choice);
            let Some(via) = route.via else {
                continue;
            };
            for record in peer.claims().filter(|record| record.segment == *name) {
                forwarding.flood.insert(via);
                let standing = (peer.reachable, record.claim, *id);
                let entry = best.entry(record.mac).or_insert((standing, via));
                if entry.0 < standing {
                    *entry = (standing, via);
                }
            }
        }
        forwarding.unicast = best
            .into_iter()
            .filter(|(mac, _)| !here.contains(mac))
            .map(|(mac, (_, via))| (mac, via))
            .collect();
        forwarding
    }
}
