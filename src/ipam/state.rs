//! What the allocator must never forget, and the only ways in which it changes.
//!
//! Every change is one [`Entry`]: it is applied to the state in memory and written to the journal,
//! and what was there after a crash is what the entries that reached the disk make of the last
//! snapshot. So no crash can separate what belongs together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::AddressSpace;
use super::birth::Ballot;
use super::range::{Range, RangeSet, number};
use super::ring::{Agreement, Gift, Held, Life, Lineage, Part, slots_of};
use super::space::{Holder, Space};
use super::table::Table;
use super::wire;
use crate::types::PeerId;

/// An address in one subnet's space.
pub type Place = (IpNet, u128);

/// The ring that a peer takes part in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// Which ring.
    pub lineage: Lineage,
    /// Into how many slots every space is cut at first.
    pub total: u16,
    /// Which of them this peer owns.
    pub slots: BTreeSet<u16>,
    /// Whether it is known if this peer is a founder: it may hear of the ring before it hears
    /// who founded it.
    pub settled: bool,
}

/// What was last heard of another member's life, without what changes all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The revision of its part.
    pub revision: u64,
    /// The part, as it is written: a large ring has many.
    part: Box<[u8]>,
}

impl Seen {
    /// What lasts of a part.
    pub fn of(part: &Part) -> Self {
        Self {
            revision: part.revision,
            part: Vec::from(wire::encode(&part.lasting())).into(),
        }
    }

    /// The part, unless it is not one.
    pub fn part(&self) -> Option<Part> {
        wire::decode(&self.part)
    }
}

/// All durable state of the allocator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whose state it is; `None` until that was written down.
    pub owner: Option<PeerId>,
    /// The main range that the state is about.
    pub range: IpNet,
    /// This peer's life.
    pub incarnation: u64,
    /// Counts the changes that the other peers are told of.
    pub revision: u64,
    /// When a majority of the ring's members could be reached last, or a while before: in time
    /// since 1970, as this host's clock had it.
    pub contact: Option<Duration>,
    /// Whether another member of the ring was ever heard of.
    pub met: bool,
    /// The other members' lives: what a peer that is gone for good had is not forgotten when all
    /// others are restarted.
    pub seen: Table<Life, Seen>,
    /// The ring, once it was born.
    pub born: Option<Born>,
    /// The highest ballot promised on the ring's birth.
    pub promised: Ballot,
    /// The last value accepted.
    pub accepted: Option<(Ballot, Vec<Life>)>,
    /// The opened spaces.
    pub spaces: BTreeMap<IpNet, Space>,
    /// Where the search for a free address goes on, per pool.
    pub cursors: BTreeMap<(IpNet, Range), u128>,
    /// Gifts that the receiver has not said it has.
    pub gifts: Vec<Gift>,
    /// The number of the next gift.
    pub next_gift: u64,
    /// The last gift taken from each peer.
    pub taken: BTreeMap<PeerId, u64>,
    /// Lives whose space was taken over by somebody.
    pub removed: BTreeSet<Life>,
    /// Those of them that this peer answers for.
    pub announced: BTreeSet<Life>,
    /// The takeover that this peer has agreed to and that is not over.
    pub agreed: Option<Agreement>,
    /// The number of this peer's next attempt to take over.
    pub next_attempt: u64,
    /// Addresses in use here that this peer does not own and would like to.
    pub held: BTreeMap<Place, Vec<Holder>>,
    /// Addresses of swarm's services that containers here have; the managers answer for them.
    pub borrowed: BTreeSet<Place>,
    /// Gateways of networks here.
    pub gateways: BTreeSet<(Place, AddressSpace)>,
    /// Subnets of swarm's networks, where this host's engine manages the swarm.
    pub swarm_pools: BTreeSet<IpNet>,
    /// The subnets of networks here that go by a name.
    pub names: BTreeMap<String, IpNet>,
    /// Subnets handed out to networks without a name.
    pub fresh: BTreeSet<IpNet>,
    /// Where the search for a subnet for the next of them goes on.
    pub fresh_cursor: u32,
}

/// One change of the durable state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A ballot was promised and perhaps a value accepted.
    Vote(Ballot, Option<(Ballot, Vec<Life>)>),
    /// The ring was born, or heard of.
    Born(Born),
    /// The address has a holder, owned or not.
    Hold(Place, Holder),
    /// An address was found free in a pool, and has a holder.
    Allocate(Place, Range, Holder),
    /// The holder is done with it.
    Release(Place, Holder),
    /// A container here has the address of a swarm service.
    Borrow(Place),
    /// It has it no more.
    Return(Place),
    /// The space of a subnet is opened.
    Open(IpNet),
    /// Space was given away.
    Give(Gift),
    /// The receiver has these gifts.
    Received(PeerId, u64),
    /// Gifts of a peer were taken.
    Take(PeerId, Vec<Gift>),
    /// Space may be taken over.
    Agree(Agreement),
    /// That attempt was given up.
    Disagree,
    /// The space of a life was taken over by this peer.
    TakeOver {
        /// Whose space.
        life: Life,
        /// What that life had announced in turn.
        announced: BTreeSet<Life>,
        /// Its slots.
        slots: BTreeSet<u16>,
        /// Its space in what anybody has opened.
        spaces: BTreeMap<IpNet, Vec<Range>>,
    },
    /// The space of a life was taken over by another peer.
    Removed(Life),
    /// This peer's own space was taken over, or its state lost: another life begins.
    Reborn {
        /// The new life.
        incarnation: u64,
        /// At least this number for its next gift.
        next_gift: u64,
    },
    /// A network's gateway was asked for, or given back.
    Gateway(Place, AddressSpace, bool),
    /// A swarm network's subnet was asked for, or given back.
    SwarmPool(IpNet, bool),
    /// A named network has this subnet, or none any more.
    Name(String, Option<IpNet>),
    /// A subnet was handed out to a network without a name; where the search goes on.
    Fresh(IpNet, u32),
    /// It came back.
    FreshBack(IpNet),
    /// Everything is as in this state: the main range has changed.
    Anew(Box<State>),
    /// The state is this peer's.
    Owner(PeerId),
    /// Another member of the ring was heard of.
    Met,
    /// Other members' parts have changed.
    Seen(Vec<(Life, Seen)>),
    /// A majority can be reached.
    Contact(Duration),
    /// The daemon was started: what it says from now on is newer than what it said before.
    Started,
}

impl Entry {
    /// Whether the other peers are to be told of it at once.
    fn is_public(&self) -> bool {
        !matches!(
            self,
            Self::Allocate(..)
                | Self::Vote(..)
                | Self::Fresh(..)
                | Self::FreshBack(_)
                | Self::Borrow(_)
                | Self::Return(_)
                | Self::Owner(_)
                | Self::Met
                | Self::Seen(..)
                | Self::Contact(_)
                | Self::Agree(..)
                | Self::Disagree
        )
    }
}

impl State {
    /// The state of a peer that knows nothing yet. Lives of one peer must be numbered upwards:
    /// milliseconds since 1970 do.
    pub fn new(range: IpNet, incarnation: u64) -> Self {
        Self {
            owner: None,
            range: range.trunc(),
            incarnation,
            revision: 0,
            contact: None,
            met: false,
            seen: Table::from_iter([]),
            born: None,
            promised: Ballot::default(),
            accepted: None,
            spaces: BTreeMap::new(),
            cursors: BTreeMap::new(),
            gifts: Vec::new(),
            next_gift: incarnation.max(1),
            taken: BTreeMap::new(),
            removed: BTreeSet::new(),
            announced: BTreeSet::new(),
            agreed: None,
            next_attempt: incarnation.max(1),
            held: BTreeMap::new(),
            borrowed: BTreeSet::new(),
            gateways: BTreeSet::new(),
            swarm_pools: BTreeSet::new(),
            names: BTreeMap::new(),
            fresh: BTreeSet::new(),
            fresh_cursor: 0,
        }
    }

    /// The state of another peer on the same host, as a machine that was cloned becomes one: what was
    /// owned stays the former peer's, and containers' addresses are asked for.
    pub fn of_another(&self, owner: PeerId) -> Self {
        let mut former = self.clone();
        former.dispossess();
        Self {
            owner: Some(owner),
            held: former.held,
            borrowed: former.borrowed,
            gateways: former.gateways,
            swarm_pools: former.swarm_pools,
            names: former.names,
            fresh: former.fresh,
            fresh_cursor: former.fresh_cursor,
            ..Self::new(self.range, self.incarnation + 1)
        }
    }

    /// Makes one change.
    pub fn apply(&mut self, entry: &Entry) {
        let held_before = self.held.len();
        match entry {
            Entry::Vote(promised, accepted) => {
                self.promised = *promised;
                self.accepted = accepted.clone();
            }
            Entry::Born(born) => {
                self.born = Some(born.clone());
                for (universe, space) in &mut self.spaces {
                    let slots = slots_of(universe, &born.slots, born.total);
                    slots.iter().for_each(|range| space.gain(range));
                }
                self.claim_held();
            }
            Entry::Hold(place, holder) => self.hold(*place, holder.clone()),
            Entry::Allocate(place, pool, holder) => {
                self.hold(*place, holder.clone());
                self.cursors
                    .insert((place.0, *pool), place.1.saturating_add(1));
            }
            Entry::Release(place, holder) => self.release(*place, holder),
            Entry::Borrow(place) => {
                self.borrowed.insert(*place);
            }
            Entry::Return(place) => {
                self.borrowed.remove(place);
            }
            Entry::Open(universe) => {
                self.open(universe);
            }
            Entry::Give(gift) => {
                self.open(&gift.universe).lose(gift.range);
                self.next_gift = self.next_gift.max(gift.number + 1);
                self.gifts.push(gift.clone());
            }
            Entry::Received(peer, number) => {
                self.gifts
                    .retain(|gift| gift.to.peer != *peer || gift.number > *number);
            }
            Entry::Take(peer, gifts) => self.take(*peer, gifts),
            Entry::Agree(agreement) => {
                self.agreed = Some(*agreement);
                if agreement.taker.incarnation == self.incarnation {
                    self.next_attempt = self.next_attempt.max(agreement.number + 1);
                }
            }
            Entry::Disagree => self.agreed = None,
            Entry::TakeOver {
                life,
                announced,
                slots,
                spaces,
            } => {
                self.take_over(slots, spaces);
                self.announced.extend(announced.iter().copied());
                self.announced.insert(*life);
                announced.iter().for_each(|life| self.forget(*life));
                self.forget(*life);
            }
            Entry::Removed(life) => self.forget(*life),
            Entry::Reborn {
                incarnation,
                next_gift,
            } => {
                self.incarnation = *incarnation;
                self.next_gift = self.next_gift.max(*next_gift);
                self.dispossess();
            }
            Entry::Gateway(place, space, true) => {
                self.gateways.insert((*place, *space));
                self.reserve_gateway(*place);
            }
            Entry::Gateway(place, space, false) => {
                self.gateways.remove(&(*place, *space));
                if !self.gateways.iter().any(|(other, _)| other == place) {
                    self.release(*place, &Holder::Gateway);
                }
            }
            Entry::SwarmPool(pool, true) => {
                self.swarm_pools.insert(*pool);
            }
            Entry::SwarmPool(pool, false) => {
                self.swarm_pools.remove(pool);
            }
            Entry::Name(name, Some(pool)) => {
                self.names.insert(name.clone(), *pool);
            }
            Entry::Name(name, None) => {
                self.names.remove(name);
            }
            Entry::Fresh(pool, cursor) => {
                self.fresh.insert(*pool);
                self.fresh_cursor = *cursor;
            }
            Entry::FreshBack(pool) => {
                self.fresh.remove(pool);
            }
            Entry::Anew(state) => *self = (**state).clone(),
            Entry::Owner(owner) => self.owner = Some(*owner),
            Entry::Met => self.met = true,
            Entry::Seen(news) => self.seen.extend(news.clone()),
            Entry::Contact(at) => self.contact = Some(*at),
            Entry::Started => {}
        }
        let quiet = matches!(entry, Entry::Hold(..) | Entry::Release(..));
        if entry.is_public() && !quiet || self.held.len() != held_before {
            self.revision += 1;
        }
    }

    /// The space to which an address of this subnet belongs: the main range's, where it lies in
    /// there, else one of its own.
    pub fn universe(&self, subnet: &IpNet) -> IpNet {
        if self.range.contains(subnet) {
            self.range
        } else {
            subnet.trunc()
        }
    }

    /// The place of an address of this subnet.
    pub fn place(&self, subnet: &IpNet, address: IpAddr) -> Place {
        (self.universe(subnet), number(address))
    }

    /// What this peer owns of a space, opened or not.
    pub fn owned(&self, universe: &IpNet) -> RangeSet {
        match (self.spaces.get(universe), &self.born) {
            (Some(space), _) => space.owned().clone(),
            (None, Some(born)) => slots_of(universe, &born.slots, born.total),
            (None, None) => RangeSet::default(),
        }
    }

    /// Whether this peer owns the address.
    pub fn owns(&self, place: &Place) -> bool {
        match self.spaces.get(&place.0) {
            Some(space) => space.owned().contains(place.1),
            None => self.owned(&place.0).contains(place.1),
        }
    }

    /// Who holds an address here, owned or not.
    pub fn holders(&self, place: &Place) -> &[Holder] {
        let space = self.spaces.get(&place.0);
        let owned = space.map_or(&[][..], |space| space.holders(place.1));
        match self.held.get(place) {
            Some(held) if owned.is_empty() => held,
            _ => owned,
        }
    }

    /// All addresses in use here, with their holders.
    pub fn in_use(&self) -> impl Iterator<Item = (Place, &[Holder])> {
        let owned = self.spaces.iter().flat_map(|(universe, space)| {
            let place = |address| (*universe, address);
            space
                .used()
                .iter()
                .map(move |(&address, holders)| (place(address), holders.as_slice()))
        });
        let held = self.held.iter().map(|(place, h)| (*place, h.as_slice()));
        owned.chain(held)
    }

    /// How many addresses have a holder that is not a gateway.
    pub fn active(&self) -> usize {
        self.in_use()
            .filter(|(_, holders)| holders.iter().any(|h| *h != Holder::Gateway))
            .count()
    }

    /// What this peer says of its part of the ring.
    pub fn part(&self, nickname: &str) -> Option<Part> {
        let born = self.born.as_ref()?;
        let ranges = |space: &Space| space.owned().iter().collect();
        Some(Part {
            nickname: nickname.into(),
            incarnation: self.incarnation,
            revision: self.revision,
            sequence: 0,
            lineage: born.lineage,
            range: self.range,
            slots_total: born.total,
            slots: born.slots.clone(),
            spaces: self.spaces.iter().map(|(u, s)| (*u, ranges(s))).collect(),
            gifts: self.gifts.clone().into(),
            next_gift: self.next_gift,
            taken: self.taken.iter().map(|(peer, n)| (*peer, *n)).collect(),
            removed: self.announced.clone(),
            held: self
                .held
                .iter()
                .map(|(&(universe, address), holders)| Held {
                    universe,
                    address,
                    global: holders.iter().all(is_global),
                })
                .collect(),
            gateways: self.gateways.iter().map(|(place, _)| *place).collect(),
            borrowed: self.borrowed.iter().copied().collect(),
            swarm_pools: self.swarm_pools.clone(),
            names: self.names.clone().into_iter().collect(),
            used: self
                .spaces
                .iter()
                .map(|(universe, space)| (*universe, space.used().len() as u64))
                .filter(|(_, used)| *used > 0)
                .collect(),
        })
    }

    fn open(&mut self, universe: &IpNet) -> &mut Space {
        let slots = match &self.born {
            Some(born) if !self.spaces.contains_key(universe) => {
                slots_of(universe, &born.slots, born.total)
            }
            _ => RangeSet::default(),
        };
        let space = self.spaces.entry(*universe).or_default();
        slots.iter().for_each(|range| space.gain(range));
        space
    }

    fn hold(&mut self, place: Place, holder: Holder) {
        if self.owns(&place) {
            let space = self.open(&place.0);
            space.hold(place.1, holder);
        } else {
            let holders = self.held.entry(place).or_default();
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
    }

    fn release(&mut self, place: Place, holder: &Holder) {
        if let Some(space) = self.spaces.get_mut(&place.0) {
            space.release(place.1, holder);
        }
        if let Some(holders) = self.held.get_mut(&place) {
            holders.retain(|other| other != holder);
            if holders.is_empty() {
                self.held.remove(&place);
            }
        }
    }

    fn take(&mut self, peer: PeerId, gifts: &[Gift]) {
        for gift in gifts {
            self.open(&gift.universe).gain(gift.range);
            let last = self.taken.entry(peer).or_default();
            *last = (*last).max(gift.number);
        }
        self.claim_held();
    }

    fn take_over(&mut self, slots: &BTreeSet<u16>, spaces: &BTreeMap<IpNet, Vec<Range>>) {
        // With the slots of before: what the new ones bring of these spaces is listed.
        for (universe, ranges) in spaces {
            let space = self.open(universe);
            ranges.iter().for_each(|&range| space.gain(range));
        }
        if let Some(born) = &mut self.born {
            born.slots.extend(slots);
        }
        self.claim_held();
    }

    /// What was only held and is owned now is an address in use like others.
    fn claim_held(&mut self) {
        let now_owned: Vec<Place> = self
            .held
            .keys()
            .filter(|place| self.owns(place))
            .copied()
            .collect();
        for place in now_owned {
            for holder in self.held.remove(&place).unwrap_or_default() {
                self.hold(place, holder);
            }
        }
        for (place, _) in self.gateways.clone() {
            self.reserve_gateway(place);
        }
    }

    fn forget(&mut self, life: Life) {
        self.removed.insert(life);
        self.seen.remove(&life);
        self.agreed.take_if(|agreed| agreed.life == life);
        self.gifts.retain(|gift| gift.to != life);
    }

    fn dispossess(&mut self) {
        let mut held: Vec<(Place, Vec<Holder>)> = Vec::new();
        for (universe, space) in std::mem::take(&mut self.spaces) {
            for (&address, holders) in space.used() {
                let holders: Vec<_> = holders
                    .iter()
                    .filter(|holder| **holder != Holder::Gateway)
                    .cloned()
                    .collect();
                if !holders.is_empty() {
                    held.push(((universe, address), holders));
                }
            }
        }
        self.held.extend(held);
        self.gifts.clear();
        self.agreed = None;
        self.cursors.clear();
        if let Some(born) = &mut self.born {
            born.slots.clear();
            born.settled = true;
        }
    }

    fn reserve_gateway(&mut self, place: Place) {
        if self.owns(&place) {
            self.open(&place.0).hold(place.1, Holder::Gateway);
        }
    }
}

/// Whether swarm's manager answers for this holder.
pub fn is_global(holder: &Holder) -> bool {
    *holder == Holder::Docker(AddressSpace::Global)
}
