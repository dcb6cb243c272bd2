//! Who is connected with whom, and the ways that follow from it.
//!
//! A connection counts when both of its ends say that it is there; one of this peer's own when
//! the session is there. The ways are a tree of shortest paths from this peer. Connections that
//! come are worked into it on the spot; one that goes makes it be found anew only if other paths
//! of the same length are not at hand.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::types::PeerId;

#[derive(Debug, Clone, Copy)]
struct Branch {
    distance: u32,
    parent: PeerId,
}

/// Who is connected with whom.
#[derive(Debug)]
pub(super) struct Topology {
    own: PeerId,
    claims: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Pairs of peers of which the first has taken back what the second still says.
    withdrawn: BTreeSet<(PeerId, PeerId)>,
    size: usize,
    tree: BTreeMap<PeerId, Branch>,
    stale: bool,
    moved: BTreeSet<PeerId>,
}

impl Topology {
    /// A peer without connections.
    pub(super) fn new(own: PeerId) -> Self {
        let root = Branch {
            distance: 0,
            parent: own,
        };
        Self {
            own,
            claims: BTreeMap::from([(own, BTreeSet::new())]),
            withdrawn: BTreeSet::new(),
            size: 0,
            tree: BTreeMap::from([(own, root)]),
            stale: false,
            moved: BTreeSet::new(),
        }
    }

    /// A peer says that it is connected with another.
    pub(super) fn claim(&mut self, from: PeerId, to: PeerId) {
        if from == to || !self.claims.entry(from).or_default().insert(to) {
            return;
        }
        self.size += 1;
        self.withdrawn.remove(&(from, to));
        if self.connected(from, to) {
            self.relax(from, to);
            self.relax(to, from);
        }
    }

    /// A peer takes back that it is connected with another.
    pub(super) fn withdraw(&mut self, from: PeerId, to: PeerId) {
        let counted = self.connected(from, to);
        let Some(claims) = self.claims.get_mut(&from) else {
            return;
        };
        if !claims.remove(&to) {
            return;
        }
        self.size -= 1;
        self.withdrawn.remove(&(to, from));
        if self.claims_link(to, from) {
            self.withdrawn.insert((from, to));
        }
        if counted && !self.connected(from, to) {
            self.detach(from, to);
            self.detach(to, from);
        }
    }

    /// A peer is no more.
    pub(super) fn remove(&mut self, peer: PeerId) {
        for to in self.links(peer) {
            self.withdraw(peer, to);
        }
        if peer != self.own {
            self.claims.remove(&peer);
        }
    }

    /// Whom a peer says to be connected with.
    pub(super) fn links(&self, peer: PeerId) -> Vec<PeerId> {
        let claims = self.claims.get(&peer);
        claims.map_or_else(Vec::new, |claims| claims.iter().copied().collect())
    }

    /// How many connections a peer says to have.
    pub(super) fn degree(&self, peer: PeerId) -> usize {
        self.claims.get(&peer).map_or(0, BTreeSet::len)
    }

    /// How many connections are claimed in all.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Which of these peers do not hear the news of `owner` from itself.
    pub(super) fn uncovered<'a>(
        &'a self,
        owner: PeerId,
        peers: &'a BTreeSet<PeerId>,
    ) -> impl Iterator<Item = PeerId> + 'a {
        static NOBODY: BTreeSet<PeerId> = BTreeSet::new();
        let claims = self.claims.get(&owner).unwrap_or(&NOBODY);
        let none_said = peers.difference(claims).copied();
        let taken_back = self
            .withdrawn_from(owner)
            .filter(|peer| peers.contains(peer) && claims.contains(peer));
        none_said.chain(taken_back).filter(move |p| *p != owner)
    }

    /// Whether a peer hears the news of `owner` from itself.
    pub(super) fn covered(&self, owner: PeerId, peer: PeerId) -> bool {
        owner == peer || (self.claims_link(owner, peer) && !self.withdrawn.contains(&(peer, owner)))
    }

    fn withdrawn_from(&self, owner: PeerId) -> impl Iterator<Item = PeerId> {
        let claims = self.claims.get(&owner).into_iter().flatten().copied();
        let any = !self.withdrawn.is_empty();
        claims.filter(move |peer| any && self.withdrawn.contains(&(*peer, owner)))
    }

    /// Whether the ways have to be found anew.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Finds the ways anew if that is needed.
    ///
    /// Breadth first, from whichever side has less to look at: in a mesh where nearly all are
    /// neighbours there is next to nothing left to reach after the first step.
    pub(super) fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let root = Branch {
            distance: 0,
            parent: self.own,
        };
        let mut tree = BTreeMap::from([(self.own, root)]);
        // Peers that claim nothing can only be neighbours of this one, which come first.
        let mut apart: BTreeSet<PeerId> = self.claims.keys().copied().collect();
        apart.remove(&self.own);
        let mut reached: Vec<(PeerId, PeerId)> =
            self.neighbours(self.own).map(|to| (to, self.own)).collect();
        let mut distance = 1;
        while !reached.is_empty() {
            let mut outermost = Vec::with_capacity(reached.len());
            for (peer, parent) in reached.drain(..) {
                if let Entry::Vacant(entry) = tree.entry(peer) {
                    entry.insert(Branch { distance, parent });
                    apart.remove(&peer);
                    outermost.push(peer);
                }
            }
            let degrees = |peers: &mut dyn Iterator<Item = &PeerId>| -> usize {
                peers.map(|peer| self.degree(*peer)).sum()
            };
            if degrees(&mut apart.iter()) < degrees(&mut outermost.iter()) {
                let is_outermost =
                    |peer: &PeerId| tree.get(peer).is_some_and(|b| b.distance == distance);
                reached.extend(apart.iter().filter_map(|peer| {
                    let parent = self.neighbours(*peer).find(is_outermost)?;
                    Some((*peer, parent))
                }));
            } else {
                reached.extend(outermost.iter().flat_map(|parent| {
                    let new = self.neighbours(*parent).filter(|to| !tree.contains_key(to));
                    new.map(|to| (to, *parent))
                }));
            }
            distance += 1;
        }
        let before = std::mem::replace(&mut self.tree, tree);
        let gone = before.keys().filter(|peer| !self.tree.contains_key(peer));
        let come = self.tree.keys().filter(|peer| !before.contains_key(peer));
        self.moved.extend(gone.chain(come));
    }

    /// Peers that have become reachable or unreachable since this was last asked.
    pub(super) fn take_moved(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.moved)
    }

    /// Whether there is a way to a peer.
    pub(super) fn reaches(&self, peer: PeerId) -> bool {
        self.tree.contains_key(&peer)
    }

    /// How many connections it is to a peer.
    pub(super) fn distance(&self, peer: PeerId) -> Option<u32> {
        Some(self.tree.get(&peer)?.distance)
    }

    /// The next peer on the way to another.
    pub(super) fn next_hop(&self, peer: PeerId) -> Option<PeerId> {
        let mut hop = peer;
        for _ in 0..self.tree.len() {
            let branch = self.tree.get(&hop)?;
            if branch.parent == self.own {
                return (hop != self.own).then_some(hop);
            }
            hop = branch.parent;
        }
        None
    }

    fn claims_link(&self, from: PeerId, to: PeerId) -> bool {
        self.claims
            .get(&from)
            .is_some_and(|to_all| to_all.contains(&to))
    }

    fn connected(&self, one: PeerId, two: PeerId) -> bool {
        if one == self.own {
            return self.claims_link(one, two);
        }
        if two == self.own {
            return self.claims_link(two, one);
        }
        self.claims_link(one, two) && self.claims_link(two, one)
    }

    fn neighbours(&self, peer: PeerId) -> impl Iterator<Item = PeerId> {
        let claims = self.claims.get(&peer).into_iter().flatten().copied();
        claims.filter(move |next| self.connected(peer, *next))
    }

    fn relax(&mut self, from: PeerId, to: PeerId) {
        if self.stale {
            return;
        }
        let mut queue = VecDeque::from([(from, to)]);
        while let Some((from, to)) = queue.pop_front() {
            let Some(distance) = self.tree.get(&from).map(|branch| branch.distance + 1) else {
                return;
            };
            let known = self.tree.get(&to).map(|branch| branch.distance);
            if known.is_some_and(|known| known <= distance) {
                continue;
            }
            if known.is_none() {
                self.moved.insert(to);
            }
            let branch = Branch {
                distance,
                parent: from,
            };
            self.tree.insert(to, branch);
            queue.extend(self.neighbours(to).map(|next| (to, next)));
        }
    }

    fn detach(&mut self, parent: PeerId, child: PeerId) {
        let Some(branch) = self.tree.get(&child).copied() else {
            return;
        };
        if branch.parent != parent || child == self.own {
            return;
        }
        let nearer = |peer: &PeerId| self.distance(*peer) == Some(branch.distance - 1);
        let other = self.neighbours(child).find(nearer);
        match other {
            Some(other) => {
                let parent = other;
                self.tree.insert(child, Branch { parent, ..branch });
            }
            None => self.stale = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 16])
    }

    fn connect(topology: &mut Topology, one: u8, two: u8) {
        topology.claim(peer(one), peer(two));
        topology.claim(peer(two), peer(one));
    }

    #[test]
    fn a_connection_counts_when_both_ends_say_so() {
        let mut topology = Topology::new(peer(0));
        topology.claim(peer(0), peer(1));
        topology.claim(peer(1), peer(2));
        assert!(topology.reaches(peer(1)));
        assert!(!topology.reaches(peer(2)));
        topology.claim(peer(2), peer(1));
        assert_eq!(topology.next_hop(peer(2)), Some(peer(1)));
    }

    #[test]
    fn a_peer_whose_neighbours_have_left_it_is_not_reachable() {
        let mut topology = Topology::new(peer(0));
        for (one, two) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            connect(&mut topology, one, two);
        }
        for left in [0, 1, 2] {
            topology.withdraw(peer(left), peer(3));
            topology.refresh();
            assert_eq!(topology.reaches(peer(3)), left != 2);
        }
    }

    #[test]
    fn news_are_passed_on_to_those_who_lost_their_owner() {
        let mut topology = Topology::new(peer(0));
        let peers = BTreeSet::from([peer(1), peer(2), peer(3)]);
        connect(&mut topology, 1, 2);
        topology.claim(peer(1), peer(3));
        let uncovered: Vec<_> = topology.uncovered(peer(1), &peers).collect();
        assert_eq!(uncovered, []);
        topology.withdraw(peer(2), peer(1));
        let uncovered: Vec<_> = topology.uncovered(peer(1), &peers).collect();
        assert_eq!(uncovered, [peer(2)]);
    }

    proptest! {
        #[test]
        fn ways_kept_up_to_date_are_as_good_as_ways_found_anew(
            steps in prop::collection::vec((any::<bool>(), 0_u8..8, 0_u8..8, any::<bool>()), 1..120),
        ) {
            let mut kept = Topology::new(peer(0));
            for (claim, from, to, both) in steps {
                let pairs = [(from, to), (to, from)];
                for (from, to) in pairs.into_iter().take(1 + usize::from(both)) {
                    match claim {
                        true => kept.claim(peer(from), peer(to)),
                        false => kept.withdraw(peer(from), peer(to)),
                    }
                }
                kept.refresh();
                let mut anew = Topology::new(peer(0));
                for (from, claims) in &kept.claims {
                    for to in claims {
                        anew.claim(*from, *to);
                    }
                }
                anew.stale = true;
                anew.refresh();
                for number in 0..8 {
                    let peer = peer(number);
                    prop_assert_eq!(kept.distance(peer), anew.distance(peer));
                    let way = kept.next_hop(peer);
                    prop_assert_eq!(way.is_some(), anew.next_hop(peer).is_some());
                    if let Some(way) = way {
                        prop_assert!(kept.connected(kept.own, way));
                    }
                }
            }
        }
    }
}
