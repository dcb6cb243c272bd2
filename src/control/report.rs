//! What the daemon says of itself: the one model behind `status`, `/status` and `/report`.
//!
//! Parts of the daemon hand in plain values; no password or key has a place here.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Warning;
use crate::config::{InForce, Rejected, Scope};
use crate::ipam::IpamStatus;
use crate::mesh::MeshStatus;
use crate::network::services::TaskState;
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
    /// How frames reach each peer.
    pub transports: Vec<TransportReport>,
    /// The segments with endpoints here, or that are known from peers.
    pub segments: Vec<SegmentReport>,
    /// Containers' endpoints, here and elsewhere.
    pub endpoints: Vec<EndpointReport>,
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

/// A swarm service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub service: String,
    /// The network.
    pub network: NetworkId,
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
    /// Whether that peer can be reached.
    pub reachable: bool,
    /// Whether it takes connections.
    pub state: TaskState,
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
    /// Where it is, as this process sees it.
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
            transports: Vec::new(),
            segments: Vec::new(),
            endpoints: Vec::new(),
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
    use crate::config::{Paths, Settings};
    use crate::ipam::{PeerShare, SpaceStatus};
    use crate::mesh::{ConnectionStatus, PeerStatus, TargetStatus};

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
            transports: vec![TransportReport {
                peer: PeerId::from_bytes([2; 16]),
                nickname: "node2".into(),
                transport: "vxlan".into(),
                address: Some([192, 0, 2, 2].into()),
                mtu: Some(1450),
                reason: "nothing is encrypted".into(),
            }],
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
            services: vec![ServiceReport {
                service: "shop".into(),
                network: "ob5a0kd8tmw1ml0rdmzvnxt7l".parse().unwrap(),
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

    fn task(last: u8, host: &str, state: TaskState) -> TaskReport {
        TaskReport {
            address: [10, 2, 0, last].into(),
            host: host.into(),
            reachable: true,
            state,
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
            warnings: vec!["192.0.2.9 has another password".into()],
        }
    }
}
