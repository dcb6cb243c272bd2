//! Probing one path: whether it works, and how large a datagram gets through.
//!
//! Packetization-layer path MTU discovery (RFC 8899): no ICMP is needed. Datagrams of the largest
//! known size are sent every second, so that a path that lets small ones through and drops large
//! ones is found out soon. It is pure, and knows nothing of what carries the probes: the tunnel
//! and VXLAN use the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A size that every path is taken to carry (RFC 8899, section 5.1.2, `BASE_PLPMTU`).
pub const BASE: u16 = 1200;
/// The largest size that is tried: jumbo frames of 9,000 bytes over IPv4.
pub const MAX: u16 = 8972;
/// Sizes tried first: Ethernet and jumbo frames, each over IPv4 and IPv6.
const LIKELY: [u16; 4] = [1472, 1452, 8972, 8952];
/// The search ends when what it could gain is below this.
const PRECISION: u16 = 8;
/// How often a path that works is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take at least before a probe counts as lost.
const MIN_TIMEOUT: Duration = Duration::from_millis(400);
/// Tries of one size in the search.
const SEARCH_TRIES: u32 = 3;
/// Lost probes of the known size, while small ones get through, until it is given up.
const SHRINK_AFTER: u32 = 3;
/// Rounds without any answer until the path is taken for dead: at most 1 s + 4 x 0.4 s.
const DEAD_AFTER: u32 = 4;
/// Probes without an answer yet that no hint adds to: what comes back may be a hint again.
const MAX_HURRIED: usize = 8;
/// How long after a probe counts as lost its answer still proves that the path works: by satellite,
/// or behind a full queue, round trips take longer than is waited for an answer.
const LATE: Duration = Duration::from_secs(3);
/// How often larger sizes are tried again.
const RAISE_INTERVAL: Duration = Duration::from_secs(60);

/// A probe to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Its number, which the answer brings back.
    pub seq: u64,
    /// Bytes of the UDP payload it has to fill.
    pub size: u16,
}

/// What is known of one path.
#[derive(Debug)]
pub struct Prober {
    next_seq: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// When those were sent that count as lost, and may be late.
    late: BTreeMap<u64, Instant>,
    due: Instant,
    raise_at: Instant,
    max: u16,
    alive: bool,
    answered_since: Option<Instant>,
    rtt: Option<Duration>,
    mtu: u16,
    too_large: u16,
    search: Option<Search>,
    silent_rounds: u32,
    large_lost: u32,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    size: u16,
    sent: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Search {
    size: u16,
    tries: u32,
    waiting: Option<u64>,
}

impl Prober {
    /// A path of which nothing is known. Numbers of probes begin with `first_seq`; nothing larger
    /// than `max` is tried.
    pub fn new(first_seq: u64, max: u16, now: Instant) -> Self {
        Self {
            next_seq: first_seq,
            in_flight: BTreeMap::new(),
            late: BTreeMap::new(),
            due: now,
            raise_at: now + RAISE_INTERVAL,
            max: max.max(BASE),
            alive: false,
            answered_since: None,
            rtt: None,
            mtu: BASE,
            too_large: max.max(BASE) + 1,
            search: None,
            silent_rounds: 0,
            large_lost: 0,
        }
    }

    /// Whether the path works.
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// Since when it has worked without a break.
    pub fn alive_since(&self) -> Option<Instant> {
        self.answered_since.filter(|_| self.alive)
    }

    /// Round-trip time of the latest answer.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The largest datagram known to get through, in bytes of UDP payload.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the largest size that is of interest gets through.
    pub fn full_size(&self) -> bool {
        self.alive && self.mtu == self.max
    }

    /// Whether the search has ended: nothing larger gets through.
    pub fn settled(&self) -> bool {
        self.alive && self.search.is_none()
    }

    /// Takes the answer to a probe.
    pub fn handle_answer(&mut self, seq: u64, now: Instant) {
        let Some(probe) = self.in_flight.remove(&seq) else {
            if let Some(sent) = self.late.remove(&seq) {
                self.heard(sent, now);
            }
            return;
        };
        self.heard(probe.sent, now);
        // One from before the device or the path came to take less says nothing of now.
        if probe.size >= self.mtu && probe.size < self.too_large {
            self.mtu = probe.size;
            self.large_lost = 0;
        }
        if self.search.is_some_and(|search| search.size <= self.mtu) {
            self.begin_search();
        }
    }

    /// Takes the news that this host's own device does not take a probe of this size.
    pub fn handle_too_large(&mut self, seq: u64, now: Instant) {
        let Some(probe) = self.in_flight.get(&seq).copied() else {
            return;
        };
        // Less is never tried: to a device that does not take this much, the path is lost.
        if probe.size <= BASE {
            return;
        }
        self.in_flight.remove(&seq);
        self.too_large = self.too_large.min(probe.size);
        if probe.size <= self.mtu {
            self.shrink(now);
        }
        if self
            .search
            .is_some_and(|search| search.size >= self.too_large)
        {
            self.begin_search();
        }
    }

    /// Takes the hint that what is known may be wrong: probes at once.
    pub fn handle_suspicion(&mut self, now: Instant) {
        if self.in_flight.len() < MAX_HURRIED {
            self.due = self.due.min(now);
        }
    }

    /// Counts what is lost and begins what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let timeout = self.timeout();
        let lost = |probe: &InFlight| now.saturating_duration_since(probe.sent) >= timeout;
        let gone: Vec<(u64, u16)> = self
            .in_flight
            .iter()
            .filter(|(_, probe)| lost(probe))
            .map(|(seq, probe)| (*seq, probe.size))
            .collect();
        let mut small_lost = false;
        self.late
            .retain(|_, sent| now.saturating_duration_since(*sent) < timeout + LATE);
        for (seq, size) in gone {
            if let Some(probe) = self.in_flight.remove(&seq) {
                self.late.insert(seq, probe.sent);
            }
            if self
                .search
                .is_some_and(|search| search.waiting == Some(seq))
            {
                self.search_lost(now);
                continue;
            }
            if size > BASE && size >= self.mtu {
                self.large_lost += 1;
            }
            small_lost = true;
        }
        if small_lost {
            self.silent_rounds = self.silent_rounds.saturating_add(1);
            if self.alive {
                self.due = now;
            }
        }
        if self.alive && self.silent_rounds >= DEAD_AFTER {
            self.alive = false;
            self.answered_since = None;
            self.search = None;
        } else if self.large_lost >= SHRINK_AFTER && self.silent_rounds < SHRINK_AFTER {
            self.too_large = self.mtu;
            self.shrink(now);
        }
        if now >= self.raise_at {
            self.raise_at = now + RAISE_INTERVAL;
            self.too_large = self.max + 1;
            if self.alive && self.search.is_none() {
                self.begin_search();
            }
        }
    }

    /// The next probe to send. Ask after every other call until there is none.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<ProbeRequest> {
        if let Some(search) = &mut self.search
            && search.waiting.is_none()
        {
            search.waiting = Some(self.next_seq);
            search.tries += 1;
            let size = search.size;
            return Some(self.send(size, now));
        }
        if self.due > now {
            return None;
        }
        // A round is one probe of the known size, and a small one when answers are missing.
        let asked = self
            .in_flight
            .values()
            .any(|probe| probe.sent == now && probe.size == self.mtu);
        if !asked {
            if self.silent_rounds == 0 && self.large_lost == 0 {
                self.due = now + INTERVAL;
            }
            return Some(self.send(self.mtu, now));
        }
        self.due = now + INTERVAL;
        (self.mtu > BASE).then(|| self.send(BASE, now))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> (Instant, &'static str) {
        let timeout = self.timeout();
        let lost = self
            .in_flight
            .values()
            .map(|probe| (probe.sent + timeout, "probe lost"));
        let next = (self.due, "next probe");
        let raise = (self.raise_at, "try larger probes");
        lost.chain([next, raise]).min().unwrap_or(next)
    }

    fn heard(&mut self, sent: Instant, now: Instant) {
        self.rtt = Some(now.saturating_duration_since(sent));
        self.silent_rounds = 0;
        if !self.alive {
            self.alive = true;
            self.answered_since = Some(now);
            self.begin_search();
        }
    }

    fn timeout(&self) -> Duration {
        let rtt = self.rtt.unwrap_or_default();
        MIN_TIMEOUT.max(rtt * 2).min(INTERVAL)
    }

    fn send(&mut self, size: u16, now: Instant) -> ProbeRequest {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.in_flight.insert(seq, InFlight { size, sent: now });
        ProbeRequest { seq, size }
    }

    fn shrink(&mut self, now: Instant) {
        self.mtu = BASE;
        self.large_lost = 0;
        self.raise_at = now + RAISE_INTERVAL;
        self.begin_search();
    }

    fn search_lost(&mut self, now: Instant) {
        let Some(search) = &mut self.search else {
            return;
        };
        search.waiting = None;
        if search.tries >= SEARCH_TRIES {
            self.too_large = self.too_large.min(search.size);
            self.raise_at = now + RAISE_INTERVAL;
            self.begin_search();
        }
    }

    fn begin_search(&mut self) {
        let fits = |size: u16| self.mtu < size && size < self.too_large;
        let likely = LIKELY.into_iter().chain([self.max]);
        let mut likely = likely.filter(|&size| fits(size));
        let likely = likely.next();
        let room = self.too_large.saturating_sub(self.mtu);
        let middle = self.mtu + room / 2;
        let worth = room > PRECISION;
        let size = likely.or(worth.then_some(middle));
        self.search = size.map(|size| Search {
            size,
            tries: 0,
            waiting: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Path {
        prober: Prober,
        now: Instant,
        /// The largest datagram that gets through; 0 for a cut line.
        limit: u16,
        /// The largest that this host's device takes.
        device: u16,
        delay: Duration,
        answers: BTreeMap<(Instant, u64), ()>,
    }

    impl Path {
        fn new(limit: u16, device: u16) -> Self {
            let now = Instant::now();
            Self {
                prober: Prober::new(0, MAX, now),
                now,
                limit,
                device,
                delay: Duration::from_millis(20),
                answers: BTreeMap::new(),
            }
        }

        fn run(&mut self, duration: Duration) {
            let end = self.now + duration;
            while self.now < end {
                self.prober.handle_timeout(self.now);
                let mut sent = 0;
                while let Some(probe) = self.prober.poll_transmit(self.now) {
                    sent += 1;
                    assert!(sent < 30, "probes without end");
                    if probe.size > self.device {
                        self.prober.handle_too_large(probe.seq, self.now);
                    } else if probe.size <= self.limit {
                        self.answers.insert((self.now + self.delay, probe.seq), ());
                    }
                }
                let (timeout, _) = self.prober.poll_timeout();
                let answer = self.answers.keys().next().map(|(at, _)| *at);
                let next = answer.map_or(timeout, |at| at.min(timeout));
                self.now = next.max(self.now + Duration::from_micros(1));
                while let Some(entry) = self.answers.first_entry()
                    && entry.key().0 <= self.now
                {
                    let ((_, seq), ()) = entry.remove_entry();
                    self.prober.handle_answer(seq, self.now);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_search_finds_what_gets_through(limit in BASE..=MAX, device in BASE..=MAX) {
            let mut path = Path::new(limit, device);
            path.run(Duration::from_secs(40));
            prop_assert!(path.prober.alive() && path.prober.settled());
            let truth = limit.min(device);
            prop_assert!(path.prober.mtu() <= truth && path.prober.mtu() + PRECISION >= truth,
                "found {} of {truth}", path.prober.mtu());
        }
    }

    #[test]
    fn ethernet_is_found_within_a_moment() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_millis(200));
        assert_eq!((path.prober.mtu(), path.prober.settled()), (1472, true));
    }

    #[test]
    fn a_cut_line_is_noticed_within_four_seconds_and_its_return_within_two() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(10));
        path.limit = 0;
        path.run(Duration::from_secs(4));
        assert!(!path.prober.alive());
        path.run(Duration::from_secs(100));
        path.limit = 1472;
        path.run(Duration::from_secs(2));
        assert!(path.prober.alive());
        assert_eq!(path.prober.mtu(), 1472);
    }

    #[test]
    fn a_size_of_interest_is_tried_exactly() {
        let mut path = Path::new(1402, 9000);
        path.prober = Prober::new(0, 1402, path.now);
        path.run(Duration::from_millis(200));
        assert!(path.prober.full_size());
        path.limit = 1300;
        path.run(Duration::from_secs(4));
        assert!(path.prober.alive() && !path.prober.full_size());
    }

    #[test]
    fn a_path_that_shrinks_is_followed_within_three_seconds() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(10));
        path.limit = 1300;
        path.run(Duration::from_secs(3));
        assert!(path.prober.alive());
        assert!(path.prober.mtu() <= 1300);
        path.run(Duration::from_secs(30));
        assert!(path.prober.mtu() > 1280);
        path.limit = 1472;
        path.run(Duration::from_secs(70));
        assert_eq!(path.prober.mtu(), 1472);
    }

    #[test]
    fn hints_without_end_do_not_lead_to_probes_without_end() {
        let now = Instant::now();
        let mut prober = Prober::new(0, MAX, now);
        for after in 0..100 {
            let now = now + Duration::from_millis(after);
            prober.handle_suspicion(now);
            while prober.poll_transmit(now).is_some() {}
        }
        let sent = prober.in_flight.len();
        assert_eq!(sent, MAX_HURRIED);
    }

    #[test]
    fn a_path_slower_than_the_wait_for_an_answer_works() {
        let mut path = Path::new(1472, 1472);
        path.delay = Duration::from_millis(700);
        path.run(Duration::from_secs(10));
        assert!(path.prober.alive() && path.prober.settled());
        assert_eq!(path.prober.mtu(), 1472);
        // It was fast, and a queue fills.
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(10));
        path.delay = Duration::from_millis(700);
        for _ in 0..20 {
            path.run(Duration::from_secs(1));
            assert!(path.prober.alive() && path.prober.mtu() == 1472);
        }
    }

    #[test]
    fn an_answer_from_before_the_device_shrank_does_not_count() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(10));
        // One is under way for as long as it takes to find out.
        path.prober.handle_suspicion(path.now);
        let before = path.prober.poll_transmit(path.now).unwrap();
        path.now += Duration::from_micros(1);
        path.device = 1272;
        path.prober.handle_suspicion(path.now);
        path.run(Duration::from_micros(10));
        path.prober.handle_answer(before.seq, path.now);
        path.run(Duration::from_secs(1));
        assert!(path.prober.alive());
        assert!(
            (1264..=1272).contains(&path.prober.mtu()),
            "{}",
            path.prober.mtu()
        );
    }

    #[test]
    fn a_device_that_does_not_even_take_the_smallest_loses_the_path() {
        for lost_before in [false, true] {
            let mut path = Path::new(1472, 1472);
            path.run(Duration::from_secs(10));
            if lost_before {
                path.limit = 0;
                path.run(Duration::from_millis(1500));
            }
            path.device = BASE - 1;
            path.run(Duration::from_secs(5));
            assert!(!path.prober.alive());
        }
    }

    #[test]
    fn a_device_that_shrinks_is_followed_at_once() {
        let mut path = Path::new(1472, 1472);
        path.run(Duration::from_secs(10));
        path.device = 1372;
        path.prober.handle_suspicion(path.now);
        path.run(Duration::from_millis(100));
        assert!(path.prober.mtu() <= 1372);
    }
}
