//! What we read of the Engine's answers (its `api/swagger.yaml`), and no more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::docker::wire::or_default;

/// `GET /info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Info {
    /// The Engine's version, as `28.5.2`.
    #[serde(deserialize_with = "or_default")]
    pub server_version: String,
    /// The host's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The Engine's place in a swarm.
    #[serde(deserialize_with = "or_default")]
    pub swarm: SwarmInfo,
}

/// The Engine's place in a swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SwarmInfo {
    /// The node's identifier; empty outside a swarm.
    #[serde(rename = "NodeID", deserialize_with = "or_default")]
    pub node_id: String,
    /// The node's advertised address; empty outside a swarm.
    #[serde(deserialize_with = "or_default")]
    pub node_addr: String,
    /// `inactive`, `pending`, `active`, `error` or `locked`.
    #[serde(deserialize_with = "or_default")]
    pub local_node_state: String,
    /// Whether the node is a manager.
    #[serde(deserialize_with = "or_default")]
    pub control_available: bool,
    /// The managers that the node knows.
    #[serde(deserialize_with = "or_default")]
    pub remote_managers: Vec<RemoteManager>,
}

impl SwarmInfo {
    /// Whether the Engine belongs to a swarm; `None` while it cannot be said.
    pub fn is_member(&self) -> Option<bool> {
        match self.local_node_state.as_str() {
            "active" | "pending" | "locked" => Some(true),
            "inactive" => Some(false),
            _ => None,
        }
    }
}

/// A manager of the swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RemoteManager {
    /// Its node's identifier.
    #[serde(rename = "NodeID", deserialize_with = "or_default")]
    pub node_id: String,
    /// Its address with swarm's port.
    #[serde(deserialize_with = "or_default")]
    pub addr: String,
}

/// One of `GET /services`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Service {
    /// Its identifier.
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    /// What the user asked for.
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// Where it is reached.
    #[serde(deserialize_with = "or_default")]
    pub endpoint: ServiceEndpoint,
}

/// What the user asked of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ServiceSpec {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// Where a service is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ServiceEndpoint {
    /// Its virtual address on each network; none in the mode `dnsrr`.
    #[serde(rename = "VirtualIPs", deserialize_with = "or_default")]
    pub virtual_ips: Vec<VirtualIp>,
}

/// A service's virtual address on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VirtualIp {
    /// The network's identifier.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// The address with prefix length.
    #[serde(deserialize_with = "or_default")]
    pub addr: String,
}

/// One of `GET /nodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Node {
    /// Its identifier.
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    /// What the managers see of it.
    #[serde(deserialize_with = "or_default")]
    pub status: NodeStatus,
    /// Its address as a manager; `None` for workers.
    pub manager_status: Option<ManagerStatus>,
}

/// What the managers see of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NodeStatus {
    /// `unknown`, `down`, `ready` or `disconnected`.
    #[serde(deserialize_with = "or_default")]
    pub state: String,
    /// Its address, as the managers see it.
    #[serde(deserialize_with = "or_default")]
    pub addr: String,
}

/// A manager among the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManagerStatus {
    /// Whether it is the one that decides.
    #[serde(deserialize_with = "or_default")]
    pub leader: bool,
    /// Its address with swarm's port.
    #[serde(deserialize_with = "or_default")]
    pub addr: String,
}

/// `GET /networks/ID`, and one of `GET /networks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Network {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `local`, `global` or `swarm`.
    #[serde(deserialize_with = "or_default")]
    pub scope: String,
    /// Its driver's name.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
    /// `--internal`.
    #[serde(deserialize_with = "or_default")]
    pub internal: bool,
    /// Its subnets.
    #[serde(rename = "IPAM", deserialize_with = "or_default")]
    pub ipam: NetworkIpam,
    /// The driver's options.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
    /// The containers on it, by identifier; only told of one network.
    #[serde(deserialize_with = "or_default")]
    pub containers: BTreeMap<String, NetworkContainer>,
}

/// A container on a [`Network`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkContainer {
    /// Its IPv4 address with prefix length.
    #[serde(rename = "IPv4Address", deserialize_with = "or_default")]
    pub ipv4_address: String,
    /// Its IPv6 address with prefix length.
    #[serde(rename = "IPv6Address", deserialize_with = "or_default")]
    pub ipv6_address: String,
}

/// The subnets of a [`Network`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkIpam {
    /// The IPAM driver's name.
    #[serde(deserialize_with = "or_default")]
    pub driver: String,
    /// One for each.
    #[serde(deserialize_with = "or_default")]
    pub config: Vec<IpamConfig>,
}

/// One subnet of a [`Network`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamConfig {
    /// The subnet.
    #[serde(deserialize_with = "or_default")]
    pub subnet: String,
    /// The gateway, with or without prefix length.
    #[serde(deserialize_with = "or_default")]
    pub gateway: String,
    /// Addresses that no container gets (`--aux-address`), by their names.
    #[serde(deserialize_with = "or_default")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// One of `GET /plugins`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Plugin {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// Its name, which is that of its drivers.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// What `POST /networks/create` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// Refuse a second network of this name; newer Engines always do.
    pub check_duplicate: bool,
    /// Its driver's name.
    pub driver: String,
    /// Whether containers may be attached to it by hand, where it is a swarm's.
    pub attachable: bool,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Where its addresses come from.
    #[serde(rename = "IPAM")]
    pub ipam: NewIpam,
}

/// Where the addresses of a [`NewNetwork`] come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewIpam {
    /// The IPAM driver's name.
    pub driver: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// One for each subnet.
    pub config: Vec<NewIpamConfig>,
}

/// One subnet of a [`NewNetwork`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewIpamConfig {
    /// The subnet.
    pub subnet: String,
}

/// One of `GET /containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Container {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// Its names, each beginning with a slash.
    #[serde(deserialize_with = "or_default")]
    pub names: Vec<String>,
    /// `running`, `exited`, ...
    #[serde(deserialize_with = "or_default")]
    pub state: String,
    /// The same for people, with the result of its health check: `Up 2 minutes (healthy)`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Where it is attached.
    #[serde(deserialize_with = "or_default")]
    pub network_settings: NetworkSettings,
}

impl Container {
    /// The name as people know it, else the identifier.
    pub fn name(&self) -> &str {
        self.names
            .first()
            .map_or(self.id.as_str(), |name| name.trim_start_matches('/'))
    }
}

/// `GET /containers/ID/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerDetail {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// Its name, beginning with a slash.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Whether it runs, and as which process.
    #[serde(deserialize_with = "or_default")]
    pub state: ContainerState,
    /// What the user asked for.
    #[serde(deserialize_with = "or_default")]
    pub config: ContainerConfig,
    /// What the user asked of the host.
    #[serde(deserialize_with = "or_default")]
    pub host_config: HostConfig,
    /// Where it is attached.
    #[serde(deserialize_with = "or_default")]
    pub network_settings: NetworkSettings,
}

/// Whether a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerState {
    /// Whether it does.
    #[serde(deserialize_with = "or_default")]
    pub running: bool,
    /// Its first process, in the host's numbering; 0 while it does not run.
    #[serde(deserialize_with = "or_default")]
    pub pid: u32,
}

/// What the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `--hostname`, else the short identifier.
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    /// `--domainname`.
    #[serde(deserialize_with = "or_default")]
    pub domainname: String,
    /// `--stop-signal`, or the image's: a name with or without `SIG`, or a number.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// What the user asked of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// `--network`: `host`, `none`, `container:ID`, or a network's name.
    #[serde(deserialize_with = "or_default")]
    pub network_mode: String,
}

/// Where a container is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// The file that keeps its network namespace; only told of one container.
    #[serde(deserialize_with = "or_default")]
    pub sandbox_key: String,
    /// Its endpoints by the networks' names.
    #[serde(deserialize_with = "or_default")]
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A container's endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// The network's identifier.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// The endpoint's identifier.
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint_id: String,
    /// Its IPv4 address, without prefix length.
    #[serde(rename = "IPAddress", deserialize_with = "or_default")]
    pub ip_address: String,
    /// Its IPv6 address, without prefix length.
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "or_default")]
    pub global_ipv6_address: String,
    /// Further names on this network.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<String>,
}

/// One of `GET /events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Event {
    /// `container`, `network`, `daemon`, ...
    #[serde(rename = "Type", deserialize_with = "or_default")]
    pub kind: String,
    /// `start`, `die`, `connect`, ...
    #[serde(deserialize_with = "or_default")]
    pub action: String,
    /// What it happened to.
    #[serde(deserialize_with = "or_default")]
    pub actor: Actor,
    /// When, in nanoseconds since 1970.
    #[serde(rename = "timeNano", deserialize_with = "or_default")]
    pub time_nano: i64,
}

/// What an [`Event`] happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Actor {
    /// Its identifier.
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    /// Its name, labels, and more.
    #[serde(deserialize_with = "or_default")]
    pub attributes: BTreeMap<String, String>,
}

/// How the Engine says no.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) message: String,
}
