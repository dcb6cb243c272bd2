//! What the daemon says of itself: the one model behind `status`, `/status` and `/report`.
//!
//! Parts of the daemon hand in plain values; no password or key has a place here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Warning;
use crate::config::{InForce, Rejected, Scope};
use crate::dns::DnsStatus;
use crate::docker::proxy::ProxyStatus;
use crate::ipam::IpamStatus;
use crate::mesh::MeshStatus;
use crate::network::services::{Certainty, TaskState};
use crate::types::{EndpointId, Mac, NetworkId, PeerId, SegmentId, Vni};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The daemon's version.
    pub version: String,
    /// How long it has been running, in seconds.
    pub uptime_seconds: u64,
    /// What the Engine is told of the networks' scope; unknown until it was decided.
    pub scope: Option<ScopeReport>,
    /// All settings as they are in force.
    pub settings: Vec<InForce>,
    /// Settings that are not obeyed.
    pub rejected: Vec<Rejected>,
    /// What is not as it should be.
    pub warnings: Vec<Warning>,
    /// Peers and connections; `None` until the mesh has started.
    pub mesh: Option<MeshStatus>,
    /// Address allocation; `None` where it does not run.
    pub ipam: Option<IpamStatus>,
    /// Names of containers; `None` where they are not served.
    pub dns: Option<DnsStatus>,
    /// The Docker API proxy; `None` where it is off.
    #[serde(default)]
    pub proxy: Option<ProxyStatus>,
    /// How frames reach each peer.
    pub transports: Vec<TransportReport>,
    /// The encrypted tunnel; `None` where there is none.
    pub tunnel: Option<TunnelReport>,
    /// The segments with endpoints here, or that are known from peers.
    pub segments: Vec<SegmentReport>,
    /// Containers' endpoints, here and elsewhere.
    pub endpoints: Vec<EndpointReport>,
    /// What operators attached to networks of ours: containers, and this host.
    #[serde(default)]
    pub attachments: Vec<AttachmentReport>,
    /// The virtual addresses of swarm's services.
    pub services: Vec<ServiceReport>,
    /// What this host's kernel can do for us.
    pub capabilities: Vec<Capability>,
    /// The sockets where the Engine finds us.
    pub plugin_sockets: Vec<PluginSocket>,
}

/// The scope of networks and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeReport {
    /// What was asked for.
    pub asked: Scope,
    /// What the Engine is told.
    pub in_force: Scope,
    /// Why, for people.
    pub reason: String,
}

/// How frames reach one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportReport {
    /// Which peer.
    pub peer: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// `vxlan`, `tunnel` or `none`.
    pub transport: String,
    /// The underlay address that frames go to.
    pub address: Option<IpAddr>,
    /// The largest IP packet of containers that fits, in bytes.
    pub mtu: Option<u16>,
    /// Why it is this transport, for people.
    pub reason: String,
}

/// The encrypted tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelReport {
    /// Where it listens.
    pub listening: Option<SocketAddr>,
    /// What the kernel does for it: `udp_segment`, `udp_gro`, `tap_checksum`, `tap_tcp`, `tap_udp`.
    pub offloads: Vec<String>,
    /// The peers that it has or wants sessions with.
    pub peers: Vec<TunnelPeerReport>,
    /// Packets dropped that belong to no peer, by cause.
    pub drops: BTreeMap<String, u64>,
    /// What keeps it from working, if anything.
    pub problem: Option<String>,
}

/// The tunnel to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeerReport {
    /// Which peer.
    pub peer: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// `direct`, `relayed` or `down`.
    pub path: String,
    /// Where packets for it go.
    pub address: Option<SocketAddr>,
    /// The nickname of the peer that passes them on.
    pub via: Option<String>,
    /// The largest IP packet of containers that is not fragmented, in bytes.
    pub mtu: Option<u16>,
    /// How packets are sealed, once keys are agreed on.
    pub cipher: Option<String>,
    /// How long the keys have been in use, in seconds.
    pub key_age_seconds: Option<u64>,
    /// How often keys were agreed on.
    pub handshakes: u64,
    /// Handshake messages sent again.
    pub handshakes_retransmitted: u64,
    /// Handshake messages refused.
    pub handshakes_refused: u64,
    /// What was sent to it.
    pub sent: TrafficReport,
    /// What came from it.
    pub received: TrafficReport,
    /// What was passed on to it for others.
    pub relayed: TrafficReport,
    /// What was dropped, by cause.
    pub drops: BTreeMap<String, u64>,
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Of the tunnel, datagrams on the underlay; of VXLAN, frames.
    pub packets: u64,
    /// Of the tunnel, bytes of their payload; of VXLAN, of the frames.
    pub bytes: u64,
}

/// What VXLAN carried of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanReport {
    /// What was sent to other hosts.
    pub sent: TrafficReport,
    /// What came from other hosts.
    pub received: TrafficReport,
    /// Frames that could not be sent, or that came and could not be used.
    pub dropped: u64,
}

/// One layer-2 segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// Its name.
    pub id: SegmentId,
    /// Its number on the wire; unknown until the peers agree.
    pub vni: Option<Vni>,
    /// The largest IP packet that containers may send, in bytes.
    pub mtu: Option<u16>,
    /// This host's Docker networks on it.
    pub networks: Vec<NetworkReport>,
    /// Nicknames of the peers that take part.
    pub peers: Vec<String>,
    /// What VXLAN carried of it; `None` where it has no such device.
    #[serde(default)]
    pub vxlan: Option<VxlanReport>,
    /// What keeps it from working here, if anything.
    pub problem: Option<String>,
}

/// One Docker network of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Docker's identifier.
    pub id: NetworkId,
    /// What the user called it, where Docker could be asked.
    pub name: Option<String>,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether swarm's managers or this host's engine defined it.
    pub scope: Scope,
}

/// One container's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Docker's identifier of the endpoint.
    pub endpoint: EndpointId,
    /// The segment it is on.
    pub segment: SegmentId,
    /// The network's name, or the start of its identifier, where it is this host's.
    pub network: Option<String>,
    /// The container's name or the start of its identifier, where it is known.
    pub container: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The nickname of the peer where it runs.
    pub host: String,
    /// Whether that is this host.
    pub local: bool,
}

/// An address that an operator gave a container or this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentReport {
    /// The container's identifier; `weave:expose` for this host.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// The name of the interface that has the address.
    pub interface: String,
    /// The address with its subnet's prefix length.
    pub address: IpNet,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Of this host: whether what passes between the subnet and the world gets its address.
    pub masquerade: bool,
}

/// A swarm service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub service: String,
    /// The network.
    pub network: NetworkId,
    /// What the user called it, where Docker could be asked.
    #[serde(default)]
    pub network_name: Option<String>,
    /// Its virtual address there.
    pub vip: Ipv4Addr,
    /// Its tasks that run.
    pub tasks: Vec<TaskReport>,
}

/// A task of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Its address.
    pub address: Ipv4Addr,
    /// The nickname of the peer where it runs.
    pub host: String,
    /// How sure it is that it runs.
    pub certainty: Certainty,
    /// Whether it takes connections.
    pub state: TaskState,
    /// How many connections this host's containers have to it through the virtual address.
    #[serde(default)]
    pub connections: usize,
}

impl TaskReport {
    /// Whether it is among those that take new connections.
    pub fn is_ready(&self) -> bool {
        self.certainty == Certainty::Confirmed && self.state == TaskState::Ready
    }
}

/// Something the kernel offers, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// What it is.
    pub name: String,
    /// Whether it can be used.
    pub available: bool,
    /// What is done without it, or what the kernel said.
    pub detail: String,
}

/// A socket where the Engine finds us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSocket {
    /// Where it is on the host.
    pub path: String,
    /// Why nothing is served there, if so.
    pub error: Option<String>,
}

impl Report {
    /// The report of a daemon that has only just read its settings.
    pub fn of_settings(settings: Vec<InForce>, rejected: Vec<Rejected>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: 0,
            scope: None,
            settings,
            rejected,
            warnings: Vec::new(),
            mesh: None,
            ipam: None,
            dns: None,
            proxy: None,
            transports: Vec::new(),
            tunnel: None,
            segments: Vec::new(),
            endpoints: Vec::new(),
            attachments: Vec::new(),
            services: Vec::new(),
            capabilities: Vec::new(),
            plugin_sockets: Vec::new(),
        }
    }

    /// Everything that is not as it should be, wherever it was noticed: the most pressing first.
    pub fn problems(&self) -> Vec<Warning> {
        let mut all = self.warnings.clone();
        let remedy = |text: &str| text.to_owned();
        if let Some(mesh) = &self.mesh {
            if let Err(reason) = &mesh.listening {
                all.push(Warning::new(
                    format!("peers cannot connect to this host: {reason}"),
                    remedy("free the port or set WEAVE_PORT; it is tried again until it works"),
                ));
            }
            all.extend(mesh.warnings.iter().map(|text| Warning::new(text, "")));
        }
        all.extend(self.ipam.iter().flat_map(address_problems));
        if let Some(dns) = &self.dns
            && let Err(reason) = &dns.listening
        {
            all.push(Warning::new(
                format!("names are not served: {reason}"),
                remedy("free the address or set WEAVE_DNS_LISTEN_ADDRESS; it is tried again"),
            ));
        }
        for listener in self.proxy.iter().flat_map(|proxy| &proxy.listeners) {
            let address = &listener.address;
            all.extend(listener.error.as_ref().map(|error| {
                Warning::new(
                    format!("the proxy is not served at {address}: {error}"),
                    "free the address, make the files right, or launch with others; it is tried \
                     again",
                )
            }));
            all.extend(listener.stale.as_ref().map(|error| {
                Warning::new(
                    format!("the proxy at {address} goes on with former certificates: {error}"),
                    "make the files right; they are read again when they change",
                )
            }));
        }
        all.extend(self.plugin_sockets.iter().filter_map(|socket| {
            let error = socket.error.as_ref()?;
            Some(Warning::new(
                format!("Docker cannot reach {}: {error}", socket.path),
                "stop what else serves this socket",
            ))
        }));
        all.extend(self.segments.iter().filter_map(|segment| {
            let problem = segment.problem.as_ref()?;
            Some(Warning::new(
                format!("segment {}: {problem}", segment.id),
                "",
            ))
        }));
        all.extend(
            self.rejected
                .iter()
                .map(|rejected| Warning::new(rejected.to_string(), "")),
        );
        let missing = self.capabilities.iter().filter(|c| !c.available);
        all.extend(missing.map(|capability| {
            Warning::new(
                format!("this host lacks {}: {}", capability.name, capability.detail),
                "",
            )
        }));
        all
    }
}

fn address_problems(ipam: &IpamStatus) -> Vec<Warning> {
    let mut problems = Vec::new();
    let remedy = match ipam.state.as_str() {
        "awaiting consensus" => Some(
            "start the missing peers, or set IPALLOC_INIT to consensus=N with the number of peers \
             that there are",
        ),
        "cut off" => Some("see `weave status connections` for why the other peers are not reached"),
        "no space on the disk" => Some("free space below /var/lib/weave; it is tried again"),
        _ => None,
    };
    if let Some(remedy) = remedy {
        let what = format!("no new addresses: {}", ipam.reason);
        problems.push(Warning::new(what, remedy));
    }
    // What to do about it is part of each.
    let conflicts = ipam.conflicts.iter();
    problems.extend(conflicts.map(|conflict| Warning::new(conflict, "")));
    problems
}

#[cfg(test)]
pub(crate) mod examples {
    //! A report with something of everything, for tests.

    use std::time::Duration;

    use super::*;
    use crate::config::{Paths, ProxyAddress, Settings};
    use crate::dns::{AnswerTimes, DnsCounters, DnsEntry, DnsOutcomes};
    use crate::docker::proxy::ListenerStatus;
    use crate::ipam::{PeerShare, SpaceStatus};
    use crate::mesh::{ConnectionStatus, MeshCounters, PeerStatus, TargetStatus};

    /// The settings say the password `hunter2`, an MTU that is none, and a peer.
    pub(crate) fn report() -> Report {
        let environment = [
            ("WEAVE_PASSWORD", "hunter2"),
            ("WEAVE_MTU", "99"),
            ("WEAVE_PEERS", "node2"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let (settings, rejected) = Settings::load(environment, &[], &Paths::of_host());
        let segment = SegmentId::of_name("web");
        Report {
            uptime_seconds: 93_784,
            scope: Some(ScopeReport {
                asked: Scope::Auto,
                in_force: Scope::Local,
                reason: "this engine is not part of a swarm".into(),
            }),
            warnings: vec![Warning::new(
                "docker.sock does not answer",
                "wait, or restart Docker",
            )],
            mesh: Some(mesh()),
            ipam: Some(ipam()),
            dns: Some(dns()),
            proxy: Some(proxy()),
            transports: vec![TransportReport {
                peer: PeerId::from_bytes([2; 16]),
                nickname: "node2".into(),
                transport: "vxlan".into(),
                address: Some([192, 0, 2, 2].into()),
                mtu: Some(1450),
                reason: "nothing is encrypted".into(),
            }],
            tunnel: Some(tunnel()),
            segments: vec![SegmentReport {
                id: segment.clone(),
                vni: Vni::try_from(4097).ok(),
                mtu: Some(1450),
                networks: vec![NetworkReport {
                    id: "0123456789abcdef".parse().unwrap(),
                    name: Some("web".into()),
                    subnets: vec!["10.1.0.0/16".parse().unwrap()],
                    scope: Scope::Local,
                }],
                peers: vec!["node1".into(), "node2".into()],
                vxlan: Some(VxlanReport {
                    sent: TrafficReport {
                        packets: 20,
                        bytes: 3000,
                    },
                    ..VxlanReport::default()
                }),
                problem: None,
            }],
            endpoints: vec![EndpointReport {
                endpoint: "fedcba9876543210".parse().unwrap(),
                segment,
                network: Some("web".into()),
                container: Some("shop".into()),
                addresses: vec!["10.1.0.2".parse().unwrap()],
                mac: Mac::of_ip([10, 1, 0, 2].into()),
                host: "node1".into(),
                local: true,
            }],
            attachments: vec![AttachmentReport {
                container: "weave:expose".into(),
                name: String::new(),
                endpoint: "fedcba9876543210".parse().unwrap(),
                interface: "weave".into(),
                address: "10.32.0.1/12".parse().unwrap(),
                mac: Mac::of_ip([10, 32, 0, 1].into()),
                masquerade: true,
            }],
            services: vec![ServiceReport {
                service: "shop".into(),
                network: "ob5a0kd8tmw1ml0rdmzvnxt7l".parse().unwrap(),
                network_name: Some("front".into()),
                vip: [10, 2, 0, 2].into(),
                tasks: vec![
                    task(3, "node1", TaskState::Ready),
                    task(4, "node2", TaskState::Stopping),
                ],
            }],
            capabilities: vec![Capability {
                name: "vxlan".into(),
                available: true,
                detail: String::new(),
            }],
            plugin_sockets: vec![PluginSocket {
                path: "/run/docker/plugins/weave.sock".into(),
                error: None,
            }],
            ..Report::of_settings(settings.in_force(), rejected)
        }
    }

    fn tunnel() -> TunnelReport {
        let peer = |byte| TunnelPeerReport {
            peer: PeerId::from_bytes([byte; 16]),
            nickname: format!("node{byte}"),
            path: "relayed".into(),
            address: None,
            via: Some("node2".into()),
            mtu: None,
            cipher: None,
            key_age_seconds: None,
            handshakes: 0,
            handshakes_retransmitted: 0,
            handshakes_refused: 0,
            sent: TrafficReport::default(),
            received: TrafficReport::default(),
            relayed: TrafficReport::default(),
            drops: BTreeMap::from([("replayed".to_owned(), 0)]),
        };
        let traffic = |packets, bytes| TrafficReport { packets, bytes };
        TunnelReport {
            listening: "0.0.0.0:6783".parse().ok(),
            offloads: ["udp_segment", "udp_gro"].map(str::to_owned).into(),
            peers: vec![
                TunnelPeerReport {
                    path: "direct".into(),
                    address: "192.0.2.2:6783".parse().ok(),
                    via: None,
                    mtu: Some(1390),
                    cipher: Some("AES-256-GCM".into()),
                    key_age_seconds: Some(75),
                    handshakes: 1,
                    handshakes_retransmitted: 4,
                    sent: traffic(1000, 1_500_000),
                    received: traffic(3, 999),
                    drops: BTreeMap::from([("replayed".to_owned(), 2)]),
                    ..peer(2)
                },
                peer(3),
            ],
            drops: BTreeMap::from([("unknown_session".to_owned(), 1)]),
            problem: None,
        }
    }

    fn task(last: u8, host: &str, state: TaskState) -> TaskReport {
        TaskReport {
            address: [10, 2, 0, last].into(),
            host: host.into(),
            certainty: Certainty::Confirmed,
            state,
            connections: last.into(),
        }
    }

    fn dns() -> DnsStatus {
        let entry = |name: &str, last, peer, reachable| DnsEntry {
            name: format!("{name}.weave.local").parse().unwrap(),
            address: [10, 1, 0, last].into(),
            container: (last == 2).then(|| "shop".to_owned()),
            segment: (last == 2).then(|| SegmentId::of_name("web")),
            peer: PeerId::from_bytes([peer; 16]),
            reachable,
        };
        let outcomes = |found, unknown, forwarded| DnsOutcomes {
            found,
            unknown,
            forwarded,
            ..DnsOutcomes::default()
        };
        DnsStatus {
            domain: "weave.local".parse().unwrap(),
            ttl: 1,
            listening: Ok("172.17.0.1:53".parse().unwrap()),
            upstreams: vec!["192.0.2.53:53".parse().unwrap()],
            counters: DnsCounters {
                by_type: BTreeMap::from([
                    ("A".to_owned(), outcomes(3, 1, 0)),
                    ("other".to_owned(), outcomes(0, 0, 2)),
                ]),
                answer_times: AnswerTimes {
                    within: vec![
                        (Duration::from_micros(5), 1),
                        (Duration::from_micros(10), 4),
                    ],
                    count: 4,
                    sum: Duration::from_micros(28),
                },
                upstream_failures: BTreeMap::from([("192.0.2.53:53".parse().unwrap(), 1)]),
                last_failure: None,
            },
            tombstones: 5,
            entries: vec![entry("shop", 2, 1, true), entry("out", 9, 2, false)],
        }
    }

    fn proxy() -> ProxyStatus {
        ProxyStatus {
            listeners: vec![ListenerStatus {
                address: ProxyAddress::default(),
                error: None,
                tls: false,
                stale: None,
            }],
            connections: 2,
            placed: 5,
            left_alone: 1,
            refused: 0,
        }
    }

    fn ipam() -> IpamStatus {
        let share = |byte, addresses, active| PeerShare {
            peer: PeerId::from_bytes([byte; 16]),
            nickname: format!("node{byte}"),
            reachable: byte == 1,
            addresses,
            share: 500,
            active,
        };
        IpamStatus {
            state: "ready".into(),
            reason: "524288 addresses of 10.32.0.0/12 are this host's".into(),
            range: "10.32.0.0/12".parse().unwrap(),
            default_subnet: "10.32.0.0/12".parse().unwrap(),
            ring: Some("r1".into()),
            spaces: vec![SpaceStatus {
                subnet: "10.32.0.0/12".parse().unwrap(),
                peers: vec![share(1, 524_288, 3), share(2, 524_288, 0)],
                unreachable: 524_288,
                unaccounted: 0,
            }],
            pending: Default::default(),
            conflicts: vec![],
        }
    }

    fn mesh() -> MeshStatus {
        let [one, two] = [PeerId::from_bytes([1; 16]), PeerId::from_bytes([2; 16])];
        let peer = |id, nickname: &str, link| PeerStatus {
            id,
            nickname: nickname.into(),
            version: "3.0.0".into(),
            reachable: true,
            via: Some(id),
            addresses: vec!["192.0.2.2:6783".parse().unwrap()],
            links: vec![link],
            records: 3,
            changes: 12,
        };
        MeshStatus {
            id: one,
            nickname: "node1".into(),
            listening: Ok("0.0.0.0:6783".parse().unwrap()),
            password: true,
            targets: vec![TargetStatus {
                target: "node2".into(),
                source: "settings".into(),
                addresses: vec!["192.0.2.2:6783".parse().unwrap()],
                error: None,
            }],
            connections: vec![
                ConnectionStatus {
                    address: "192.0.2.2:6783".parse().unwrap(),
                    outbound: true,
                    state: "established".into(),
                    reason: "target of the settings".into(),
                    peer: Some(two),
                    nickname: Some("node2".into()),
                    rtt: Some(Duration::from_micros(412)),
                    retry_in: None,
                },
                ConnectionStatus {
                    address: "192.0.2.3:6783".parse().unwrap(),
                    outbound: true,
                    state: "retrying".into(),
                    reason: "connection refused".into(),
                    peer: None,
                    nickname: None,
                    rtt: None,
                    retry_in: Some(Duration::from_secs(75)),
                },
            ],
            peers: vec![peer(one, "node1", two), peer(two, "node2", one)],
            counters: MeshCounters {
                sessions: 4,
                terminations: 3,
                sent_bytes: 1_000,
                received_bytes: 2_000,
            },
            tombstones: BTreeMap::from([(5, 5)]),
            warnings: vec!["192.0.2.9 has another password".into()],
        }
    }
}
