//! Whom to dial, and when.
//!
//! A place is an address where somebody is told or believed to listen. Places of peers with which
//! there is a session rest; all others are tried again and again, at first quickly, because peers
//! are often started together, then ever more slowly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::TargetStatus;
use super::core::{ConnId, DialError, KnownPeer, Target};
use crate::types::PeerId;

/// The delay after each of the first failures.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// How many failures have that delay; from then on it doubles.
const FIRST_FAILURES: u32 = 6;

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// How much longer the peer with the greater id waits before it dials one that it learned of:
/// the other has probably learned of it as well and dials.
const GREATER_WAITS: Duration = Duration::from_millis(300);

/// The time between attempts at two addresses of one peer (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long places that were only learned of wait while there is no room for connections.
const NO_ROOM: Duration = Duration::from_secs(30);

/// How long a peer that has no room for another connection is left alone.
const PEER_IS_FULL: Duration = Duration::from_secs(300);

/// Most attempts at a time.
const MAX_DIALS: usize = 64;

/// Most addresses of one peer.
const MAX_ADDRESSES: usize = 8;

/// Failures after which an address from which a peer was merely seen to come is given up.
const GIVE_UP: u32 = 12;

/// How an address of a peer is known, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// Somebody reached the peer there.
    Reached,
    /// The peer says so.
    Advertised,
    /// The peer came from there.
    Seen,
}

#[derive(Debug, Default)]
struct Place {
    targeted: bool,
    peers: BTreeSet<PeerId>,
    found: Option<PeerId>,
    attempt: Option<ConnId>,
    failures: u32,
    due: Option<Instant>,
    own: bool,
    refused: bool,
    failure: Option<String>,
}

/// A place for people.
#[derive(Debug)]
pub(super) struct PlaceStatus {
    pub(super) address: SocketAddr,
    pub(super) dialling: bool,
    pub(super) refused: bool,
    pub(super) reason: String,
    pub(super) peer: Option<PeerId>,
    pub(super) due: Option<Instant>,
}

/// Whom to dial, and when.
#[derive(Debug)]
pub(super) struct Connector {
    own: PeerId,
    discovery: bool,
    sources: BTreeMap<String, Vec<Target>>,
    places: BTreeMap<SocketAddr, Place>,
    known: BTreeMap<PeerId, BTreeMap<SocketAddr, Hint>>,
    due: BTreeSet<(Instant, SocketAddr)>,
    dialling: BTreeMap<ConnId, SocketAddr>,
    connected: BTreeSet<PeerId>,
    rng: ChaCha8Rng,
}

impl Connector {
    /// Knows no place yet.
    pub(super) fn new(own: PeerId, discovery: bool, rng: ChaCha8Rng) -> Self {
        Self {
            own,
            discovery,
            sources: BTreeMap::new(),
            places: BTreeMap::new(),
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            dialling: BTreeMap::new(),
            connected: BTreeSet::new(),
            rng,
        }
    }

    /// Replaces what one source says.
    pub(super) fn set_targets(&mut self, source: &str, targets: Vec<Target>, now: Instant) {
        match targets.is_empty() {
            true => self.sources.remove(source),
            false => self.sources.insert(source.to_owned(), targets),
        };
        let all = self.sources.values().flatten();
        let told: BTreeSet<SocketAddr> = all
            .filter_map(|target| target.addresses.as_ref().ok())
            .flatten()
            .copied()
            .collect();
        for (address, place) in &mut self.places {
            place.targeted = told.contains(address);
        }
        for address in told {
            let place = self.places.entry(address).or_default();
            place.targeted = true;
            if place.due.is_none() && place.attempt.is_none() {
                place.failures = 0;
                self.schedule(address, now);
            }
        }
        self.drop_unwanted();
    }

    /// A peer may be found at this address.
    pub(super) fn learn(&mut self, peer: PeerId, address: SocketAddr, hint: Hint, now: Instant) {
        if peer == self.own || address.port() == 0 || address.ip().is_unspecified() {
            return;
        }
        let addresses = self.known.entry(peer).or_default();
        if let Some(known) = addresses.get_mut(&address) {
            *known = hint.min(*known);
            return;
        }
        if addresses.len() >= MAX_ADDRESSES {
            let worst = addresses.iter().max_by_key(|(_, hint)| **hint);
            match worst.map(|(address, hint)| (*address, *hint)) {
                Some((worst, known)) if known > hint => self.unlearn(peer, worst),
                _ => return,
            }
        }
        let addresses = self.known.entry(peer).or_default();
        addresses.insert(address, hint);
        let order = addresses.len() as u32 - 1;
        let place = self.places.entry(address).or_default();
        place.peers.insert(peer);
        if place.due.is_none() && place.attempt.is_none() && self.discovery {
            let waits = if self.own > peer {
                GREATER_WAITS
            } else {
                Duration::ZERO
            };
            let spread = Duration::from_millis(self.rng.random_range(0..50));
            self.schedule(address, now + waits + NEXT_ADDRESS * order + spread);
        }
    }

    /// A peer says that it listens at these addresses and at no others.
    pub(super) fn advertise(&mut self, peer: PeerId, addresses: &[SocketAddr], now: Instant) {
        let known = self.known.get(&peer).into_iter().flatten();
        let gone: Vec<_> = known
            .filter(|(address, hint)| **hint == Hint::Advertised && !addresses.contains(address))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.unlearn(peer, address);
        }
        for address in addresses.iter().take(MAX_ADDRESSES) {
            self.learn(peer, *address, Hint::Advertised, now);
        }
    }

    fn unlearn(&mut self, peer: PeerId, address: SocketAddr) {
        if let Some(addresses) = self.known.get_mut(&peer) {
            addresses.remove(&address);
        }
        if let Some(place) = self.places.get_mut(&address) {
            place.peers.remove(&peer);
        }
        self.drop_if_unwanted(address);
    }

    /// A peer is no more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        for address in self.known.remove(&peer).into_iter().flatten() {
            if let Some(place) = self.places.get_mut(&address.0) {
                place.peers.remove(&peer);
                place.found = place.found.filter(|found| *found != peer);
            }
            self.drop_if_unwanted(address.0);
        }
    }

    fn drop_unwanted(&mut self) {
        let all: Vec<_> = self.places.keys().copied().collect();
        for address in all {
            self.drop_if_unwanted(address);
        }
    }

    fn drop_if_unwanted(&mut self, address: SocketAddr) {
        let Some(place) = self.places.get(&address) else {
            return;
        };
        let idle = place.attempt.is_none() && !place.own;
        if idle && !place.targeted && place.peers.is_empty() {
            if let Some(due) = place.due {
                self.due.remove(&(due, address));
            }
            self.places.remove(&address);
        }
    }

    /// The next place to dial now. `room` says whether places that were only learned of may be.
    pub(super) fn poll_dial(&mut self, now: Instant, room: bool) -> Option<SocketAddr> {
        loop {
            let (due, address) = *self.due.first().filter(|(due, _)| *due <= now)?;
            self.due.remove(&(due, address));
            let place = self.places.get_mut(&address)?;
            place.due = None;
            if !self.wants(address) {
                continue;
            }
            let targeted = self
                .places
                .get(&address)
                .is_some_and(|place| place.targeted);
            if !targeted && !room {
                let wait = self.jitter(NO_ROOM);
                self.schedule(address, now + wait);
            } else if self.dialling.len() >= MAX_DIALS || (!targeted && self.tries_other(address)) {
                self.schedule(address, now + NEXT_ADDRESS);
            } else {
                return Some(address);
            }
        }
    }

    fn wants(&self, address: SocketAddr) -> bool {
        let Some(place) = self.places.get(&address) else {
            return false;
        };
        if place.own || place.attempt.is_some() {
            return false;
        }
        if place
            .found
            .is_some_and(|found| self.connected.contains(&found))
        {
            return false;
        }
        let met = !place.peers.is_empty() && place.peers.is_subset(&self.connected);
        !met && (place.targeted || (self.discovery && !place.peers.is_empty()))
    }

    fn tries_other(&self, address: SocketAddr) -> bool {
        let peers = self.places.get(&address).map(|place| &place.peers);
        let others = peers
            .into_iter()
            .flatten()
            .filter_map(|p| self.known.get(p));
        others.flatten().any(|(other, _)| {
            let place = self.places.get(other);
            *other != address && place.is_some_and(|place| place.attempt.is_some())
        })
    }

    /// The place is being dialled.
    pub(super) fn dialled(&mut self, conn: ConnId, address: SocketAddr) {
        self.dialling.insert(conn, address);
        self.places.entry(address).or_default().attempt = Some(conn);
    }

    /// How many attempts are under way.
    pub(super) fn attempts(&self) -> usize {
        self.dialling.len()
    }

    /// An attempt has come to an end at which somebody answered. Returns where, if this was an
    /// attempt.
    pub(super) fn answered(&mut self, conn: ConnId, peer: PeerId) -> Option<SocketAddr> {
        let address = self.dialling.remove(&conn)?;
        let others: Vec<_> = match self.places.get_mut(&address) {
            Some(place) => {
                place.attempt = None;
                place.found = Some(peer);
                place.refused = false;
                place.failure = None;
                place.peers.iter().copied().filter(|p| *p != peer).collect()
            }
            None => Vec::new(),
        };
        for other in others {
            let hints = self.known.get(&other);
            if hints.and_then(|hints| hints.get(&address)) != Some(&Hint::Advertised) {
                self.unlearn(other, address);
            }
        }
        Some(address)
    }

    /// An attempt has failed. Returns whether it was one.
    pub(super) fn failed(&mut self, conn: ConnId, error: &DialError, now: Instant) -> bool {
        let Some(address) = self.dialling.remove(&conn) else {
            return false;
        };
        if let Some(place) = self.places.get_mut(&address) {
            place.attempt = None;
            place.refused = matches!(error, DialError::Password(_));
        }
        self.retry(address, error.to_string(), now);
        true
    }

    /// There is this daemon itself; nobody needs to dial that.
    pub(super) fn is_own(&mut self, address: SocketAddr) {
        if let Some(place) = self.places.get_mut(&address) {
            place.own = true;
            place.found = None;
            place.failure = Some("this is the daemon itself".to_owned());
        }
    }

    /// The peer has no room for another connection: where nobody insists, it is left alone for a
    /// while.
    pub(super) fn refused(&mut self, peer: PeerId, reason: &str, now: Instant) {
        for address in self.places_of(peer) {
            let Some(place) = self.places.get_mut(&address) else {
                continue;
            };
            place.refused = true;
            place.failures = place.failures.max(FIRST_FAILURES + 5);
            if place.targeted {
                self.retry(address, reason.to_owned(), now);
                continue;
            }
            place.failure = Some(reason.to_owned());
            let wait = self.jitter(PEER_IS_FULL);
            self.schedule(address, now + wait);
        }
    }

    /// The attempt is not to be counted as a success, though somebody answered.
    pub(super) fn retry(&mut self, address: SocketAddr, reason: String, now: Instant) {
        let Some(place) = self.places.get_mut(&address) else {
            return;
        };
        place.failures = place.failures.saturating_add(1);
        place.failure = Some(reason);
        let doublings = place.failures.saturating_sub(FIRST_FAILURES).min(16);
        let delay = (FIRST_DELAY * (1 << doublings)).min(MAX_DELAY);
        let tired = place.failures > GIVE_UP;
        let peers: Vec<_> = place.peers.iter().copied().collect();
        let delay = self.jitter(delay);
        self.schedule(address, now + delay);
        for peer in peers {
            let hint = self.known.get(&peer).and_then(|a| a.get(&address));
            if tired && hint == Some(&Hint::Seen) {
                self.unlearn(peer, address);
            }
        }
    }

    /// There is a session with this peer.
    pub(super) fn connected(&mut self, peer: PeerId) {
        self.connected.insert(peer);
    }

    /// There is no session with this peer any more. It is dialled at once if the session lasted,
    /// else after a delay.
    pub(super) fn disconnected(&mut self, peer: PeerId, lasted: bool, reason: &str, now: Instant) {
        self.connected.remove(&peer);
        for (order, address) in self.places_of(peer).into_iter().enumerate() {
            let Some(place) = self.places.get_mut(&address) else {
                continue;
            };
            if place.attempt.is_some() || place.due.is_some() {
                continue;
            }
            if lasted {
                place.failures = 0;
                place.failure = Some(reason.to_owned());
                self.schedule(address, now + NEXT_ADDRESS * order as u32);
            } else {
                self.retry(address, reason.to_owned(), now);
            }
        }
    }

    /// Whether a source named a place where this peer is.
    pub(super) fn is_targeted(&self, peer: PeerId) -> bool {
        let places = self.places_of(peer);
        let mut places = places.iter().filter_map(|address| self.places.get(address));
        places.any(|place| place.targeted)
    }

    fn places_of(&self, peer: PeerId) -> Vec<SocketAddr> {
        let mut known: Vec<_> = self.known.get(&peer).into_iter().flatten().collect();
        known.sort_by_key(|(_, hint)| **hint);
        let mut places: Vec<_> = known.into_iter().map(|(address, _)| *address).collect();
        let found = self
            .places
            .iter()
            .filter(|(_, p)| p.targeted && p.found == Some(peer));
        for (address, _) in found {
            if !places.contains(address) {
                places.push(*address);
            }
        }
        places
    }

    /// Where a peer may be found, best first.
    pub(super) fn addresses(&self, peer: PeerId) -> Vec<SocketAddr> {
        let mut known: Vec<_> = self.known.get(&peer).into_iter().flatten().collect();
        known.sort_by_key(|(_, hint)| **hint);
        known.into_iter().map(|(address, _)| *address).collect()
    }

    /// All peers and where they may be found.
    pub(super) fn known(&self) -> Vec<KnownPeer> {
        let ids = self.known.keys().copied();
        ids.map(|id| KnownPeer {
            id,
            addresses: self.addresses(id),
        })
        .filter(|known| !known.addresses.is_empty())
        .collect()
    }

    /// When the next place is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// What the sources say, for people.
    pub(super) fn targets(&self) -> Vec<TargetStatus> {
        let all = self.sources.iter();
        all.flat_map(|(source, targets)| targets.iter().map(move |target| (source, target)))
            .map(|(source, target)| TargetStatus {
                target: target.text.clone(),
                source: source.clone(),
                addresses: target.addresses.clone().unwrap_or_default(),
                error: target.addresses.clone().err(),
            })
            .collect()
    }

    /// Places with whose peers there is no session, for people. That this daemon is among those
    /// that it was told of is as it should be: all hosts may have the same settings.
    pub(super) fn statuses(&self) -> Vec<PlaceStatus> {
        let open = self
            .places
            .iter()
            .filter(|(address, place)| place.attempt.is_some() || self.wants(**address));
        open.map(|(address, place)| PlaceStatus {
            address: *address,
            dialling: place.attempt.is_some(),
            refused: place.refused,
            reason: place.failure.clone().unwrap_or_default(),
            peer: place.found.or(place.peers.first().copied()),
            due: place.due,
        })
        .collect()
    }

    fn schedule(&mut self, address: SocketAddr, at: Instant) {
        let Some(place) = self.places.get_mut(&address) else {
            return;
        };
        if let Some(before) = place.due.replace(at) {
            self.due.remove(&(before, address));
        }
        self.due.insert((at, address));
    }

    fn jitter(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(self.rng.random_range(0.75..1.25))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const OWN: PeerId = PeerId::from_bytes([5; 16]);
    const OTHER: PeerId = PeerId::from_bytes([6; 16]);

    fn connector(discovery: bool) -> Connector {
        Connector::new(OWN, discovery, ChaCha8Rng::seed_from_u64(1))
    }

    fn target(address: &str) -> Target {
        Target {
            text: address.to_owned(),
            addresses: Ok(vec![address.parse().unwrap()]),
        }
    }

    fn unreachable() -> DialError {
        DialError::Unreachable("connection refused".to_owned())
    }

    fn next_dial(connector: &mut Connector, now: &mut Instant) -> SocketAddr {
        loop {
            *now = (*now).max(connector.poll_timeout().unwrap());
            if let Some(address) = connector.poll_dial(*now, true) {
                return address;
            }
        }
    }

    #[test]
    fn a_target_is_tried_quickly_at_first_then_every_half_minute() {
        let mut connector = connector(true);
        let start = Instant::now();
        let mut now = start;
        connector.set_targets("settings", vec![target("192.0.2.1:6783")], now);
        let mut times = Vec::new();
        for number in 0..30 {
            let address = next_dial(&mut connector, &mut now);
            connector.dialled(ConnId(number), address);
            connector.failed(ConnId(number), &unreachable(), now);
            times.push(now - start);
        }
        assert!(times[5] < Duration::from_secs(2));
        let last = times[29] - times[28];
        assert!(last > Duration::from_secs(20) && last < Duration::from_secs(40));
    }

    #[test]
    fn the_daemon_itself_is_dialled_only_once() {
        let mut connector = connector(true);
        let mut now = Instant::now();
        connector.set_targets("settings", vec![target("192.0.2.1:6783")], now);
        let address = next_dial(&mut connector, &mut now);
        connector.dialled(ConnId(1), address);
        connector.answered(ConnId(1), OWN);
        connector.is_own(address);
        connector.set_targets("swarm", vec![target("192.0.2.1:6783")], now);
        assert_eq!(connector.poll_dial(now + MAX_DELAY, true), None);
    }

    #[test]
    fn peers_learned_of_are_dialled_only_with_discovery_and_room() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let address = "192.0.2.1:6783".parse().unwrap();
        let mut without = connector(false);
        without.learn(OTHER, address, Hint::Advertised, now);
        assert_eq!(without.poll_dial(later, true), None);
        let mut with = connector(true);
        with.learn(OTHER, address, Hint::Advertised, now);
        assert_eq!(with.poll_dial(later, false), None);
        assert_eq!(with.poll_dial(later + 2 * NO_ROOM, true), Some(address));
    }

    #[test]
    fn a_target_taken_back_is_not_dialled_again() {
        let mut connector = connector(true);
        let now = Instant::now();
        connector.set_targets("command", vec![target("192.0.2.1:6783")], now);
        connector.set_targets("command", Vec::new(), now);
        assert_eq!(connector.poll_dial(now + MAX_DELAY, true), None);
        assert_eq!(connector.poll_timeout(), None);
    }

    #[test]
    fn all_addresses_of_a_peer_are_tried() {
        let mut connector = connector(true);
        let mut now = Instant::now();
        let addresses = ["192.0.2.1:6783", "[2001:db8::1]:6783"].map(|a| a.parse().unwrap());
        connector.advertise(OTHER, &addresses, now);
        let mut dialled = BTreeSet::new();
        for number in 0..2 {
            let address = next_dial(&mut connector, &mut now);
            connector.dialled(ConnId(number), address);
            connector.failed(ConnId(number), &unreachable(), now);
            dialled.insert(address);
        }
        assert_eq!(dialled, BTreeSet::from(addresses));
    }

    #[test]
    fn a_peer_with_a_session_is_left_alone_until_it_ends() {
        let mut connector = connector(true);
        let mut now = Instant::now();
        connector.set_targets("settings", vec![target("192.0.2.1:6783")], now);
        let address = next_dial(&mut connector, &mut now);
        connector.dialled(ConnId(1), address);
        connector.answered(ConnId(1), OTHER);
        connector.connected(OTHER);
        connector.set_targets("swarm", vec![target("192.0.2.1:6783")], now);
        assert_eq!(connector.poll_dial(now + MAX_DELAY, true), None);
        connector.disconnected(OTHER, true, "reset", now);
        assert_eq!(connector.poll_dial(now, true), Some(address));
    }
}
