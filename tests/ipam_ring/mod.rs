//! A large ring, simulated: what it costs until all have their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use weave_net::ipam::allocator::{Action, Core};
use weave_net::ipam::state::State;
use weave_net::ipam::{Config, Init, Request, Response};
use weave_net::types::PeerId;

/// What a ring has cost.
pub struct Ring {
    peers: usize,
    addresses: usize,
    time: Duration,
    published: usize,
    stored: usize,
    memory: usize,
    largest: usize,
}

impl Ring {
    /// Less than 1 MB for each peer, and no record or message of more than 64 KB.
    pub fn within_bounds(&self) -> bool {
        self.stored < 1 << 20 && self.memory < 1 << 20 && self.largest < 64 << 10
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} peers with {} addresses each after {:?}: {} bytes published per peer, records of \
             all peers {} bytes, largest record or message {} bytes, memory per peer {} bytes",
            self.peers,
            self.addresses,
            self.time,
            self.published,
            self.stored,
            self.largest,
            self.memory
        )
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Lets so many peers, of whom nine found the ring, allocate so many addresses each from a /12.
pub fn converge(count: usize, each: usize) -> Ring {
    let range: IpNet = "10.32.0.0/12".parse().unwrap();
    let id = |n: usize| PeerId::from_bytes((n as u128 + 1).to_be_bytes());
    let before = resident_bytes();
    let base = Instant::now();
    let mut cores: Vec<Core> = (0..count)
        .map(|n| {
            let config = Config {
                init: match n < 9 {
                    true => Init::Consensus { expected: 9 },
                    false => Init::Observer,
                },
                ..Config::new(id(n), format!("host{n}"), range)
            };
            let rng = ChaCha8Rng::seed_from_u64(n as u64);
            Core::new(config, State::new(range, 1), Duration::ZERO, rng, base)
        })
        .collect();
    for (n, core) in cores.iter_mut().enumerate() {
        (0..count)
            .filter(|other| *other != n)
            .for_each(|other| core.handle_reachable(id(other), base));
    }
    let mut records: BTreeMap<(usize, Bytes), Bytes> = BTreeMap::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let (mut sent, mut largest, mut asked) = (0, 0, 0);
    let mut time = Duration::ZERO;
    while addresses.len() < count * each {
        assert!(
            time < Duration::from_secs(60),
            "{} granted",
            addresses.len()
        );
        time += Duration::from_millis(50);
        let now = base + time;
        let mut news: BTreeMap<(usize, Bytes), Bytes> = BTreeMap::new();
        let mut messages = Vec::new();
        for (n, core) in cores.iter_mut().enumerate() {
            if core.state().born.is_some() && asked < count * each {
                let first = core.state().active() == 0 && addresses.len() < count * each;
                for nth in 0..if first { each } else { 0 } {
                    asked += 1;
                    let request = Request::Allocate {
                        container: format!("c{nth}"),
                        subnet: None,
                    };
                    core.handle_request(asked as u64, request, now);
                }
            }
            if core.poll_timeout().is_some_and(|(at, _)| at <= now) {
                core.handle_timeout(now);
            }
            while let Some(action) = core.poll_action() {
                match action {
                    Action::Publish { key, value } => {
                        let value = value.unwrap();
                        sent += value.len();
                        largest = largest.max(value.len());
                        news.insert((n, key), value);
                    }
                    Action::Send { to, payload } => {
                        largest = largest.max(payload.len());
                        messages.push((n, to, payload));
                    }
                    Action::Reply {
                        result: Ok(Response::Address(address)),
                        ..
                    } => assert!(addresses.insert(address.addr()), "{address} twice"),
                    Action::Reply { result, .. } => panic!("{result:?}"),
                    Action::Persist(_) => {}
                }
            }
        }
        for ((owner, key), value) in &news {
            for (n, core) in cores.iter_mut().enumerate() {
                if n != *owner {
                    core.handle_record(id(*owner), key, Some(value), now);
                }
            }
        }
        records.extend(news);
        for (from, to, payload) in messages {
            let to = (u128::from_be_bytes(*to.as_bytes()) - 1) as usize;
            cores[to].handle_message(id(from), &payload, now);
        }
    }
    let owned: u128 = cores
        .iter()
        .map(|core| core.state().owned(&range).len())
        .sum();
    let given: u128 = cores
        .iter()
        .flat_map(|core| &core.state().gifts)
        .map(|gift| gift.range.len())
        .sum();
    assert!(owned + given >= 1 << 20, "space was lost");
    Ring {
        peers: count,
        addresses: each,
        time,
        published: sent / count,
        stored: records.values().map(Bytes::len).sum(),
        memory: resident_bytes().saturating_sub(before) / count,
        largest,
    }
}
