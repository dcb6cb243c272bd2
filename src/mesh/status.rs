//! The mesh for people.

use std::time::Instant;

use super::core::{ConnId, Core, Link};
use super::{ConnectionStatus, MeshCounters, MeshStatus, PeerStatus};
use crate::types::PeerId;

impl Core {
    /// The mesh for people. `listening`, `password`, counters and the shell's own warnings are the
    /// shell's to fill in.
    pub fn status(&self, now: Instant) -> MeshStatus {
        let established = self.links.iter();
        let mut connections: Vec<_> = established
            .map(|(conn, link)| self.established(*conn, link))
            .collect();
        connections.extend(self.attempts(now));
        let mut warnings: Vec<_> = self.warnings.iter().cloned().collect();
        let targets = self.connector.targets();
        let unresolved = targets.iter().filter_map(|target| {
            let error = target.error.as_ref()?;
            Some(format!(
                "{} (from {}): {error}",
                target.target, target.source
            ))
        });
        warnings.extend(unresolved);
        let peers = self.replica.positions().map(|(peer, _)| peer);
        let peers = peers.filter(|peer| self.replica.contains(*peer));
        MeshStatus {
            id: self.config.id,
            nickname: self.config.nickname.clone(),
            listening: Err("the listener has not started".to_owned()),
            password: false,
            connections,
            peers: peers.map(|peer| self.peer(peer)).collect(),
            counters: MeshCounters::default(),
            tombstones: self.replica.tombstones(),
            warnings,
            targets,
        }
    }

    fn established(&self, conn: ConnId, link: &Link) -> ConnectionStatus {
        let peer = link.session.peer;
        let reason = match self.active.get(&peer) == Some(&conn) {
            true => String::new(),
            false => "another session with the same peer is used".to_owned(),
        };
        ConnectionStatus {
            address: link.session.remote,
            outbound: link.dialled.is_some(),
            state: "established".to_owned(),
            reason,
            peer: Some(peer),
            nickname: self.nickname(peer),
            rtt: link.rtt,
            retry_in: None,
        }
    }

    fn attempts(&self, now: Instant) -> impl Iterator<Item = ConnectionStatus> {
        let places = self.connector.statuses().into_iter();
        places.map(move |place| {
            let state = match (place.dialling, place.refused) {
                (true, _) => "connecting",
                (false, true) => "refused",
                (false, false) => "retrying",
            };
            ConnectionStatus {
                address: place.address,
                outbound: true,
                state: state.to_owned(),
                reason: place.reason,
                peer: place.peer,
                nickname: place.peer.and_then(|peer| self.nickname(peer)),
                rtt: None,
                retry_in: place.due.map(|due| due.saturating_duration_since(now)),
            }
        })
    }

    fn peer(&self, id: PeerId) -> PeerStatus {
        let own = id == self.config.id;
        let info = self.infos.get(&id);
        let addresses = match own {
            true => self.config.addresses.clone(),
            false => self.connector.addresses(id),
        };
        let version = match own {
            true => self.config.version.clone(),
            false => info.map(|info| info.version.clone()).unwrap_or_default(),
        };
        PeerStatus {
            id,
            nickname: self.nickname(id).unwrap_or_default(),
            version,
            reachable: self.topology.reaches(id),
            via: self.topology.next_hop(id),
            addresses,
            links: self.topology.links(id),
            records: self.replica.count(id),
            changes: self.replica.position(id).version,
        }
    }

    fn nickname(&self, peer: PeerId) -> Option<String> {
        if peer == self.config.id {
            return Some(self.config.nickname.clone());
        }
        Some(self.infos.get(&peer)?.nickname.clone())
    }
}
