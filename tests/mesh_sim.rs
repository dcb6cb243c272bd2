//! Whole meshes in virtual time: every run follows from one seed, which is printed on failure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weave_net::mesh::core::{Action, ConnId, Core, CoreConfig, DialError, Session, Target};
use weave_net::mesh::message::{MAX_MESSAGE, Message};
use weave_net::mesh::{Key, Kind, MeshEvent};
use weave_net::types::PeerId;

const PORT: u16 = 6783;
/// Length and tag of an encrypted message, and its share of TCP's and IP's headers.
const FRAMING: usize = 2 + 16 + 52;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

struct Node {
    core: Core,
    key: [u8; 32],
    id: PeerId,
    instance: u64,
    epoch: u64,
    alive: bool,
    /// Counts lives, so that what was meant for an earlier one is dropped.
    life: u64,
    group: u32,
    wake: Option<Instant>,
    reachable: BTreeSet<PeerId>,
    view: BTreeMap<(PeerId, Key), Bytes>,
    truth: BTreeMap<Key, Bytes>,
    pipes: BTreeMap<ConnId, (usize, usize)>,
    received: usize,
    entries: BTreeMap<(PeerId, Key, u64, u64), u32>,
    messages: Vec<(PeerId, Bytes)>,
    forgotten: BTreeSet<PeerId>,
    cloned: bool,
    flaps: usize,
}

/// One connection: its two ends, and what is held up in each direction.
struct Pipe {
    ends: [(usize, u64, ConnId); 2],
    open: [bool; 2],
    ready: [Instant; 2],
    held: [VecDeque<Parcel>; 2],
}

enum Parcel {
    Message(Message),
    Close,
}

enum Event {
    Session(usize, usize),
    Failed(usize, u64, ConnId, SocketAddr),
    Parcel(usize, usize, Parcel),
}

struct Sim {
    seed: u64,
    rng: ChaCha8Rng,
    now: Instant,
    nodes: Vec<Node>,
    pipes: Vec<Pipe>,
    queue: BTreeMap<(Instant, u64), Event>,
    wakes: BTreeSet<(Instant, usize)>,
    sequence: u64,
    latency: (u64, u64),
    loss: f64,
    cut: BTreeSet<(usize, usize)>,
    count_entries: bool,
}

#[derive(Clone)]
struct Setup {
    discovery: bool,
    conn_limit: usize,
    forget_after: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            discovery: true,
            conn_limit: 200,
            forget_after: Duration::from_secs(24 * 3600),
        }
    }
}

impl Sim {
    fn new(seed: u64, count: usize, setup: &Setup) -> Self {
        let now = Instant::now();
        let mut sim = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now,
            nodes: Vec::new(),
            pipes: Vec::new(),
            queue: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sequence: 0,
            latency: (1, 20),
            loss: 0.0,
            cut: BTreeSet::new(),
            count_entries: false,
        };
        for _ in 0..count {
            sim.add(setup, None);
        }
        sim
    }

    fn add(&mut self, setup: &Setup, key: Option<[u8; 32]>) -> usize {
        let index = self.nodes.len();
        let key = key.unwrap_or_else(|| self.rng.random());
        let instance = self.rng.random();
        let id = PeerId::of_public_key(&key);
        let core = self.core(index, id, key, 1, instance, setup);
        self.nodes.push(Node {
            core,
            key,
            id,
            instance,
            epoch: 1,
            alive: true,
            life: 0,
            group: 0,
            wake: None,
            reachable: BTreeSet::new(),
            view: BTreeMap::new(),
            truth: BTreeMap::new(),
            pipes: BTreeMap::new(),
            received: 0,
            entries: BTreeMap::new(),
            messages: Vec::new(),
            forgotten: BTreeSet::new(),
            cloned: false,
            flaps: 0,
        });
        self.drain(index);
        index
    }

    fn core(
        &mut self,
        index: usize,
        id: PeerId,
        public_key: [u8; 32],
        epoch: u64,
        instance: u64,
        setup: &Setup,
    ) -> Core {
        let config = CoreConfig {
            id,
            public_key,
            epoch,
            instance,
            nickname: format!("host-{index}"),
            version: "3.0.0".to_owned(),
            addresses: vec![address(index)],
            discovery: setup.discovery,
            conn_limit: setup.conn_limit,
            forget_after: setup.forget_after,
            known: Vec::new(),
        };
        let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        Core::new(config, rng, self.now)
    }

    fn target(&mut self, index: usize, targets: &[usize]) {
        let targets = targets.iter().map(|target| Target {
            text: address(*target).to_string(),
            addresses: Ok(vec![address(*target)]),
        });
        let now = self.now;
        self.nodes[index]
            .core
            .handle_targets("settings", targets.collect(), now);
        self.drain(index);
    }

    fn publish(&mut self, index: usize, name: u16, value: Option<u64>) {
        let key = Key::new(Kind::NAME, name.to_be_bytes().to_vec());
        let value = value.map(|value| Bytes::from(value.to_be_bytes().repeat(6)));
        let now = self.now;
        let node = &mut self.nodes[index];
        match &value {
            Some(value) => node.truth.insert(key.clone(), value.clone()),
            None => node.truth.remove(&key),
        };
        node.core.publish(key, value, now).unwrap();
        self.drain(index);
    }

    fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        let pipes = std::mem::take(&mut self.nodes[index].pipes);
        for (pipe, side) in pipes.into_values() {
            self.close(pipe, side);
        }
    }

    fn restart(&mut self, index: usize, setup: &Setup, lose_database: bool) {
        if self.nodes[index].alive {
            self.kill(index);
        }
        let instance = self.rng.random();
        let (id, key) = (self.nodes[index].id, self.nodes[index].key);
        let epoch = match lose_database {
            true => 1,
            false => self.nodes[index].epoch + 1,
        };
        let core = self.core(index, id, key, epoch, instance, setup);
        let node = &mut self.nodes[index];
        node.core = core;
        node.epoch = epoch;
        node.instance = instance;
        node.alive = true;
        node.life += 1;
        node.reachable.clear();
        node.view.clear();
        let now = self.now;
        for (key, value) in node.truth.clone() {
            node.core.publish(key, Some(value), now).unwrap();
        }
        self.drain(index);
    }

    fn is_cut(&self, one: usize, two: usize) -> bool {
        self.nodes[one].group != self.nodes[two].group
            || self.cut.contains(&(one.min(two), one.max(two)))
    }

    /// Puts the nodes into groups that do not hear each other; lets go what was held up.
    fn partition(&mut self, groups: impl Fn(usize) -> u32) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.group = groups(index);
        }
        for pipe in 0..self.pipes.len() {
            let [one, two] = self.pipes[pipe].ends;
            if self.is_cut(one.0, two.0) {
                continue;
            }
            for side in 0..2 {
                for parcel in std::mem::take(&mut self.pipes[pipe].held[side]) {
                    self.carry(pipe, side, parcel);
                }
            }
        }
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.latency;
        let mut delay = Duration::from_micros(self.rng.random_range(least * 1000..most * 1000));
        while self.loss > 0.0 && self.rng.random_bool(self.loss) {
            delay += ms(200);
        }
        delay
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    /// Sends from one side of a pipe to the other, in order.
    fn carry(&mut self, pipe: usize, side: usize, parcel: Parcel) {
        let [one, two] = self.pipes[pipe].ends;
        if self.is_cut(one.0, two.0) || !self.pipes[pipe].held[side].is_empty() {
            self.pipes[pipe].held[side].push_back(parcel);
            return;
        }
        let delay = self.delay();
        let ready = &mut self.pipes[pipe].ready[1 - side];
        *ready = (*ready).max(self.now + delay) + Duration::from_nanos(1);
        let at = *ready;
        self.at(at, Event::Parcel(pipe, 1 - side, parcel));
    }

    fn close(&mut self, pipe: usize, side: usize) {
        if std::mem::replace(&mut self.pipes[pipe].open[side], false) {
            self.carry(pipe, side, Parcel::Close);
        }
    }

    fn dial(&mut self, index: usize, conn: ConnId, to: SocketAddr) {
        let target = (0..self.nodes.len())
            .find(|other| address(*other) == to)
            .unwrap();
        let life = self.nodes[index].life;
        if self.is_cut(index, target) {
            let at = self.now + ms(3000);
            self.at(at, Event::Failed(index, life, conn, to));
            return;
        }
        let round_trip = self.delay() * 2;
        if !self.nodes[target].alive {
            let at = self.now + round_trip;
            self.at(at, Event::Failed(index, life, conn, to));
            return;
        }
        let accepted = self.nodes[target].core.accept();
        let ends = [
            (index, life, conn),
            (target, self.nodes[target].life, accepted),
        ];
        let ready = [self.now + round_trip * 3, self.now + round_trip * 7 / 2];
        let pipe = self.pipes.len();
        self.pipes.push(Pipe {
            ends,
            open: [true; 2],
            ready,
            held: Default::default(),
        });
        self.nodes[index].pipes.insert(conn, (pipe, 0));
        self.nodes[target].pipes.insert(accepted, (pipe, 1));
        for (side, at) in ready.into_iter().enumerate() {
            self.at(at, Event::Session(pipe, side));
        }
    }

    fn drain(&mut self, index: usize) {
        let now = self.now;
        while let Some(action) = self.nodes[index].core.poll_action(now) {
            self.act(index, action);
        }
        let wake = self.nodes[index].core.poll_timeout().map(|(at, _)| at);
        let before = std::mem::replace(&mut self.nodes[index].wake, wake);
        if let Some(before) = before {
            self.wakes.remove(&(before, index));
        }
        if let Some(wake) = wake {
            self.wakes.insert((wake, index));
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Dial { conn, address } => self.dial(index, conn, address),
            Action::Send { conn, message } => {
                if let Some((pipe, side)) = self.nodes[index].pipes.get(&conn).copied() {
                    self.carry(pipe, side, Parcel::Message(message));
                }
            }
            Action::Close { conn, .. } => {
                if let Some((pipe, side)) = self.nodes[index].pipes.remove(&conn) {
                    self.close(pipe, side);
                }
            }
            Action::Event(event) => self.note(index, event),
            Action::Persist { epoch, .. } => {
                let node = &mut self.nodes[index];
                node.epoch = node.epoch.max(epoch);
            }
            Action::Cloned { .. } => self.nodes[index].cloned = true,
        }
    }

    fn note(&mut self, index: usize, event: MeshEvent) {
        let node = &mut self.nodes[index];
        match event {
            MeshEvent::Record { owner, key, value } => {
                if key.kind != Kind::NAME {
                    return;
                }
                match value {
                    Some(value) => {
                        let before = node.view.insert((owner, key), value.clone());
                        assert_ne!(before, Some(value), "an event that says nothing new");
                    }
                    None => {
                        let before = node.view.remove(&(owner, key));
                        assert!(before.is_some(), "an unknown record is gone");
                    }
                }
            }
            MeshEvent::Reachable { peer, .. } => {
                node.reachable.insert(peer);
            }
            MeshEvent::Unreachable { peer } => {
                assert!(node.reachable.remove(&peer));
                node.flaps += 1;
            }
            MeshEvent::Forgotten { peer } => {
                assert!(node.view.keys().all(|(owner, _)| *owner != peer));
                node.forgotten.insert(peer);
            }
            MeshEvent::Message { from, payload, .. } => node.messages.push((from, payload)),
        }
    }

    fn step(&mut self, until: Instant) -> bool {
        let event_at = self.queue.first_key_value().map(|((at, _), _)| *at);
        let wake_at = self.wakes.first().map(|(at, _)| *at);
        let Some(at) = event_at
            .into_iter()
            .chain(wake_at)
            .min()
            .filter(|at| *at <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(at);
        if event_at == Some(at) {
            if let Some((_, event)) = self.queue.pop_first() {
                self.handle(event);
            }
        } else if let Some((_, index)) = self.wakes.pop_first() {
            self.nodes[index].wake = None;
            if self.nodes[index].alive {
                let now = self.now;
                self.nodes[index].core.handle_timeout(now);
                self.drain(index);
            }
        }
        true
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Failed(index, life, conn, to) => {
                let node = &mut self.nodes[index];
                if node.alive && node.life == life {
                    let error = DialError::Unreachable("no answer".to_owned());
                    node.core.handle_dial_failed(conn, to, error, now);
                    self.drain(index);
                }
            }
            Event::Session(pipe, side) => {
                let (index, life, conn) = self.pipes[pipe].ends[side];
                let (other, _, _) = self.pipes[pipe].ends[1 - side];
                if !self.pipes[pipe].open[side] || self.nodes[index].life != life {
                    return;
                }
                let peer = &self.nodes[other];
                let session = Session {
                    peer: peer.id,
                    nickname: String::new(),
                    public_key: peer.key,
                    instance: peer.instance,
                    remote: SocketAddr::new(
                        address(other).ip(),
                        if side == 0 { PORT } else { 40000 },
                    ),
                    local: address(index),
                    listen_port: PORT,
                    features: 0,
                };
                self.nodes[index].core.handle_session(conn, session, now);
                self.drain(index);
            }
            Event::Parcel(pipe, side, parcel) => self.receive(pipe, side, parcel),
        }
    }

    fn receive(&mut self, pipe: usize, side: usize, parcel: Parcel) {
        let now = self.now;
        let (index, life, conn) = self.pipes[pipe].ends[side];
        let node = &mut self.nodes[index];
        if !self.pipes[pipe].open[side] || node.life != life || !node.alive {
            return;
        }
        match parcel {
            Parcel::Message(message) => {
                let bytes = message.encode();
                assert!(bytes.len() <= MAX_MESSAGE, "{} bytes", bytes.len());
                node.received += bytes.len() + FRAMING;
                if self.count_entries
                    && let Message::Delta(delta) = &message
                {
                    for entry in &delta.entries {
                        let name = (delta.owner, entry.key.clone(), delta.epoch, entry.version);
                        *node.entries.entry(name).or_default() += 1;
                    }
                }
                node.core.handle_message(conn, message, now);
            }
            Parcel::Close => {
                self.pipes[pipe].open[side] = false;
                node.pipes.remove(&conn);
                node.core.handle_closed(conn, "connection reset", now);
            }
        }
        self.drain(index);
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until `done`, and says how long that took; fails after `limit`.
    fn run_until(&mut self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let pace = ms(20.max(self.nodes.len() as u64));
        while !done(self) {
            let late = self.now - start;
            assert!(
                late < limit,
                "seed {}: {what} took more than {limit:?}: {}",
                self.seed,
                self.why()
            );
            self.run(pace);
        }
        self.now - start
    }

    fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.alive)
    }

    /// Whether all that live reach exactly those of their group and agree with the owners.
    fn converged(&self) -> bool {
        self.why().is_empty()
    }

    fn why(&self) -> String {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            let group = self.alive().filter(|other| other.group == node.group);
            let group: BTreeSet<_> = group
                .map(|other| other.id)
                .filter(|id| *id != node.id)
                .collect();
            if node.reachable != group {
                return format!(
                    "{index} reaches {} of {}",
                    node.reachable.len(),
                    group.len()
                );
            }
            for other in self
                .alive()
                .filter(|o| o.group == node.group && o.id != node.id)
            {
                let low = (other.id, Key::new(Kind(0), Bytes::new()));
                let known = node
                    .view
                    .range(low..)
                    .take_while(|((id, _), _)| *id == other.id);
                let known = known.map(|((_, key), value)| (key, value));
                if !known.eq(other.truth.iter()) {
                    return format!("{index} knows other records of {:?} than it has", other.id);
                }
            }
        }
        String::new()
    }

    fn direct_links(&self) -> usize {
        let status = |node: &Node| node.core.status(self.now).connections;
        let all = self.alive().flat_map(status);
        all.filter(|connection| connection.state == "established")
            .count()
    }

    fn received(&self) -> usize {
        self.nodes.iter().map(|node| node.received).sum::<usize>() / self.nodes.len()
    }
}

fn address(index: usize) -> SocketAddr {
    let [.., a, b] = (index as u32 + 1).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, a, b)), PORT)
}

/// Each is told of one that was there before.
fn seed_one_each(sim: &mut Sim) {
    for index in 1..sim.nodes.len() {
        let target = sim.rng.random_range(0..index);
        sim.target(index, &[target]);
    }
}

fn full_mesh(seed: u64, count: usize) -> Sim {
    let mut sim = Sim::new(seed, count, &Setup::default());
    seed_one_each(&mut sim);
    sim.run_until("connecting all with all", ms(3000), |sim| {
        sim.converged() && sim.direct_links() == count * (count - 1)
    });
    sim
}

#[test]
fn twenty_peers_told_of_one_other_are_all_connected_within_three_seconds() {
    for seed in 0..20 {
        let sim = full_mesh(seed, 20);
        let flaps: usize = sim.nodes.iter().map(|node| node.flaps).sum();
        assert_eq!(
            flaps, 0,
            "seed {seed}: peers went out of reach while connecting"
        );
    }
}

#[test]
fn a_change_arrives_once_at_each_peer_of_a_full_mesh() {
    let mut sim = full_mesh(1, 20);
    sim.run(ms(2000));
    sim.count_entries = true;
    for index in 0..20 {
        sim.publish(index, 7, Some(7));
    }
    sim.run(ms(5000));
    assert!(sim.converged());
    for node in &sim.nodes {
        assert_eq!(node.entries.len(), 19);
        assert!(node.entries.values().all(|times| *times == 1));
    }
}

#[test]
fn a_killed_peer_is_gone_everywhere_within_a_second() {
    for seed in 0..10 {
        let mut sim = full_mesh(seed, 20);
        sim.run(ms(1000));
        sim.kill(3);
        sim.run_until("noticing a killed peer", ms(1000), Sim::converged);
    }
}

#[test]
fn a_peer_whose_link_is_cut_is_gone_everywhere_within_five_seconds() {
    for seed in 0..10 {
        let mut sim = full_mesh(seed, 20);
        sim.run(ms(1000 + 100 * seed));
        sim.partition(|index| u32::from(index == 3));
        sim.run_until("noticing a cut link", ms(5000), Sim::converged);
        sim.run(ms(60_000));
        sim.partition(|_| 0);
        sim.run_until("joining again", ms(45_000), Sim::converged);
    }
}

fn chain(count: usize) -> Sim {
    let setup = Setup {
        discovery: false,
        ..Setup::default()
    };
    let mut sim = Sim::new(5, count, &setup);
    for index in 1..count {
        sim.target(index, &[index - 1]);
    }
    sim.run_until("connecting a chain", ms(10_000), Sim::converged);
    sim
}

#[test]
fn records_and_messages_travel_along_a_chain() {
    let mut sim = chain(12);
    assert_eq!(sim.direct_links(), 22);
    sim.publish(0, 1, Some(1));
    let took = sim.run_until("news along a chain", ms(3000), Sim::converged);
    assert!(took <= ms(500), "{took:?}");

    let (now, last, first) = (sim.now, sim.nodes[11].id, sim.nodes[0].id);
    let payload = Bytes::from_static(b"hello");
    sim.nodes[0]
        .core
        .send(last, Kind::TUNNEL, payload.clone(), now)
        .unwrap();
    sim.drain(0);
    sim.run(ms(500));
    assert_eq!(sim.nodes[11].messages, [(first, payload)]);

    sim.kill(5);
    sim.nodes.iter_mut().skip(6).for_each(|node| node.group = 1);
    sim.run_until("noticing a broken chain", ms(2000), Sim::converged);
    let now = sim.now;
    assert!(
        sim.nodes[0]
            .core
            .send(last, Kind::TUNNEL, Bytes::new(), now)
            .is_err()
    );
}

#[test]
fn a_restarted_peer_is_back_at_once_and_its_records_stay() {
    for lose_database in [false, true] {
        let setup = Setup::default();
        let mut sim = full_mesh(2, 8);
        for name in 0..50 {
            sim.publish(3, name, Some(1));
        }
        sim.run_until("spreading records", ms(1000), Sim::converged);
        sim.run(ms(10_000));
        sim.kill(3);
        sim.run(ms(2000));
        let id = sim.nodes[3].id;
        assert!(sim.nodes[0].view.keys().any(|(owner, _)| *owner == id));
        sim.restart(3, &setup, lose_database);
        sim.publish(3, 7, None);
        sim.target(3, &[0]);
        sim.run_until("a restart", ms(30_000), Sim::converged);
        assert!(sim.nodes.iter().all(|node| !node.cloned));
    }
}

#[test]
fn a_forgotten_peer_is_gone_from_all_and_welcome_again() {
    let setup = Setup::default();
    let mut sim = full_mesh(3, 10);
    sim.publish(4, 1, Some(1));
    sim.run(ms(2000));
    sim.kill(4);
    sim.run(ms(2000));
    let (now, id) = (sim.now, sim.nodes[4].id);
    sim.nodes[0].core.forget(id, now);
    sim.drain(0);
    sim.run(ms(2000));
    for node in sim.alive() {
        assert!(node.forgotten.contains(&id));
        assert!(node.core.records().all(|(owner, _, _)| owner != id));
    }
    sim.restart(4, &setup, true);
    sim.target(4, &[1]);
    sim.run_until("coming back", ms(5000), Sim::converged);
}

#[test]
fn a_peer_out_of_reach_for_long_is_forgotten() {
    let setup = Setup {
        forget_after: Duration::from_secs(60),
        ..Setup::default()
    };
    let mut sim = Sim::new(4, 5, &setup);
    seed_one_each(&mut sim);
    sim.run(ms(5000));
    sim.kill(2);
    let id = sim.nodes[2].id;
    sim.run(Duration::from_secs(50));
    assert!(sim.alive().all(|node| node.forgotten.is_empty()));
    sim.run(Duration::from_secs(20));
    assert!(sim.alive().all(|node| node.forgotten.contains(&id)));
}

#[test]
fn of_two_machines_with_one_key_exactly_one_gives_it_up() {
    for seed in 0..20 {
        let setup = Setup::default();
        let mut sim = Sim::new(seed, 5, &setup);
        seed_one_each(&mut sim);
        sim.run(ms(5000));
        let key = sim.nodes[1].key;
        let clone = sim.add(&setup, Some(key));
        sim.target(clone, &[(seed % 5) as usize]);
        let given_up = |sim: &Sim| sim.nodes[1].cloned || sim.nodes[clone].cloned;
        sim.run_until("telling twins apart", ms(10_000), given_up);
        let loser = if sim.nodes[1].cloned { 1 } else { clone };
        let keeper = if loser == 1 { clone } else { 1 };
        let key = sim.rng.random();
        sim.nodes[loser].key = key;
        sim.nodes[loser].id = PeerId::of_public_key(&key);
        sim.restart(loser, &setup, true);
        sim.nodes[loser].cloned = false;
        sim.target(loser, &[0]);
        sim.run_until("life after the twin", ms(60_000), Sim::converged);
        assert!(!sim.nodes[loser].cloned, "seed {seed}");
        assert!(!sim.nodes[keeper].cloned, "seed {seed}");
    }
}

#[test]
fn the_connection_limit_holds_and_newcomers_find_a_place() {
    let setup = Setup {
        conn_limit: 6,
        ..Setup::default()
    };
    let mut sim = Sim::new(6, 40, &setup);
    seed_one_each(&mut sim);
    sim.run_until(
        "connecting with few connections",
        ms(20_000),
        Sim::converged,
    );
    let late = sim.add(&setup, None);
    sim.target(late, &[0]);
    sim.run_until("a newcomer", ms(20_000), Sim::converged);
    sim.run(ms(30_000));
    assert!(sim.converged(), "{}", sim.why());
    for node in &sim.nodes {
        let connections = node.core.status(sim.now).connections;
        let established = connections.iter().filter(|c| c.state == "established");
        assert!(established.count() <= 6);
    }
}

/// Partitions, restarts, losses and changes in any order; then all must agree.
fn churn(seed: u64, count: usize, setup: &Setup, rounds: usize) -> (Sim, Duration) {
    let mut sim = Sim::new(seed, count, setup);
    sim.loss = 0.01;
    seed_one_each(&mut sim);
    let told: Vec<_> = (0..count)
        .map(|index| sim.rng.random_range(0..index.max(1)))
        .collect();
    sim.run(ms(5000));
    for round in 0..rounds {
        let index = sim.rng.random_range(0..count);
        match sim.rng.random_range(0..6) {
            0 => {
                let parts = sim.rng.random_range(2..4);
                let groups: Vec<u32> = (0..count).map(|_| sim.rng.random_range(0..parts)).collect();
                sim.partition(|index| groups[index]);
            }
            1 => sim.partition(|_| 0),
            2 => sim.kill(index),
            3 => {
                let lose_database = sim.rng.random_bool(0.3);
                sim.restart(index, setup, lose_database);
                sim.target(index, &[told[index]]);
            }
            _ => {
                for name in 0..10 {
                    let index = sim.rng.random_range(0..count);
                    let value = sim.rng.random_bool(0.7).then_some(round as u64);
                    if sim.nodes[index].alive {
                        sim.publish(index, name, value);
                    }
                }
            }
        }
        let pause = sim.rng.random_range(0..8000);
        sim.run(ms(pause));
    }
    sim.partition(|_| 0);
    for (index, target) in told.iter().enumerate() {
        if !sim.nodes[index].alive {
            sim.restart(index, setup, false);
            sim.target(index, &[*target]);
        }
    }
    let took = sim.run_until("agreeing after churn", ms(120_000), Sim::converged);
    assert!(
        sim.nodes.iter().all(|node| !node.cloned),
        "seed {seed}: a restart was taken for a twin"
    );
    (sim, took)
}

#[test]
fn any_schedule_of_failures_ends_in_one_view() {
    for seed in 0..60 {
        churn(seed, 8, &Setup::default(), 25);
    }
}

#[test]
fn any_schedule_of_failures_ends_in_one_view_with_few_connections() {
    let setup = Setup {
        conn_limit: 5,
        ..Setup::default()
    };
    for seed in 100..120 {
        churn(seed, 16, &setup, 20);
    }
}

#[test]
fn two_hundred_peers_agree_with_bounded_traffic() {
    let setup = Setup {
        conn_limit: 10,
        ..Setup::default()
    };
    let mut sim = Sim::new(7, 200, &setup);
    seed_one_each(&mut sim);
    let joined = sim.run_until("joining", ms(30_000), Sim::converged);
    sim.run(ms(20_000));
    let join = sim.received();
    println!("200 peers, 10 connections each: joined in {joined:?}, {join} bytes per peer");
    sim.run(ms(20_000));
    let idle = (sim.received() - join) / 20;
    println!("idle: {idle} bytes per peer and second");
    assert!(join < 2_000_000 && idle < 10_000);
}

#[test]
fn two_hundred_peers_agree_after_failures() {
    let setup = Setup {
        conn_limit: 8,
        ..Setup::default()
    };
    let (sim, agreed) = churn(8, 200, &setup, 8);
    let bytes = sim.received();
    println!("200 peers after failures: agreed in {agreed:?}, {bytes} bytes per peer in all");
    assert!(agreed < ms(60_000) && bytes < 20_000_000);
}
