//! Ranges of addresses, and sets of them, with addresses as numbers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// The lowest address.
    pub first: u128,
    /// The highest address; never below the first in a range that was checked.
    pub last: u128,
}

impl Range {
    /// The range from one address to another.
    pub const fn new(first: u128, last: u128) -> Self {
        Self { first, last }
    }

    /// All addresses of a subnet.
    pub fn of_net(net: &IpNet) -> Self {
        Self::new(number(net.network()), number(net.broadcast()))
    }

    /// The addresses of a subnet that an interface can have: in IPv4 neither the first nor the
    /// last where the subnet has others (RFC 3021), in IPv6 not the first (RFC 4291, 2.6.1).
    pub fn of_hosts(net: &IpNet) -> Self {
        let all = Self::of_net(net);
        match net {
            IpNet::V4(net) if net.prefix_len() < 31 => Self::new(all.first + 1, all.last - 1),
            IpNet::V6(net) if net.prefix_len() < 127 => Self::new(all.first + 1, all.last),
            _ => all,
        }
    }

    /// The part of a range that belongs to one of `total` equal slots.
    pub fn slot(self, slot: u16, total: u16) -> Option<Self> {
        let (slot, total) = (u128::from(slot), u128::from(total.max(1)));
        let (whole, rest) = (self.len() / total, self.len() % total);
        let first = self.first + slot * whole + slot.min(rest);
        let len = whole + u128::from(slot < rest);
        (slot < total && len > 0).then(|| Self::new(first, first + (len - 1)))
    }

    /// How many addresses: never none. All of IPv6 counts as one less than it has.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether the address is in it.
    pub const fn contains(self, address: u128) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of the other range is in it.
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// What both have.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self::new(self.first.max(other.first), self.last.min(other.last));
        both.is_valid().then_some(both)
    }

    /// Whether it has any address: what came over the wire may not.
    pub const fn is_valid(self) -> bool {
        self.first <= self.last
    }
}

/// The address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The number as an address of the same family as the subnet.
pub fn address(net: &IpNet, number: u128) -> IpAddr {
    match net {
        // A number within an IPv4 subnet has 32 bits.
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A set of addresses, kept as the fewest possible ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeSet(BTreeMap<u128, u128>);

impl RangeSet {
    /// The ranges in order; no two of them touch.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.0.iter().map(|(&first, &last)| Range::new(first, last))
    }

    /// The parts of its ranges that lie within this one, in order.
    pub fn within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.0.range(..range.first).next_back();
        before
            .into_iter()
            .chain(self.0.range(range.first..=range.last))
            .filter_map(move |(&first, &last)| Range::new(first, last).intersection(range))
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: u128) -> bool {
        self.0
            .range(..=address)
            .next_back()
            .is_some_and(|(_, &last)| address <= last)
    }

    /// Whether all of the range is in it.
    pub fn covers(&self, range: Range) -> bool {
        self.0
            .range(..=range.first)
            .next_back()
            .is_some_and(|(_, &last)| range.last <= last)
    }

    /// Whether any address of the range is in it.
    pub fn overlaps(&self, range: Range) -> bool {
        self.within(range).next().is_some()
    }

    /// How many addresses.
    pub fn len(&self) -> u128 {
        self.iter()
            .fold(0, |sum: u128, range| sum.saturating_add(range.len()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of how many ranges it is made.
    pub fn pieces(&self) -> usize {
        self.0.len()
    }

    /// Adds the range's addresses.
    pub fn insert(&mut self, range: Range) {
        let Range {
            mut first,
            mut last,
        } = range;
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.0.range(first..).next()
            && next <= last.saturating_add(1)
        {
            self.0.remove(&next);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Takes the range's addresses out.
    pub fn remove(&mut self, range: Range) {
        if let Some((&before, &end)) = self.0.range(..range.first).next_back()
            && end >= range.first
        {
            self.0.insert(before, range.first - 1);
            if end > range.last {
                self.0.insert(range.last + 1, end);
            }
        }
        while let Some((&next, &end)) = self.0.range(range.first..=range.last).next() {
            self.0.remove(&next);
            if end > range.last {
                self.0.insert(range.last + 1, end);
            }
        }
    }

    /// Adds all of another set.
    pub fn extend(&mut self, ranges: impl IntoIterator<Item = Range>) {
        for range in ranges {
            self.insert(range);
        }
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<T: IntoIterator<Item = Range>>(ranges: T) -> Self {
        let mut set = Self::default();
        set.extend(ranges);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_addresses_leave_out_what_no_interface_can_have() {
        let hosts = |net: &str| Range::of_hosts(&net.parse().unwrap()).len();
        assert_eq!(hosts("10.0.0.0/24"), 254);
        assert_eq!(hosts("10.0.0.0/31"), 2);
        assert_eq!(hosts("10.0.0.1/32"), 1);
        assert_eq!(hosts("fd00::/126"), 3);
    }

    #[test]
    fn all_of_ipv6_does_not_overflow() {
        let all = Range::of_net(&"::/0".parse().unwrap());
        let mut set = RangeSet::from_iter([all]);
        assert!(set.covers(all) && set.contains(u128::MAX));
        set.remove(Range::new(u128::MAX, u128::MAX));
        assert!(!set.contains(u128::MAX));
        assert!(all.slot(2, 3).is_some());
    }

    proptest! {
        #[test]
        fn slots_share_out_a_range_exactly(first in 0u128..1000, len in 1u128..1000, total in 1u16..40) {
            let range = Range::new(first, first + len - 1);
            let slots: Vec<_> = (0..total).filter_map(|slot| range.slot(slot, total)).collect();
            prop_assert_eq!(slots.iter().map(|slot| slot.len()).sum::<u128>(), len);
            prop_assert_eq!(RangeSet::from_iter(slots), RangeSet::from_iter([range]));
        }

        #[test]
        fn a_set_of_ranges_is_a_set_of_addresses(
            steps in prop::collection::vec((any::<bool>(), 0u128..60, 0u128..12), 0..40),
            probe in (0u128..60, 0u128..12),
        ) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (add, first, more) in steps {
                let range = Range::new(first, first + more);
                let addresses = range.first..=range.last;
                if add {
                    set.insert(range);
                    model.extend(addresses);
                } else {
                    set.remove(range);
                    model.retain(|address| !addresses.contains(address));
                }
            }
            let probe = Range::new(probe.0, probe.0 + probe.1);
            let inside: BTreeSet<u128> = set.within(probe).flat_map(|r| r.first..=r.last).collect();
            let expected: BTreeSet<u128> = model.range(probe.first..=probe.last).copied().collect();
            prop_assert_eq!(set.covers(probe), expected.len() as u128 == probe.len());
            prop_assert_eq!(inside, expected);
            prop_assert_eq!(set.len(), model.len() as u128);
            prop_assert!(set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.last + 1 < b.first));
        }
    }
}
