//! The space a peer owns in one subnet: which addresses are in use, which are free.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::AddressSpace;
use super::range::{Range, RangeSet};

/// Why an address is in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Holder {
    /// Docker asked for it, for a network of this kind.
    Docker(AddressSpace),
    /// It was asked for by name: a container's identifier, or what else the command line says;
    /// with the prefix length of its subnet.
    Container(String, u8),
    /// Docker asked for it for a network itself, as a gateway or an auxiliary address; several hosts
    /// may.
    Gateway,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Docker(AddressSpace::Local) => f.write_str("a container"),
            Self::Docker(AddressSpace::Global) => f.write_str("a swarm service"),
            Self::Container(name, _) => write!(f, "container {name}"),
            Self::Gateway => f.write_str("the network itself"),
        }
    }
}

/// Owned addresses of one subnet; every one of them is either free or has holders.
///
/// All operations take a time that grows with the logarithm of the number of addresses in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    owned: RangeSet,
    free: RangeSet,
    used: BTreeMap<u128, Vec<Holder>>,
}

impl Space {
    /// What is owned.
    pub fn owned(&self) -> &RangeSet {
        &self.owned
    }

    /// What is owned and not in use.
    pub fn free(&self) -> &RangeSet {
        &self.free
    }

    /// What is in use, and by whom.
    pub fn used(&self) -> &BTreeMap<u128, Vec<Holder>> {
        &self.used
    }

    /// Who holds the address; nobody when it is free or not owned.
    pub fn holders(&self, address: u128) -> &[Holder] {
        self.used.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The first free address of the range from the cursor on, else from the range's beginning.
    pub fn next_free(&self, range: Range, cursor: u128) -> Option<u128> {
        let from = Range::new(cursor.max(range.first), range.last);
        let after = from
            .is_valid()
            .then(|| self.free.within(from).next())
            .flatten();
        after
            .or_else(|| self.free.within(range).next())
            .map(|run| run.first)
    }

    /// The addresses to give away of this range: the upper half of the longest free run, but not
    /// more than `most`.
    pub fn spare(&self, range: Range, most: u128) -> Option<Range> {
        let run = self.free.within(range).max_by_key(|run| run.len())?;
        let more = ((run.len() - 1) / 2).min(most.saturating_sub(1));
        Some(Range::new(run.last - more, run.last))
    }

    /// Takes ownership; addresses that were owned already keep their holders.
    pub fn gain(&mut self, range: Range) {
        let mut fresh = RangeSet::from_iter([range]);
        for owned in self.owned.within(range) {
            fresh.remove(owned);
        }
        self.free.extend(fresh.iter());
        self.owned.insert(range);
    }

    /// Gives ownership up, with whatever holders there are.
    pub fn lose(&mut self, range: Range) {
        self.owned.remove(range);
        self.free.remove(range);
        let gone: Vec<u128> = self
            .used
            .range(range.first..=range.last)
            .map(|(&address, _)| address)
            .collect();
        for address in gone {
            self.used.remove(&address);
        }
    }

    /// Notes that an owned address has this holder (too).
    pub fn hold(&mut self, address: u128, holder: Holder) {
        self.free.remove(Range::new(address, address));
        let holders = self.used.entry(address).or_default();
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }

    /// Notes that this holder is done with it; without any other, the address is free.
    pub fn release(&mut self, address: u128, holder: &Holder) {
        let Some(holders) = self.used.get_mut(&address) else {
            return;
        };
        holders.retain(|other| other != holder);
        if holders.is_empty() {
            self.used.remove(&address);
            self.free.insert(Range::new(address, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Range = Range::new(0, 99);

    #[test]
    fn a_freed_address_is_used_again_last() {
        let mut space = Space::default();
        space.gain(Range::new(0, 3));
        let mut cursor = 0;
        let mut handed_out = Vec::new();
        for _ in 0..5 {
            let address = space.next_free(ALL, cursor).unwrap();
            space.hold(address, Holder::Gateway);
            space.release(address, &Holder::Gateway);
            cursor = address + 1;
            handed_out.push(address);
        }
        assert_eq!(handed_out, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn an_address_is_free_when_its_last_holder_is_done() {
        let mut space = Space::default();
        space.gain(Range::new(7, 7));
        let swarm = Holder::Docker(AddressSpace::Global);
        let local = Holder::Docker(AddressSpace::Local);
        space.hold(7, swarm.clone());
        space.hold(7, local.clone());
        space.release(7, &local);
        space.release(7, &local);
        assert_eq!(space.next_free(ALL, 0), None);
        space.release(7, &swarm);
        assert_eq!(space.next_free(ALL, 0), Some(7));
    }

    proptest! {
        #[test]
        fn what_is_owned_is_either_free_or_used(
            steps in prop::collection::vec((0u8..4, 0u128..60, 0u128..12), 0..60),
        ) {
            let mut space = Space::default();
            for (step, first, more) in steps {
                let range = Range::new(first, first + more);
                match step {
                    0 => space.gain(range),
                    1 => space.lose(range),
                    2 if space.owned().contains(first) => space.hold(first, Holder::Gateway),
                    _ => space.release(first, &Holder::Gateway),
                }
            }
            for address in 0..80 {
                let free = space.free().contains(address);
                let used = space.used().contains_key(&address);
                prop_assert_eq!(space.owned().contains(address), free || used);
                prop_assert!(!(free && used));
            }
        }

        #[test]
        fn what_is_spared_is_free_and_asked_for(
            used in prop::collection::btree_set(0u128..100, 0..60), first in 0u128..90, more in 0u128..30,
        ) {
            let mut space = Space::default();
            space.gain(ALL);
            used.iter().for_each(|&address| space.hold(address, Holder::Gateway));
            let range = Range::new(first, first + more);
            if let Some(spare) = space.spare(range, 20) {
                prop_assert!(spare.is_valid() && range.covers(spare) && spare.len() <= 20 && space.free().covers(spare));
            } else {
                prop_assert!((first..=first + more).all(|a| a > 99 || used.contains(&a)));
            }
        }
    }
}
