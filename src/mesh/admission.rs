//! Who may begin a handshake: bounds on what strangers can cost, without IO.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Most handshakes under way with peers that dialled.
const MAX_HALF_OPEN: usize = 128;

/// Most of these with one source: many peers may share one address behind NAT.
const MAX_HALF_OPEN_PER_SOURCE: usize = 32;

/// Failed handshakes that a source may have in a row before it has to wait.
const FAILURE_BURST: u32 = 10;

/// After this long one more may fail: 17,000 guesses of a password a day.
const FAILURE_REFILL: Duration = Duration::from_secs(5);

/// Most sources that are remembered. Beyond, the one that failed longest ago is forgotten.
const MAX_SOURCES: usize = 1024;

/// Counts handshakes under way and failed ones by their source.
#[derive(Debug, Default)]
pub(super) struct Admission {
    half_open: BTreeMap<IpAddr, usize>,
    total: usize,
    failures: BTreeMap<IpAddr, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// How many still count at this time.
    fn remaining(self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.last);
        let forgiven = since.as_secs() / FAILURE_REFILL.as_secs();
        self.count
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

impl Admission {
    /// Whether a connection from there may begin a handshake. If so, [`end`](Self::end) is to be
    /// called once when it is over.
    pub(super) fn begin(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = host_of(source);
        let failed = self.failures.get(&source);
        let failed = failed.map_or(0, |failures| failures.remaining(now));
        let from_source = self.half_open.get(&source).copied().unwrap_or(0);
        if failed >= FAILURE_BURST
            || self.total >= MAX_HALF_OPEN
            || from_source >= MAX_HALF_OPEN_PER_SOURCE
        {
            return false;
        }
        self.half_open.insert(source, from_source + 1);
        self.total += 1;
        true
    }

    /// A handshake that was let in is over; `suspect` when it failed in a way that costs guesses.
    pub(super) fn end(&mut self, source: IpAddr, suspect: bool, now: Instant) {
        let source = host_of(source);
        if let Some(count) = self.half_open.get_mut(&source) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.half_open.remove(&source);
            }
        }
        if suspect {
            self.count_failure(source, now);
        }
    }

    fn count_failure(&mut self, source: IpAddr, now: Instant) {
        let before = self.failures.get(&source);
        let before = before.map_or(0, |failures| failures.remaining(now));
        if self.failures.len() >= MAX_SOURCES && !self.failures.contains_key(&source) {
            let oldest = self
                .failures
                .iter()
                .min_by_key(|(_, failures)| failures.last);
            if let Some((&oldest, _)) = oldest {
                self.failures.remove(&oldest);
            }
        }
        let count = before.saturating_add(1).min(FAILURE_BURST);
        self.failures.insert(source, Failures { count, last: now });
    }
}

/// A host has a whole /64 of IPv6 addresses (RFC 4291, section 2.5.4).
fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    #[test]
    fn a_flood_from_one_source_leaves_room_for_others() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let admitted = (0..1000)
            .filter(|_| admission.begin(source(1), now))
            .count();
        assert_eq!(admitted, MAX_HALF_OPEN_PER_SOURCE);
        assert!(admission.begin(source(2), now));
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let admitted = (0..1000)
            .filter(|n| admission.begin(source(*n), now))
            .count();
        assert_eq!(admitted, MAX_HALF_OPEN);
    }

    #[test]
    fn guessing_costs_time_and_is_forgiven_after_a_while() {
        let (mut admission, mut now) = (Admission::default(), Instant::now());
        let mut guesses = 0;
        while admission.begin(source(1), now) {
            admission.end(source(1), true, now);
            guesses += 1;
        }
        assert_eq!(guesses, FAILURE_BURST);
        now += FAILURE_REFILL;
        assert!(admission.begin(source(1), now));
    }

    #[test]
    fn handshakes_that_are_over_make_room() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for _ in 0..1000 {
            assert!(admission.begin(source(1), now));
            admission.end(source(1), false, now);
        }
        assert!(admission.half_open.is_empty());
    }

    #[test]
    fn sources_are_forgotten_when_there_are_too_many() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for number in 0..2 * MAX_SOURCES as u32 {
            assert!(admission.begin(source(number), now));
            admission.end(source(number), true, now);
        }
        assert_eq!(admission.failures.len(), MAX_SOURCES);
    }

    #[test]
    fn the_addresses_of_one_ipv6_host_count_as_one() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let hosts = (0..100_u128).map(|n| IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()));
        let admitted = hosts.filter(|host| admission.begin(*host, now)).count();
        assert_eq!(admitted, MAX_HALF_OPEN_PER_SOURCE);
    }
}
