//! Hosts that hear each other.

use super::super::{NetworkOptions, Pool};
use super::vni::first_vni;
use super::*;
use crate::datapath::Via;

fn endpoint_spec(network: &str, id: &str, ip: &str) -> EndpointSpec {
    EndpointSpec {
        network: network.parse().unwrap(),
        endpoint: id.parse().unwrap(),
        ipv4: Some(ip.parse().unwrap()),
        ipv6: None,
        mac: None,
        wants_multicast: None,
    }
}

#[test]
fn a_vni_is_allocated_once_and_options_come_back() {
    let mut host = Host::new(1);
    let options = BTreeMap::from([("foo".to_owned(), "bar".to_owned())]);
    let id = "ob5a0kd8tmw1ml0rdmzvnxt7l".parse().unwrap();
    let first = host.core.handle_allocate(&id, options.clone()).unwrap();
    assert_eq!(first["foo"], "bar");
    assert_eq!(host.core.handle_allocate(&id, options).unwrap(), first);
    // Another manager is told what the first one answered.
    let mut other = Host::new(2);
    assert_eq!(
        other.core.handle_allocate(&id, first.clone()).unwrap(),
        first
    );
}

#[test]
fn a_malformed_vni_names_the_option() {
    let mut host = Host::new(1);
    let options = BTreeMap::from([(VNI_OPTION.to_owned(), "0".to_owned())]);
    let error = host.core.handle_allocate(&"n".parse().unwrap(), options);
    assert!(error.unwrap_err().to_string().contains(VNI_OPTION));
}

#[test]
fn endpoints_of_other_hosts_are_forwarded_to_and_flooded_to() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    one.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    let mac = two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    let forwarding = one.forwarding();
    assert_eq!(forwarding.unicast, BTreeMap::from([(mac, two.via())]));
    assert_eq!(forwarding.flood, BTreeSet::from([two.via()]));
    assert_eq!(two.forwarding().unicast.len(), 1);
}

#[test]
fn hosts_without_endpoints_are_not_flooded_to() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    two.core.handle_delete_endpoint(&"e2".parse().unwrap());
    exchange(&mut one, &mut two);
    assert_eq!(one.forwarding(), Forwarding::default());
}

#[test]
fn an_unreachable_host_keeps_its_forwarding() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    let before = one.forwarding();
    let lost = MeshEvent::Unreachable { peer: two.id };
    one.core.handle_mesh_event(lost, one.now);
    assert_eq!(one.forwarding(), before);
    assert_eq!(before.unicast.len(), 1);
}

#[test]
fn a_mac_that_two_hosts_claim_goes_to_the_later_claim() {
    let (mut one, mut two, mut three) = (Host::new(1), Host::new(2), Host::new(3));
    for host in [&mut one, &mut two, &mut three] {
        host.swarm_network(77);
    }
    two.endpoint("swarm0", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut two, &mut three);
    three.endpoint("swarm0", "e3", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut three);
    exchange(&mut one, &mut two);
    let forwarding = one.forwarding();
    assert_eq!(
        forwarding.unicast.into_values().collect::<Vec<_>>(),
        [three.via()]
    );
}

#[test]
fn an_address_in_use_elsewhere_is_refused_with_its_holder() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    let containers = BTreeMap::from([("e2".parse().unwrap(), "db".to_owned())]);
    two.core.handle_containers(&containers, |_| false, two.now);
    exchange(&mut one, &mut two);
    let error = one.endpoint("n1", "e1", "10.5.0.3/16").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("container db on host host2"), "{text}");
    assert!(text.contains("--ip-range"), "{text}");
    one.endpoint("n1", "e1", "10.5.0.4/16").unwrap();
}

#[test]
fn an_address_that_the_engine_gives_away_again_was_free() {
    let mut host = Host::new(1);
    host.network("n1", "10.5.0.0/16");
    host.endpoint("n1", "e1", "10.5.0.3/16").unwrap();
    host.join("n1", "e1", "/ns/a");
    host.actions();
    host.endpoint("n1", "e2", "10.5.0.3/16").unwrap();
    let actions = host.actions();
    assert!(actions.contains(&Action::Unplug("vpe1".to_owned())));
    assert_eq!(host.core.status().endpoints.len(), 1);
}

#[test]
fn hosts_that_chose_different_vnis_agree() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    // What the first host would choose is taken by a network of swarm's there.
    let taken = first_vni(&SegmentId::of_subnets(["10.5.0.0/16".parse().unwrap()]));
    one.swarm_network(taken.get());
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    assert_ne!(one.vni("10.5.0.0/16"), two.vni("10.5.0.0/16"));
    for _ in 0..3 {
        exchange(&mut one, &mut two);
    }
    assert_eq!(one.vni("10.5.0.0/16"), two.vni("10.5.0.0/16"));
    assert_ne!(one.vni("10.5.0.0/16"), taken);
}

#[test]
fn with_a_password_nothing_goes_in_the_clear() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.core.config.policy.encrypt = true;
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    let tunnel = Via::Tunnel(two.id);
    let forwarding = one.forwarding();
    assert_eq!(forwarding.flood, BTreeSet::from([tunnel]));
    assert_eq!(
        forwarding.unicast.into_values().collect::<Vec<_>>(),
        [tunnel]
    );
    let segment = one.segment_spec("10.5.0.0/16");
    assert!(segment.tunnel && !segment.vxlan);
    assert_eq!(segment.mtu, 1418);
    assert_eq!(one.core.status().routes[0].route.transport, "tunnel");
}

#[test]
fn the_transport_that_was_chosen_is_taken_and_outlives_the_daemon() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    assert_eq!(one.forwarding().flood, BTreeSet::from([two.via()]));
    let tunnel = Choice {
        via: Via::Tunnel(two.id),
        reason: Reason::VxlanBlocked,
    };
    one.core.handle_transport(two.id, tunnel, one.now);
    assert_eq!(one.forwarding().flood, BTreeSet::from([tunnel.via]));
    assert_eq!(
        one.restarted().forwarding().flood,
        BTreeSet::from([tunnel.via])
    );
    let back = Choice {
        via: two.via(),
        reason: Reason::Works,
    };
    one.core.handle_transport(two.id, back, one.now);
    assert_eq!(one.forwarding().flood, BTreeSet::from([two.via()]));
    assert_eq!(
        one.restarted().forwarding().flood,
        BTreeSet::from([two.via()])
    );
}

#[test]
fn peers_that_share_a_segment_are_told_and_no_others() {
    let (mut one, mut two, mut three) = (Host::new(1), Host::new(2), Host::new(3));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    three.network("n3", "10.6.0.0/16");
    exchange(&mut one, &mut two);
    exchange(&mut one, &mut three);
    let shared = |host: &Host| host.core.shared.clone();
    assert_eq!(shared(&one), SharedPeers::from([(two.id, 1450)]));
    one.core.handle_delete_network(&"n1".parse().unwrap());
    let actions = one.actions();
    assert!(actions.contains(&Action::Share(SharedPeers::new())));
}

#[test]
fn the_mtu_is_the_smallest_of_the_hosts_less_the_overhead() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.core.handle_underlay_mtu(9000);
    one.network("n1", "10.5.0.0/16");
    assert_eq!(one.segment_spec("10.5.0.0/16").mtu, 8950);
    two.network("n2", "10.5.0.0/16");
    exchange(&mut one, &mut two);
    assert_eq!(one.segment_spec("10.5.0.0/16").mtu, 1450);
}

#[test]
fn only_the_first_multicast_network_of_a_container_has_the_route() {
    let mut host = Host::new(1);
    host.core.config.multicast = true;
    host.network("n1", "10.5.0.0/16");
    host.network("n2", "10.6.0.0/16");
    host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    host.endpoint("n2", "e2", "10.6.0.2/16").unwrap();
    assert_eq!(host.join("n1", "e1", "/ns/a").connected_routes.len(), 1);
    assert_eq!(host.join("n2", "e2", "/ns/a").connected_routes.len(), 0);
    // The same join again answers the same.
    assert_eq!(host.join("n1", "e1", "/ns/a").connected_routes.len(), 1);
}

#[test]
fn an_endpoint_may_have_multicast_as_its_network_has_not() {
    let mut host = Host::new(1);
    host.core.config.multicast = true;
    host.network("n1", "10.5.0.0/16");
    let mut spec = endpoint_spec("n1", "e1", "10.5.0.2/16");
    spec.wants_multicast = Some(false);
    host.core.handle_create_endpoint(spec, host.now).unwrap();
    assert_eq!(host.join("n1", "e1", "/ns/a").connected_routes.len(), 0);
    let mut again = host.restarted();
    assert_eq!(again.join("n1", "e1", "/ns/a").connected_routes.len(), 0);
}

#[test]
fn a_restart_keeps_networks_endpoints_and_what_was_heard() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    one.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    one.join("n1", "e1", "/ns/a");
    two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    let before = one.forwarding();
    let mut again = one.restarted();
    assert_eq!(again.forwarding(), before);
    assert_eq!(again.core.attachments(), one.core.attachments());

    // The peer is back and has nothing any more.
    let back = MeshEvent::Reachable {
        peer: two.id,
        address: None,
    };
    again.core.handle_mesh_event(back, again.now);
    let (at, _) = again.core.poll_timeout().unwrap();
    again.core.handle_timeout(at);
    again.core.handle_timeout(at + REMEMBERED_GRACE);
    assert_eq!(again.forwarding(), Forwarding::default());
}

#[test]
fn what_is_heard_is_written_at_once_and_not_all_the_time() {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.network("n1", "10.5.0.0/16");
    two.network("n2", "10.5.0.0/16");
    two.endpoint("n2", "e2", "10.5.0.2/16").unwrap();
    exchange(&mut one, &mut two);
    let (first, _) = one.core.poll_timeout().unwrap();
    assert!(first <= one.now + Duration::from_millis(50));
    one.core.handle_timeout(first);
    two.endpoint("n2", "e3", "10.5.0.3/16").unwrap();
    exchange(&mut one, &mut two);
    let (second, _) = one.core.poll_timeout().unwrap();
    assert_eq!(second, first + REMEMBER_PAUSE);
}

#[test]
fn what_the_kernel_has_and_nobody_owns_is_removed() {
    let mut host = Host::new(1);
    host.network("n1", "10.5.0.0/16");
    host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    host.join("n1", "e1", "/ns/a");
    host.actions();
    let inventory = Inventory {
        segments: BTreeSet::from([1]),
        ports: BTreeMap::from([("vpold".to_owned(), None)]),
    };
    host.core.handle_inventory(&inventory);
    let actions = host.actions();
    assert!(actions.contains(&Action::Remove(1)), "{actions:?}");
    assert!(actions.contains(&Action::Unplug("vpold".to_owned())));
    assert!(host.core.status().endpoints.is_empty());
}

#[test]
fn a_swarm_network_that_was_taken_away_unheard_goes_at_the_start() {
    let mut host = Host::new(1);
    host.swarm_network(77);
    host.network("n1", "10.5.0.0/16");
    let mut again = host.restarted();
    again.core.handle_inventory(&Inventory::default());
    let left = again.core.status().segments;
    assert_eq!(left.len(), 1);
    assert!(!left[0].segment.is_swarm());
}

#[test]
fn an_endpoint_that_no_container_has_any_more_goes() {
    let mut host = Host::new(1);
    host.network("n1", "10.5.0.0/16");
    host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    host.join("n1", "e1", "/ns/a");
    let none = BTreeMap::new();
    let later = host.now + STALE_AFTER;
    host.core.handle_containers(&none, |_| true, host.now);
    host.core.handle_containers(&none, |_| false, later);
    host.core.handle_containers(&none, |_| true, later);
    assert_eq!(host.core.status().endpoints.len(), 1);
    host.core.handle_containers(&none, |_| true, later);
    assert!(host.core.status().endpoints.is_empty());
}

#[test]
fn deleting_a_network_leaves_nothing() {
    let mut host = Host::new(1);
    host.network("n1", "10.5.0.0/16");
    host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
    host.join("n1", "e1", "/ns/a");
    host.actions();
    assert!(host.core.handle_delete_network(&"n1".parse().unwrap()));
    let actions = host.actions();
    assert!(actions.contains(&Action::Unplug("vpe1".to_owned())));
    assert!(actions.iter().any(|a| matches!(a, Action::Remove(_))));
    assert!(!host.core.handle_delete_network(&"n1".parse().unwrap()));
    assert_eq!(host.core.attachments(), Attachments::default());
}

struct Host {
    id: PeerId,
    number: u8,
    now: Instant,
    core: Core,
    published: BTreeMap<Key, Bytes>,
    withdrawn: BTreeSet<Key>,
    other_actions: Vec<Action>,
}

impl Host {
    fn new(number: u8) -> Self {
        let id = PeerId::from_bytes([number; 16]);
        let config = CoreConfig {
            id,
            nickname: format!("host{number}"),
            policy: Policy {
                encrypt: false,
                trusts: false,
            },
            mtu: None,
            multicast: false,
        };
        Self {
            id,
            number,
            now: Instant::now(),
            core: Core::new(
                config,
                1500,
                Definitions::default(),
                Attachments::default(),
                Remembered::default(),
            ),
            published: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            other_actions: Vec::new(),
        }
    }

    fn restarted(&self) -> Self {
        let core = Core::new(
            self.core.config.clone(),
            1500,
            self.core.definitions(),
            self.core.attachments(),
            self.core.remembered(),
        );
        Self {
            core,
            ..Self::new(self.number)
        }
    }

    fn via(&self) -> Via {
        Via::Vxlan(self.address())
    }

    fn address(&self) -> IpAddr {
        [192, 168, 77, self.number].into()
    }

    fn network(&mut self, id: &str, subnet: &str) {
        self.add(id, subnet, NetworkOptions::default());
    }

    fn swarm_network(&mut self, vni: u32) {
        let options = NetworkOptions {
            vni: Some(vni.try_into().unwrap()),
            ..NetworkOptions::default()
        };
        self.add("swarm0", "10.9.0.0/16", options);
    }

    fn add(&mut self, id: &str, subnet: &str, options: NetworkOptions) {
        let pool = Pool {
            subnet: subnet.parse().unwrap(),
            gateway: None,
        };
        self.core.handle_create_network(NetworkSpec {
            id: id.parse().unwrap(),
            pools: vec![pool],
            options,
        });
    }

    fn endpoint(&mut self, network: &str, id: &str, ip: &str) -> Result<Mac, NetworkError> {
        let spec = endpoint_spec(network, id, ip);
        self.core.handle_create_endpoint(spec, self.now)
    }

    fn join(&mut self, network: &str, id: &str, sandbox: &str) -> Plug {
        let (network, id) = (network.parse().unwrap(), id.parse().unwrap());
        self.core
            .handle_join(&network, &id, Some(sandbox.into()))
            .unwrap()
    }

    fn segment_spec(&self, subnet: &str) -> SegmentSpec {
        let name = SegmentId::of_subnets([subnet.parse().unwrap()]);
        self.core.segment_spec(&name).unwrap()
    }

    fn vni(&mut self, subnet: &str) -> Vni {
        self.actions();
        self.segment_spec(subnet).vni
    }

    /// Draws what is to be done, playing the mesh.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.core.poll_action() {
            if let Action::Publish(key, value) = &action {
                match value {
                    Some(value) => {
                        self.withdrawn.remove(key);
                        self.published.insert(key.clone(), value.clone());
                    }
                    None => {
                        self.published.remove(key);
                        self.withdrawn.insert(key.clone());
                    }
                }
            }
            actions.push(action);
        }
        self.other_actions.extend(actions.clone());
        actions
    }

    /// The latest forwarding of the only segment that matters to the test.
    fn forwarding(&mut self) -> Forwarding {
        self.actions();
        let last = self.other_actions.iter().rev().find_map(|a| match a {
            Action::Forward(_, forwarding) => Some(forwarding.clone()),
            _ => None,
        });
        last.unwrap_or_default()
    }

    fn hear(&mut self, other: &mut Self) {
        other.actions();
        let reachable = MeshEvent::Reachable {
            peer: other.id,
            address: Some(other.address()),
        };
        self.core.handle_mesh_event(reachable, self.now);
        let news = other.published.iter().map(|(k, v)| (k, Some(v)));
        let ends = other.withdrawn.iter().map(|k| (k, None));
        for (key, value) in news.chain(ends) {
            let event = MeshEvent::Record {
                owner: other.id,
                key: key.clone(),
                value: value.cloned(),
            };
            self.core.handle_mesh_event(event, self.now);
        }
    }
}

fn exchange(one: &mut Host, two: &mut Host) {
    one.hear(two);
    two.hear(one);
    one.actions();
    two.actions();
}
