//! The ring: what every peer says of its own part of the space, put together.
//!
//! A part is a statement by its owner alone, so parts never conflict with each other as data:
//! the newest one of each life of a peer counts, and the order of arrival does not matter.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::range::{Range, RangeSet};
use super::table::Table;
use crate::types::PeerId;

/// The name of a ring: made from how it was born, so that rings born apart differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lineage(pub u64);

impl Lineage {
    /// The ring over this range with these founders, in their order.
    pub fn of(range: &IpNet, founders: &[String]) -> Self {
        let text = format!("{} {}", range.trunc(), founders.join(" "));
        let digest = Sha256::digest(text.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(bytes))
    }
}

impl std::fmt::Display for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One life of a peer in the ring: ends when its state is lost or its space was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Life {
    /// Which peer.
    pub peer: PeerId,
    /// Which of its lives: greater in later ones.
    pub incarnation: u64,
}

/// What the members agree to before space is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Whose space.
    pub life: Life,
    /// Who takes it over.
    pub taker: Life,
    /// The taker's number for this attempt: greater than of all its attempts before.
    pub number: u64,
    /// An operator or the swarm says that the peer is gone, or it lives on in another life. Else
    /// it is for its long silence, and every member must have found it silent for so long.
    pub ordered: bool,
}

/// Space that one peer has given to another for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gift {
    /// To whom: to this life of the peer, no other may take it.
    pub to: Life,
    /// The giver's number for it: greater than of all its gifts before.
    pub number: u64,
    /// In which subnet's space.
    pub universe: IpNet,
    /// What was given.
    pub range: Range,
    /// A swarm service has the address, and its new owner's swarm manager answers for it.
    pub in_use: bool,
}

/// An address that a peer's containers use although it does not own it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// In which subnet's space.
    pub universe: IpNet,
    /// Which address.
    pub address: u128,
    /// Whether swarm's manager said so.
    pub global: bool,
}

/// What a peer says of its part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// In which life of the peer.
    pub incarnation: u64,
    /// Counts the changes of what follows.
    pub revision: u64,
    /// Orders what was published with the same revision: counts in use change all the time.
    pub sequence: u64,
    /// What the peer calls itself.
    pub nickname: Box<str>,
    /// Of which ring.
    pub lineage: Lineage,
    /// The ring's main range.
    pub range: IpNet,
    /// Into how many slots every space is cut at first.
    pub slots_total: u16,
    /// The slots that this peer owns in every space it has not opened yet.
    pub slots: BTreeSet<u16>,
    /// What it owns in the spaces it has opened.
    pub spaces: Table<IpNet, Box<[Range]>>,
    /// What it gave away, until the receiver says that it has it.
    pub gifts: Box<[Gift]>,
    /// The number it will give its next gift, at least.
    pub next_gift: u64,
    /// The number of the last gift it took from each peer.
    pub taken: Table<PeerId, u64>,
    /// The lives whose space it took over.
    pub removed: BTreeSet<Life>,
    /// Addresses it uses without owning them.
    pub held: Box<[Held]>,
    /// Gateways of its networks.
    pub gateways: Box<[(IpNet, u128)]>,
    /// Addresses of swarm's tasks on its host that it does not own, in ascending order. May lag
    /// behind.
    pub borrowed: Box<[(IpNet, u128)]>,
    /// Subnets of swarm's networks.
    pub swarm_pools: BTreeSet<IpNet>,
    /// The subnets of networks that go by a name.
    pub names: Table<String, IpNet>,
    /// How many of the addresses it owns are in use, per space. May lag behind.
    pub used: Table<IpNet, u64>,
}

impl Part {
    /// The life of this peer that says it.
    pub fn life(&self, peer: PeerId) -> Life {
        Life {
            peer,
            incarnation: self.incarnation,
        }
    }

    /// What it owns of a space, opened or not.
    pub fn owned(&self, universe: &IpNet) -> RangeSet {
        match self.spaces.get(universe) {
            Some(ranges) => ranges.iter().copied().collect(),
            None => slots_of(universe, &self.slots, self.slots_total),
        }
    }

    /// The part without what changes all the time and means nothing once its peer is gone. Whatever the
    /// peer says next is newer.
    #[must_use]
    pub fn lasting(&self) -> Self {
        Self {
            sequence: 0,
            borrowed: [].into(),
            used: Table::from_iter([]),
            ..self.clone()
        }
    }

    /// Whether the ranges in it are ranges, and lie where they say.
    pub fn is_sound(&self) -> bool {
        let sound = |universe: &IpNet, range: &Range| {
            range.is_valid() && Range::of_net(universe).covers(*range)
        };
        self.spaces
            .iter()
            .all(|(universe, ranges)| ranges.iter().all(|range| sound(universe, range)))
            && self.gifts.iter().all(|g| sound(&g.universe, &g.range))
            && self
                .held
                .iter()
                .all(|h| Range::of_net(&h.universe).contains(h.address))
            && self.slots.len() <= usize::from(self.slots_total)
    }
}

/// These slots of a space.
pub fn slots_of(universe: &IpNet, slots: &BTreeSet<u16>, total: u16) -> RangeSet {
    slots
        .iter()
        .filter_map(|&slot| Range::of_net(universe).slot(slot, total))
        .collect()
}

/// All parts that a peer knows of, without its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    parts: BTreeMap<Life, Box<Part>>,
}

impl View {
    /// Takes note of a part, unless a newer one of that life is known already.
    /// Returns whether anything changed.
    pub fn merge(&mut self, peer: PeerId, part: Part) -> bool {
        let life = part.life(peer);
        match self.parts.get(&life) {
            Some(known) if **known >= part => false,
            _ => {
                self.parts.insert(life, Box::new(part));
                true
            }
        }
    }

    /// Drops what is known of one life.
    pub fn remove(&mut self, life: &Life) -> bool {
        self.parts.remove(life).is_some()
    }

    /// What is known of one life.
    pub fn get(&self, life: &Life) -> Option<&Part> {
        self.parts.get(life).map(Box::as_ref)
    }

    /// The part of a peer's latest life.
    pub fn of(&self, peer: PeerId) -> Option<&Part> {
        self.lives(peer).next_back().map(|(_, part)| part)
    }

    /// All lives of a peer, the latest last.
    pub fn lives(&self, peer: PeerId) -> impl DoubleEndedIterator<Item = (&Life, &Part)> {
        let life = |incarnation| Life { peer, incarnation };
        let lives = self.parts.range(life(0)..=life(u64::MAX));
        lives.map(|(life, part)| (life, part.as_ref()))
    }

    /// Everything known.
    pub fn iter(&self) -> impl Iterator<Item = (&Life, &Part)> {
        self.parts.iter().map(|(life, part)| (life, part.as_ref()))
    }

    /// Every peer with the part of its latest life.
    pub fn latest(&self) -> impl Iterator<Item = (PeerId, &Part)> {
        let mut parts = self.parts.iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let (life, part) = parts.next()?;
                if parts.peek().is_none_or(|(next, _)| next.peer != life.peer) {
                    return Some((life.peer, part.as_ref()));
                }
            }
        })
    }

    /// All spaces that somebody has opened.
    pub fn universes(&self) -> BTreeSet<IpNet> {
        self.parts
            .values()
            .flat_map(|part| part.spaces.keys().copied())
            .collect()
    }

    /// Who owns how much of this range, most first.
    pub fn owners(&self, lineage: Lineage, universe: &IpNet, range: Range) -> Vec<(PeerId, u128)> {
        let mut owners: Vec<(PeerId, u128)> = self
            .latest()
            .filter(|(_, part)| part.lineage == lineage)
            .map(|(peer, part)| {
                let owned = part.owned(universe);
                (peer, owned.within(range).map(Range::len).sum())
            })
            .filter(|(_, amount)| *amount > 0)
            .collect();
        owners.sort_by_key(|(_, amount)| std::cmp::Reverse(*amount));
        owners
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn any_part() -> impl Strategy<Value = Part> {
        let ranges = prop::collection::vec((0u128..250, 0u128..5), 0..6);
        (
            0u64..3,
            0u64..4,
            ranges,
            prop::collection::vec(any::<u8>(), 0..4),
        )
            .prop_map(|(incarnation, revision, ranges, gifts)| {
                let universe: IpNet = "10.0.0.0/24".parse().unwrap();
                let base = Range::of_net(&universe).first;
                let range = |first: u128, more| Range::new(base + first, base + first + more);
                Part {
                    incarnation,
                    revision,
                    sequence: 0,
                    nickname: "host".into(),
                    lineage: Lineage(1),
                    range: universe,
                    slots_total: 3,
                    slots: [1].into(),
                    spaces: Table::from_iter([(
                        universe,
                        ranges.iter().map(|r| range(r.0, r.1)).collect(),
                    )]),
                    gifts: gifts
                        .iter()
                        .map(|&n| Gift {
                            to: Life {
                                peer: PeerId::from_bytes([n; 16]),
                                incarnation: 1,
                            },
                            number: u64::from(n),
                            universe,
                            range: range(u128::from(n), 0),
                            in_use: n % 2 == 0,
                        })
                        .collect(),
                    next_gift: 9,
                    taken: Table::from_iter([]),
                    removed: BTreeSet::new(),
                    held: [].into(),
                    gateways: [(universe, base)].into(),
                    borrowed: [(universe, base + 7)].into(),
                    swarm_pools: [universe].into(),
                    names: Table::from_iter([("web".to_owned(), universe)]),
                    used: Table::from_iter([(universe, 7)]),
                }
            })
    }

    fn any_view() -> impl Strategy<Value = View> {
        prop::collection::vec((0u8..3, any_part()), 0..6).prop_map(|parts| {
            let mut view = View::default();
            for (peer, part) in parts {
                view.merge(PeerId::from_bytes([peer; 16]), part);
            }
            view
        })
    }

    fn merged(mut one: View, two: &View) -> View {
        for (life, part) in two.iter() {
            one.merge(life.peer, part.clone());
        }
        one
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in any_view(), b in any_view(), c in any_view()) {
            prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
            prop_assert_eq!(
                merged(merged(a.clone(), &b), &c),
                merged(a.clone(), &merged(b.clone(), &c))
            );
            prop_assert_eq!(merged(a.clone(), &a), a);
        }
    }

    #[test]
    fn an_unopened_space_belongs_to_the_owners_of_its_slots() {
        let universe: IpNet = "fd00::/64".parse().unwrap();
        let all: RangeSet = (0..3u16)
            .flat_map(|slot| {
                slots_of(&universe, &[slot].into(), 3)
                    .iter()
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(all, RangeSet::from_iter([Range::of_net(&universe)]));
    }
}
