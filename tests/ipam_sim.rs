//! Model-based simulation of address allocation: many peers, a network that loses, repeats and
//! reorders, partitions, crashes between any two steps, clocks that differ. Whatever happens, no
//! address has two holders; and once all is well again, everybody can allocate.
//!
//! `IPAM_SIM_SEED=N` runs one schedule again, `IPAM_SIM_SCHEDULES=N` sets how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weave_net::ipam::allocator::{Action, Core};
use weave_net::ipam::ring::Life;
use weave_net::ipam::state::{Entry, State};
use weave_net::ipam::{Config, Init, IpamError, Request, Response};
use weave_net::types::PeerId;

mod ipam_ring;

const MILLISECOND: Duration = Duration::from_millis(1);
const TAKEOVER_AFTER: Duration = Duration::from_secs(60);

type Holders = BTreeMap<IpAddr, Vec<(usize, Life, String)>>;
type Records = BTreeMap<(usize, Bytes), (u64, Option<Bytes>)>;

enum Delivery {
    Record(usize, Bytes, u64, Option<Bytes>),
    Message(usize, Bytes),
}

struct Peer {
    id: PeerId,
    core: Option<Core>,
    durable: State,
    unsynced: Vec<Entry>,
    known: Records,
    dead: bool,
    group: u8,
    offset: Duration,
    percent: u32,
    waiting: BTreeMap<u64, String>,
    containers: BTreeMap<String, IpAddr>,
}

struct World {
    seed: u64,
    rng: ChaCha8Rng,
    base: Instant,
    time: Duration,
    peers: Vec<Peer>,
    versions: u64,
    queue: BTreeMap<(Duration, u64), (usize, Delivery)>,
    sequence: u64,
    holders: Holders,
    hostile: bool,
    granted: u32,
    refused: u32,
    /// How many addresses nobody has in the end.
    lost: u128,
    refusals: Vec<String>,
}

fn range() -> IpNet {
    "10.32.0.0/27".parse().unwrap()
}

fn subnets() -> [Option<IpNet>; 4] {
    [
        None,
        None,
        Some("10.9.0.0/28".parse().unwrap()),
        Some("fd00::/124".parse().unwrap()),
    ]
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let count = rng.random_range(3..=7u8);
        let peers = (0..count)
            .map(|n| Peer {
                id: PeerId::from_bytes([n + 1; 16]),
                core: None,
                durable: State::new(range(), 1000 + u64::from(n)),
                unsynced: Vec::new(),
                known: Records::new(),
                dead: false,
                group: 0,
                offset: Duration::from_secs(rng.random_range(0..100_000)),
                percent: rng.random_range(95..=105),
                waiting: BTreeMap::new(),
                containers: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            seed,
            rng,
            base: Instant::now(),
            time: Duration::from_secs(1),
            peers,
            versions: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            holders: Holders::new(),
            hostile: true,
            granted: 0,
            refused: 0,
            lost: 0,
            refusals: Vec::new(),
        };
        for peer in 0..world.peers.len() {
            world.start(peer);
        }
        world
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.random_range(0..1000) < per_mille
    }

    fn clock(&self, peer: usize) -> Duration {
        let peer = &self.peers[peer];
        peer.offset + self.time * peer.percent / 100
    }

    fn now(&self, peer: usize) -> Instant {
        self.base + self.clock(peer)
    }

    fn live(&self) -> Vec<usize> {
        let up = |peer: &usize| self.peers[*peer].core.is_some();
        (0..self.peers.len()).filter(up).collect()
    }

    fn connected(&self, one: usize, two: usize) -> bool {
        let (one, two) = (&self.peers[one], &self.peers[two]);
        one.core.is_some() && two.core.is_some() && one.group == two.group
    }

    fn start(&mut self, at: usize) {
        let config = Config {
            init: Init::Consensus {
                expected: self.peers.len() as u16,
            },
            takeover_after: Some(TAKEOVER_AFTER),
            ..Config::new(self.peers[at].id, format!("host{at}"), range())
        };
        let rng = ChaCha8Rng::from_rng(&mut self.rng);
        let (clock, now) = (self.clock(at), self.now(at));
        let state = self.peers[at].durable.clone();
        self.peers[at].core = Some(Core::new(config, state, clock, rng, now));
        let known = self.peers[at].known.clone();
        for ((owner, key), (_, value)) in known {
            let owner = self.peers[owner].id;
            self.core(at)
                .handle_record(owner, &key, value.as_deref(), now);
        }
        self.reconnect();
        for (container, address) in self.peers[at].containers.clone() {
            self.claim(at, container, address, true);
        }
        self.pump(at);
    }

    fn core(&mut self, at: usize) -> &mut Core {
        self.peers[at].core.as_mut().unwrap()
    }

    /// The daemon dies; of what was not synced, some beginning may be on the disk.
    fn crash(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let survives = self.rng.random_range(0..=peer.unsynced.len());
        for entry in peer.unsynced.drain(..).take(survives) {
            peer.durable.apply(&entry);
        }
        peer.core = None;
        peer.waiting.clear();
        // The mesh remembers nothing; what it knew is heard from the others again.
        peer.known.clear();
        self.reconnect();
    }

    /// The host is gone for good, and its containers with it.
    fn kill(&mut self, at: usize) {
        self.crash(at);
        self.peers[at].dead = true;
        for holders in self.holders.values_mut() {
            holders.retain(|(peer, ..)| *peer != at);
        }
    }

    /// Tells everybody who can be reached, and lets those who can exchange what they know.
    fn reconnect(&mut self) {
        for one in self.live() {
            for two in 0..self.peers.len() {
                let (id, now) = (self.peers[two].id, self.now(one));
                if one == two {
                    continue;
                }
                if self.connected(one, two) {
                    self.core(one).handle_reachable(id, now);
                    self.exchange(one, two);
                } else {
                    self.core(one).handle_unreachable(id, now);
                }
            }
        }
    }

    fn exchange(&mut self, from: usize, to: usize) {
        for ((owner, key), (version, value)) in self.peers[from].known.clone() {
            let known = self.peers[to].known.get(&(owner, key.clone()));
            if owner != to && known.is_none_or(|(known, _)| *known < version) {
                let delivery = Delivery::Record(owner, key, version, value);
                self.post(to, delivery);
            }
        }
    }

    fn post(&mut self, to: usize, delivery: Delivery) {
        let most = if self.hostile { 400 } else { 20 };
        let delay = MILLISECOND * self.rng.random_range(1..most);
        self.sequence += 1;
        self.queue
            .insert((self.time + delay, self.sequence), (to, delivery));
    }

    fn deliver(&mut self, to: usize, delivery: Delivery) {
        if self.peers[to].core.is_none() {
            return;
        }
        let now = self.now(to);
        match delivery {
            Delivery::Record(owner, key, version, value) => {
                let known = self.peers[to].known.get(&(owner, key.clone()));
                if known.is_some_and(|(known, _)| *known >= version) {
                    return;
                }
                let id = self.peers[owner].id;
                self.core(to).handle_record(id, &key, value.as_deref(), now);
                self.peers[to].known.insert((owner, key), (version, value));
            }
            Delivery::Message(from, payload) => {
                let id = self.peers[from].id;
                self.core(to).handle_message(id, &payload, now);
            }
        }
        self.pump(to);
    }

    /// Does what the allocator wants done; anything may be cut short.
    fn pump(&mut self, at: usize) {
        while let Some(action) = self.peers[at].core.as_mut().and_then(Core::poll_action) {
            if self.hostile && self.chance(2) {
                return self.crash(at);
            }
            if let Action::Persist(entry) = action {
                self.peers[at].unsynced.push(entry);
                continue;
            }
            let peer = &mut self.peers[at];
            for entry in peer.unsynced.drain(..) {
                peer.durable.apply(&entry);
            }
            self.perform(at, action);
        }
        let peer = &mut self.peers[at];
        for entry in peer.unsynced.drain(..) {
            peer.durable.apply(&entry);
        }
        let core = peer.core.as_ref().unwrap();
        assert_eq!(core.state(), &peer.durable, "seed {}", self.seed);
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Persist(_) => {}
            Action::Publish { key, value } => {
                self.versions += 1;
                let version = self.versions;
                let own = (version, value.clone());
                self.peers[at].known.insert((at, key.clone()), own);
                for to in 0..self.peers.len() {
                    if to != at && self.connected(at, to) && !(self.hostile && self.chance(100)) {
                        let (key, value) = (key.clone(), value.clone());
                        self.post(to, Delivery::Record(at, key, version, value));
                    }
                }
            }
            Action::Send { to, payload } => {
                let to = self.peers.iter().position(|peer| peer.id == to).unwrap();
                let copies = match self.hostile {
                    true => [0, 1, 1, 1, 1, 2][self.rng.random_range(0..6)],
                    false => 1,
                };
                for _ in 0..copies {
                    if self.connected(at, to) {
                        self.post(to, Delivery::Message(at, payload.clone()));
                    }
                }
            }
            Action::Reply { request, result } => self.answered(at, request, result),
        }
    }

    fn answered(&mut self, at: usize, request: u64, result: Result<Response, IpamError>) {
        let container = self.peers[at].waiting.remove(&request);
        let Some(container) = container.filter(|name| !name.is_empty()) else {
            return;
        };
        let Ok(Response::Address(address)) = result else {
            if !self.hostile {
                self.refusals.push(format!("host{at}: {result:?}"));
            }
            self.refused += 1;
            return;
        };
        self.granted += 1;
        let life = self.core(at).life();
        let address = address.addr();
        if self.peers[at].containers.get(&container) == Some(&address) {
            return;
        }
        let lost: BTreeSet<Life> = self
            .peers
            .iter()
            .flat_map(|peer| peer.durable.removed.iter().copied())
            .collect();
        assert!(
            !lost.contains(&life),
            "seed {}: host{at} handed out {address} after its space was taken over",
            self.seed
        );
        let holders = self.holders.entry(address).or_default();
        // A peer that was taken for dead while it lived is told of the conflict.
        holders.retain(|(_, life, _)| !lost.contains(life));
        assert!(
            holders.is_empty(),
            "seed {}: {address} went to {container} on host{at} and is held by {holders:?}",
            self.seed
        );
        holders.push((at, life, container.clone()));
        self.peers[at].containers.insert(container, address);
    }

    fn ask(&mut self, at: usize, container: String, request: Request) {
        self.sequence += 1;
        let (id, now) = (self.sequence, self.now(at));
        self.peers[at].waiting.insert(id, container);
        self.core(at).handle_request(id, request, now);
    }

    fn claim(&mut self, at: usize, container: String, address: IpAddr, running: bool) {
        let subnet = subnets()
            .into_iter()
            .flatten()
            .find(|subnet| subnet.contains(&address));
        let prefix = subnet.unwrap_or(range()).prefix_len();
        let address = IpNet::new(address, prefix).unwrap();
        let request = Request::Claim {
            container: container.clone(),
            address,
            running,
        };
        self.ask(at, container, request);
    }

    fn allocate(&mut self, at: usize) {
        self.sequence += 1;
        let container = format!("c{}", self.sequence);
        let subnet = subnets()[self.rng.random_range(0..4)];
        let request = Request::Allocate {
            container: container.clone(),
            subnet,
        };
        self.ask(at, container, request);
    }

    fn release(&mut self, at: usize) {
        let containers = &self.peers[at].containers;
        let nth = self.rng.random_range(0..containers.len().max(1));
        let Some((container, address)) = containers.iter().nth(nth) else {
            return;
        };
        let (container, address) = (container.clone(), *address);
        self.peers[at].containers.remove(&container);
        if let Some(holders) = self.holders.get_mut(&address) {
            holders.retain(|(peer, _, other)| (*peer, other) != (at, &container));
        }
        let request = Request::Release {
            container,
            address: None,
        };
        self.ask(at, String::new(), request);
    }

    fn disturb(&mut self) {
        let peer = self.rng.random_range(0..self.peers.len());
        let up = self.peers[peer].core.is_some();
        match self.rng.random_range(0..100) {
            0..55 if up => self.allocate(peer),
            55..70 if up => self.release(peer),
            70..74 if up => {
                let address = [10, 32, 0, self.rng.random_range(1..31)];
                self.sequence += 1;
                let container = format!("x{}", self.sequence);
                self.claim(peer, container, IpAddr::from(address), false);
            }
            74..78 if up => self.crash(peer),
            78..79 if self.live().len() * 2 > self.peers.len() + 1 && up => self.kill(peer),
            79..82 if up => self.remove_dead(peer),
            82..90 if !up && !self.peers[peer].dead => self.start(peer),
            90..96 => {
                let groups = self.rng.random_range(1..=3);
                for at in 0..self.peers.len() {
                    self.peers[at].group = self.rng.random_range(0..groups);
                }
                self.reconnect();
            }
            96..100 => {
                self.peers.iter_mut().for_each(|peer| peer.group = 0);
                self.reconnect();
            }
            _ => {}
        }
        if self.peers[peer].core.is_some() {
            self.pump(peer);
        }
    }

    fn remove_dead(&mut self, at: usize) {
        for dead in 0..self.peers.len() {
            if self.peers[dead].dead {
                let request = Request::RemovePeer(self.peers[dead].id);
                self.ask(at, String::new(), request);
            }
        }
    }

    /// Lets time pass until nothing is due before its end.
    fn run(&mut self, span: Duration) {
        let end = self.time + span;
        loop {
            let delivery = self.queue.keys().next().copied();
            let mut due: Option<(Duration, usize)> = None;
            for at in self.live() {
                let core = self.peers[at].core.as_ref().unwrap();
                if let Some((wake, _)) = core.poll_timeout() {
                    let peer = &self.peers[at];
                    let clock = wake.duration_since(self.base).saturating_sub(peer.offset);
                    let time = clock * 100 / peer.percent + MILLISECOND;
                    if due.is_none_or(|(other, _)| time < other) {
                        due = Some((time, at));
                    }
                }
            }
            let first = delivery.map_or(Duration::MAX, |(time, _)| time);
            match due {
                Some((time, at)) if time < first && time <= end => {
                    self.time = self.time.max(time);
                    let now = self.now(at);
                    self.core(at).handle_timeout(now);
                    self.pump(at);
                }
                _ if first <= end => {
                    self.time = self.time.max(first);
                    let (_, (to, delivery)) = self.queue.pop_first().unwrap();
                    self.deliver(to, delivery);
                }
                _ => break,
            }
        }
        self.time = end;
    }

    /// After all is well again, whoever lives can allocate wherever there is something left.
    fn heal_and_check(&mut self) {
        self.hostile = false;
        for at in 0..self.peers.len() {
            self.peers[at].group = 0;
            if !self.peers[at].dead && self.peers[at].core.is_none() {
                self.start(at);
            }
        }
        self.reconnect();
        self.run(Duration::from_secs(30));
        let live = self.live();
        for &at in &live {
            self.remove_dead(at);
            self.pump(at);
        }
        self.run(Duration::from_secs(60));
        let born = |at: &usize| self.peers[*at].durable.born.is_some();
        if !live.iter().all(born) {
            assert!(
                live.len() * 2 <= self.peers.len() || !live.iter().any(born),
                "seed {}: some know the ring, some do not",
                self.seed
            );
            assert!(
                live.len() * 2 <= self.peers.len(),
                "seed {}: no ring",
                self.seed
            );
            return;
        }
        for &at in &live {
            let state = &self.peers[at].durable;
            assert_eq!(state.agreed, None, "seed {}: host{at} is stuck", self.seed);
            assert_eq!(state.gifts, [], "seed {}: host{at} still gives", self.seed);
        }
        // A dead host may have died before anybody wrote down that it was one of them.
        let known = |dead: &Peer| {
            let (peer, incarnation) = (dead.id, dead.durable.incarnation);
            let life = Life { peer, incarnation };
            live.iter()
                .any(|at| self.peers[*at].durable.removed.contains(&life))
        };
        if self.peers.iter().filter(|peer| peer.dead).all(known) {
            let owned = live.iter().map(|at| &self.peers[*at].durable);
            let owned = owned.map(|state| state.owned(&range()).len());
            self.lost = 32 - owned.sum::<u128>();
        }
        // Founders who died before they told anybody that they were: without most of the slots
        // the others must take themselves for cut off.
        let born = live
            .iter()
            .filter_map(|at| self.peers[*at].durable.born.as_ref());
        let heard: BTreeSet<u16> = born.clone().flat_map(|born| born.slots.clone()).collect();
        let dead = self.peers.iter().any(|peer| peer.dead);
        let total = born.map(|born| usize::from(born.total)).max();
        if dead && heard.len() * 2 <= total.unwrap_or_default() {
            return;
        }
        // Every host empties one of its containers' places, so that something is left.
        for &at in &live {
            self.release(at);
            self.release(at);
            self.pump(at);
        }
        let (held, size) = (self.holders.values().filter(|h| !h.is_empty()).count(), 30);
        if held + live.len() > size / 2 {
            return;
        }
        let before = self.granted;
        for &at in &live {
            self.sequence += 1;
            let container = format!("last{}", self.sequence);
            let request = Request::Allocate {
                container: container.clone(),
                subnet: None,
            };
            self.ask(at, container, request);
            self.pump(at);
        }
        self.run(Duration::from_secs(5));
        assert_eq!(
            self.granted - before,
            live.len() as u32,
            "seed {}: somebody gets no address of a ring that has some: {:?}",
            self.seed,
            self.refusals
        );
    }
}

fn schedule(seed: u64) -> World {
    let mut world = World::new(seed);
    let calm = world.rng.random_range(0..3) > 0;
    if calm {
        world.hostile = false;
        world.run(Duration::from_secs(4));
        world.hostile = true;
    }
    for _ in 0..world.rng.random_range(20..120) {
        world.disturb();
        let most = if world.chance(20) { 40_000 } else { 300 };
        let pause = MILLISECOND * world.rng.random_range(1..most);
        world.run(pause);
    }
    world.heal_and_check();
    world
}

#[test]
fn no_schedule_gives_an_address_to_two() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    if let Some(seed) = number("IPAM_SIM_SEED") {
        schedule(seed);
        return;
    }
    let (mut granted, mut refused, mut losses) = (0u64, 0u64, 0u64);
    let schedules = number("IPAM_SIM_SCHEDULES").unwrap_or(10_000);
    for seed in 0..schedules {
        let result = std::panic::catch_unwind(|| schedule(seed));
        let Ok(world) = result else {
            panic!("run it again with IPAM_SIM_SEED={seed}");
        };
        granted += u64::from(world.granted);
        refused += u64::from(world.refused);
        losses += u64::from(world.lost > 0);
    }
    println!("{granted} addresses granted, {refused} refused; something lost in {losses}");
    assert!(granted > refused);
    // What a dead peer had got last is lost when all who heard of it crash before they write it down.
    assert!(
        losses * 500 <= schedules,
        "space is lost in {losses} schedules"
    );
}

/// Hosts that work, with addresses in use.
fn settled(seed: u64) -> World {
    let mut world = World::new(seed);
    world.hostile = false;
    for at in 0..world.peers.len() {
        if world.peers[at].core.is_none() {
            world.start(at);
        }
    }
    world.run(Duration::from_secs(5));
    for _ in 0..12 {
        let at = world.rng.random_range(0..world.peers.len());
        world.allocate(at);
        world.pump(at);
        world.run(Duration::from_millis(200));
    }
    world
}

/// The disk of a host that is down is lost, not its containers: it will ask for the addresses
/// they use.
fn lose_disk(world: &mut World, lost: usize, incarnation: u64) {
    world.peers[lost].durable = State::new(range(), incarnation);
    let none = Life {
        peer: world.peers[lost].id,
        incarnation: 0,
    };
    for (peer, life, _) in world.holders.values_mut().flatten() {
        if *peer == lost {
            *life = none;
        }
    }
}

/// Nobody remembers any records.
fn restart_all_but(world: &mut World, lost: usize) {
    for at in world.live() {
        world.crash(at);
    }
    for at in (0..world.peers.len()).filter(|at| *at != lost) {
        world.start(at);
    }
}

fn live_on(world: &mut World, seconds: usize) {
    for _ in 0..seconds {
        let at = world.rng.random_range(0..world.peers.len());
        world.allocate(at);
        world.pump(at);
        world.run(Duration::from_secs(1));
    }
}

fn assert_nothing_is_lost(world: &World, lost: usize) {
    let seed = world.seed;
    for at in world.live() {
        let held = &world.peers[at].durable.held;
        assert_eq!(*held, BTreeMap::new(), "seed {seed}: host{at} still claims");
    }
    let owned = world
        .peers
        .iter()
        .map(|peer| peer.durable.owned(&range()).len());
    assert_eq!(owned.sum::<u128>(), 32, "seed {seed}: space was lost");
    for address in world.peers[lost].containers.values() {
        let holders = &world.holders[address];
        assert_eq!(holders.len(), 1, "seed {seed}: {address} {holders:?}");
    }
}

/// It begins anew, and what it had owned is not lost to the others.
#[test]
fn a_host_that_lost_its_disk_keeps_its_containers_addresses() {
    for seed in 0..200 {
        let mut world = settled(seed);
        let lost = world.rng.random_range(0..world.peers.len());
        for _ in 0..5 {
            world.allocate(lost);
            world.pump(lost);
            world.run(Duration::from_millis(100));
        }
        world.crash(lost);
        // The others have a while to write down what it had, or none.
        if seed % 3 < 2 {
            world.run(Duration::from_secs(2));
        }
        lose_disk(&mut world, lost, 1_000_000);
        if seed % 3 > 0 {
            restart_all_but(&mut world, lost);
        }
        world.start(lost);
        live_on(&mut world, 60);
        assert_nothing_is_lost(&world, lost);
    }
}

/// As soon as all others know what it has, they may be restarted.
#[test]
fn what_was_taken_over_is_not_lost_with_the_takers_disk() {
    for seed in 0..100 {
        let mut world = settled(seed);
        let dead = world.rng.random_range(0..world.peers.len());
        world.crash(dead);
        lose_disk(&mut world, dead, 1_000_000);
        world.start(dead);
        let taker = |world: &World| {
            let takes = |at: &usize| !world.peers[*at].durable.announced.is_empty();
            let taker = world.live().into_iter().find(takes)?;
            let life = world.peers[taker].durable.announced.first()?;
            let known = |peer: &Peer| peer.durable.removed.contains(life);
            world.peers.iter().all(known).then_some(taker)
        };
        let mut waits = 0..10_000;
        let lost = loop {
            if let Some(taker) = taker(&world) {
                break taker;
            }
            assert!(waits.next().is_some(), "seed {seed}: nobody took over");
            world.run(MILLISECOND);
        };
        world.crash(lost);
        lose_disk(&mut world, lost, 2_000_000);
        restart_all_but(&mut world, lost);
        world.start(lost);
        live_on(&mut world, 60);
        assert_nothing_is_lost(&world, lost);
    }
}

#[test]
fn a_thousand_peers_converge_within_bounds() {
    let ring = ipam_ring::converge(1000, 100);
    println!("{ring}");
    assert!(ring.within_bounds(), "{ring}");
}
