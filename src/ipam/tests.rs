//! Allocators side by side, with a clock that the test moves and a mesh that carries what it says.

use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::allocator::{Action, Core};
use super::birth::{Ballot, Ballots};
use super::ring::Life;
use super::state::State;
use super::*;

const STEP: Duration = Duration::from_millis(10);

/// One allocator, and what it was told to do beside writing to the disk.
struct Peer {
    core: Core,
    told: Vec<Action>,
}

impl Peer {
    fn start(n: u8, init: Init, now: Instant) -> Self {
        Self::with(State::new(range(), 1), n, init, now)
    }

    fn with(state: State, n: u8, init: Init, now: Instant) -> Self {
        let config = Config {
            init,
            ..Config::new(id(n), format!("host{n}"), range())
        };
        let rng = ChaCha8Rng::seed_from_u64(u64::from(n));
        let core = Core::new(config, state, Duration::ZERO, rng, now);
        Self {
            core,
            told: Vec::new(),
        }
    }

    fn allocate(&mut self, request: u64, now: Instant) {
        let container = format!("c{request}");
        let subnet = None;
        let what = Request::Allocate { container, subnet };
        self.core.handle_request(request, what, now);
        self.settle();
    }

    fn wait_until(&mut self, now: Instant) {
        self.core.handle_timeout(now);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(action) = self.core.poll_action() {
            self.told.push(action);
        }
    }

    /// Tells the other what this one has published or sent since it was last told.
    fn tell(&mut self, other: &mut Self, now: Instant) {
        let me = self.core.life().peer;
        for action in &self.told {
            match action {
                Action::Publish { key, value } => {
                    other.core.handle_record(me, key, value.as_deref(), now);
                }
                Action::Send { payload, .. } => other.core.handle_message(me, payload, now),
                Action::Persist(_) | Action::Reply { .. } => {}
            }
        }
        self.told
            .retain(|action| matches!(action, Action::Reply { .. }));
        other.settle();
    }

    fn answer(&self, wanted: u64) -> Option<&Result<Response, IpamError>> {
        self.told.iter().find_map(|action| match action {
            Action::Reply { request, result } if *request == wanted => Some(result),
            _ => None,
        })
    }
}

fn range() -> IpNet {
    "10.32.0.0/12".parse().unwrap()
}

fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 16])
}

/// A founder with all space, and an observer whose request has waited almost as long as one may wait
/// for the ring when it hears of the founder.
fn late_birth(begin: Instant) -> (Peer, Peer, Instant) {
    let mut founder = Peer::start(1, Init::Consensus { expected: 1 }, begin);
    let mut late = Peer::start(2, Init::Observer, begin);
    founder.allocate(1, begin);
    assert!(matches!(founder.answer(1), Some(Ok(_))));
    late.allocate(1, begin);
    let now = begin + Duration::from_millis(4900);
    late.wait_until(now);
    late.core.handle_reachable(id(1), now);
    founder.core.handle_reachable(id(2), now);
    founder.tell(&mut late, now);
    assert!(late.core.state().born.is_some());
    (founder, late, now)
}

#[test]
fn who_waited_for_the_ring_still_has_time_to_be_given_space() {
    let (mut founder, mut late, now) = late_birth(Instant::now());
    let later = now + Duration::from_millis(1500);
    late.wait_until(later);
    assert_eq!(late.answer(1), None);
    late.tell(&mut founder, later);
    founder.tell(&mut late, later);
    assert!(
        matches!(late.answer(1), Some(Ok(_))),
        "{:?}",
        late.answer(1)
    );
}

#[test]
fn who_waited_for_the_ring_is_told_in_time_who_gave_nothing() {
    let (_, mut late, now) = late_birth(Instant::now());
    late.wait_until(now + Duration::from_secs(2));
    let Some(Err(error)) = late.answer(1) else {
        panic!("{:?}", late.answer(1));
    };
    assert!(
        error.to_string().contains("host1 did not answer"),
        "{error}"
    );
}

/// The others still say what they promised its former life.
#[test]
fn who_lost_its_state_does_not_go_on_with_its_former_lifes_proposal() {
    let now = Instant::now();
    let former = Ballot {
        round: 5,
        proposer: *id(1).as_bytes(),
    };
    let state = State::new(range(), 1000);
    let mut peer = Peer::with(state, 1, Init::Consensus { expected: 3 }, now);
    let vote = wire::encode(&Ballots {
        incarnation: 7,
        range: range(),
        elector: true,
        expected: 3,
        wanted: false,
        promised: former,
        accepted: None,
    });
    peer.core.handle_reachable(id(2), now);
    peer.core
        .handle_record(id(2), wire::BIRTH_KEY, Some(&vote), now);
    peer.settle();
    assert_eq!(peer.core.state().promised, former);
    assert_eq!(peer.core.state().accepted, None);
    assert!(peer.core.state().born.is_none());
}

/// One of three electors has accepted something: that may not be what the majority decides.
#[test]
fn one_electors_vote_is_no_decision_for_an_observer() {
    let now = Instant::now();
    let mut observer = Peer::start(2, Init::Observer, now);
    let founder = Life {
        peer: id(1),
        incarnation: 1,
    };
    let ballot = Ballot {
        round: 1,
        proposer: *id(1).as_bytes(),
    };
    let vote = wire::encode(&Ballots {
        incarnation: 1,
        range: range(),
        elector: true,
        expected: 3,
        wanted: true,
        promised: ballot,
        accepted: Some((ballot, vec![founder])),
    });
    let key = wire::BIRTH_KEY;
    observer.core.handle_record(id(1), key, Some(&vote), now);
    observer.settle();
    assert_eq!(observer.core.state().born, None);
}

/// A founder whose fellows have not been heard of owns a part of the range, and says what it lacks.
#[test]
fn a_founder_alone_says_that_the_other_founders_are_missing() {
    let begin = Instant::now();
    let init = Init::Seed(vec!["host1".to_owned(), "host2".to_owned()]);
    let mut founder = Peer::start(1, init, begin);
    let subnet = Some("10.40.0.0/16".parse().unwrap());
    let what = Request::Allocate {
        container: "web".to_owned(),
        subnet,
    };
    founder.core.handle_request(1, what, begin);
    let mut now = begin;
    while founder.answer(1).is_none() {
        now += STEP;
        founder.wait_until(now);
        assert!(now < begin + Duration::from_secs(5), "no answer");
    }
    let Some(Err(error)) = founder.answer(1) else {
        panic!("{:?}", founder.answer(1));
    };
    let missing = "has not heard yet of the peers that own the rest";
    assert!(error.to_string().contains(missing), "{error}");
    founder.allocate(2, now);
    assert!(matches!(founder.answer(2), Some(Ok(_))));
}

/// A swarm's manager that lost its state knows from the other hosts what their tasks have, from its
/// Engine what services have, and hands out neither.
#[test]
fn a_manager_without_a_memory_hands_out_nothing_that_tasks_and_services_have() {
    let now = Instant::now();
    let subnet: IpNet = "10.40.0.0/29".parse().unwrap();
    let ip = |n: u8| IpAddr::from([10, 40, 0, n]);
    let mut worker = Peer::start(2, Init::Seed(vec!["host1".to_owned()]), now);
    let mut manager = Peer::start(1, Init::Seed(vec!["host1".to_owned()]), now);
    for peer in [&mut worker, &mut manager] {
        peer.wait_until(now + Duration::from_secs(3));
    }
    let now = now + Duration::from_secs(3);
    let on = |n| BTreeSet::from([(subnet, ip(n))]);
    for (peer, task, services) in [(&mut worker, 1, BTreeSet::new()), (&mut manager, 2, on(3))] {
        let in_use = InUse {
            global: on(task),
            services,
            ..InUse::default()
        };
        peer.core.handle_request(1, Request::Retain(in_use), now);
        peer.wait_until(now + Duration::from_secs(1));
    }
    let now = now + Duration::from_secs(1);
    worker.tell(&mut manager, now);
    let pool = PoolId(format!("weave-global-{subnet}"));
    let mut given = Vec::new();
    for request in 2..5 {
        let what = Request::Address(AddressRequest {
            pool: pool.clone(),
            address: None,
            gateway: false,
            serial: true,
            mac: None,
        });
        manager.core.handle_request(request, what, now);
        manager.settle();
        match manager.answer(request) {
            Some(Ok(Response::Address(address))) => given.push(address.addr()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(given, [4, 5, 6].map(ip));
    let release = Request::ReleaseAddress(pool, ip(3));
    manager.core.handle_request(5, release, now);
    manager.settle();
    assert_eq!(manager.core.state().holders(&(range(), 0x0a28_0003)), []);
}

/// A machine was cloned with its state: what it owned stays the original's, and what its containers
/// have is asked for.
#[test]
fn a_clone_owns_nothing_of_what_the_original_owns() {
    let now = Instant::now();
    let mut original = Peer::start(1, Init::Consensus { expected: 1 }, now);
    original.allocate(1, now);
    assert!(!original.core.state().owned(&range()).is_empty());
    let cloned = original.core.state().clone();
    let clone = Peer::with(cloned, 2, Init::Observer, now);
    let told = Request::Identity(id(2));
    original.core.handle_request(2, told, now);
    original.settle();
    for state in [clone.core.state(), original.core.state()] {
        assert_eq!(state.born, None);
        assert!(state.owned(&range()).is_empty());
        assert_eq!(state.held.len(), 1);
    }
}
