//! The JSON of the plugin protocol, as the Engine writes and reads it.
//!
//! Sources: moby's `libnetwork/drivers/remote/api` and `libnetwork/ipams/remote/api`. The Engine
//! writes `null` for empty maps and lists, and leaves bodies empty where there is nothing to say;
//! newer engines add fields. All three are taken.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The content type of replies (moby `pkg/plugins/transport`).
pub const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Options with values of any kind: by the Engine's convention, keys are unique and dotted.
pub type Options = BTreeMap<String, Value>;

/// Reads a request; an empty body is an empty request.
pub fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, serde_json::Error> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice::<Option<T>>(body).map(Option::unwrap_or_default)
}

/// The reply that says only that all is well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

/// `Plugin.Activate`: asked of legacy plugins only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Activated {
    /// The interfaces that the plugin has.
    pub implements: &'static [&'static str],
}

/// `NetworkDriver.GetCapabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkCapabilities {
    /// `local` or `global`: who owns the definitions of networks.
    pub scope: &'static str,
    /// `global`: endpoints reach across hosts, and the Engine tells of other nodes.
    pub connectivity_scope: &'static str,
    /// Whether `GwAllocCheck` is answered (engines from 28.0).
    pub gw_alloc_checker: bool,
}

/// One pool of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IpamData {
    /// The subnet.
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    /// The gateway with the subnet's prefix length; empty, or all zero, where there is none.
    #[serde(deserialize_with = "or_default")]
    pub gateway: String,
}

/// `NetworkDriver.AllocateNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AllocateNetwork {
    /// Swarm's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// The user's options, or what was answered before.
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
}

/// The reply to [`AllocateNetwork`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AllocatedNetwork {
    /// What all nodes are told in `CreateNetwork`, instead of the user's options.
    pub options: BTreeMap<String, String>,
}

/// A call about a network as a whole: `FreeNetwork`, `DeleteNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NetworkRequest {
    /// Docker's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
}

/// The reply to `NetworkDriver.GwAllocCheck`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatewayCheck {
    /// No IPv4 address need be set aside for a gateway.
    #[serde(rename = "SkipIPv4")]
    pub skip_ipv4: bool,
    /// No IPv6 address need be set aside for a gateway.
    #[serde(rename = "SkipIPv6")]
    pub skip_ipv6: bool,
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateNetwork {
    /// Docker's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// The Engine's options, with the user's among them.
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
    /// IPv4 pools.
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub ipv4_data: Vec<IpamData>,
    /// IPv6 pools.
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub ipv6_data: Vec<IpamData>,
}

/// The addresses of an endpoint; empty where not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointInterface {
    /// IPv4, with the subnet's prefix length.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub address: String,
    /// IPv6, with the subnet's prefix length.
    #[serde(
        rename = "AddressIPv6",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub address_ipv6: String,
    /// The MAC address, bytes in hexadecimal with colons.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateEndpoint {
    /// Docker's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// Docker's identifier of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint_id: String,
    /// What the Engine has decided already.
    #[serde(deserialize_with = "or_default")]
    pub interface: EndpointInterface,
    /// Ports, the MAC address in base64, the user's `--driver-opt`.
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
}

/// The reply to [`CreateEndpoint`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEndpoint {
    /// Only what the Engine had left empty: it refuses anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<EndpointInterface>,
}

/// A call about an endpoint: `EndpointOperInfo`, `DeleteEndpoint`, `Leave`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct EndpointRequest {
    /// Docker's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// Docker's identifier of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint_id: String,
}

/// The reply to `NetworkDriver.EndpointOperInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointInfo {
    /// Free form.
    pub value: BTreeMap<String, String>,
}

/// `NetworkDriver.Join`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Join {
    /// Docker's identifier of the network.
    #[serde(rename = "NetworkID", deserialize_with = "or_default")]
    pub network_id: String,
    /// Docker's identifier of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint_id: String,
    /// The file, on the host, that keeps the container's network namespace.
    #[serde(deserialize_with = "or_default")]
    pub sandbox_key: String,
}

/// The reply to [`Join`]. Without a gateway, and unless the network is internal, the Engine gives
/// the container a way out through `docker_gwbridge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    /// What to move into the container.
    pub interface_name: InterfaceName,
    /// Routes by that interface.
    pub static_routes: Vec<StaticRoute>,
}

/// How an interface is called before and after the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name on the host.
    pub src_name: String,
    /// What its name in the container begins with; the Engine adds a number.
    pub dst_prefix: &'static str,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// The subnet it leads to.
    pub destination: String,
    /// 1: directly connected (libnetwork `types.CONNECTED`).
    pub route_type: u8,
    /// Empty for a connected route.
    pub next_hop: &'static str,
}

/// `NetworkDriver.DiscoverNew` and `DiscoverDelete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Discovery {
    /// 1: a node (libnetwork `discoverapi.NodeDiscovery`).
    #[serde(deserialize_with = "or_default")]
    pub discovery_type: i64,
    /// What was discovered; its form depends on the type.
    #[serde(deserialize_with = "or_default")]
    pub discovery_data: Value,
}

/// The data of a [`Discovery`] of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiscoveredNode {
    /// The node's advertised address.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    /// Whether it is this node.
    #[serde(rename = "Self", deserialize_with = "or_default")]
    pub is_self: bool,
}

/// `IpamDriver.GetCapabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpamCapabilities {
    /// Whether `RequestAddress` is to carry the endpoint's MAC address.
    #[serde(rename = "RequiresMACAddress")]
    pub requires_mac_address: bool,
    /// Whether pools are to be requested again when the Engine starts.
    #[serde(rename = "RequiresRequestReplay")]
    pub requires_request_replay: bool,
}

/// `IpamDriver.GetDefaultAddressSpaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressSpaces {
    /// Of networks that this host's engine defines.
    pub local_default_address_space: &'static str,
    /// Of networks that swarm's managers define.
    pub global_default_address_space: &'static str,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RequestPool {
    /// One of [`AddressSpaces`].
    #[serde(deserialize_with = "or_default")]
    pub address_space: String,
    /// `--subnet`, or empty.
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    /// `--ip-range`, or empty.
    #[serde(deserialize_with = "or_default")]
    pub sub_pool: String,
    /// `--ipam-opt`.
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
    /// Whether an IPv6 pool is wanted; swarm managers never say so.
    #[serde(deserialize_with = "or_default")]
    pub v6: bool,
}

/// The reply to [`RequestPool`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedPool {
    /// The handle for later calls.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The subnet.
    pub pool: String,
    /// `com.docker.network.gateway`, where no address need be requested for the gateway.
    pub data: BTreeMap<&'static str, String>,
}

/// `IpamDriver.ReleasePool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReleasePool {
    /// The pool's handle.
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub pool_id: String,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RequestAddress {
    /// The pool's handle.
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub pool_id: String,
    /// The address that is wanted, or empty.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    /// What it is for.
    #[serde(deserialize_with = "or_default")]
    pub options: Options,
}

/// The reply to [`RequestAddress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RequestedAddress {
    /// The address with the subnet's prefix length.
    pub address: String,
}

/// `IpamDriver.ReleaseAddress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ReleaseAddress {
    /// The pool's handle.
    #[serde(rename = "PoolID", deserialize_with = "or_default")]
    pub pool_id: String,
    /// The address, without prefix length.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}

/// Reads `null` as the default.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_bodies_and_null_are_empty_requests() {
        for body in ["", " \n", "null", "{}"] {
            assert_eq!(
                parse::<CreateNetwork>(body.as_bytes()).unwrap(),
                CreateNetwork::default(),
                "{body:?}"
            );
        }
    }

    #[test]
    fn null_fields_are_empty_and_unknown_ones_ignored() {
        let body = br#"{"NetworkID":"n","Options":null,"IPv4Data":[{"Pool":"10.0.0.0/8",
            "Gateway":null,"AuxAddresses":null}],"IPv6Data":null,"New":[1]}"#;
        let request: CreateNetwork = parse(body).unwrap();
        assert_eq!(request.network_id, "n");
        assert_eq!(request.ipv4_data[0].pool, "10.0.0.0/8");
        assert_eq!(request.ipv4_data[0].gateway, "");
        assert!(request.ipv6_data.is_empty());
    }

    #[test]
    fn replies_have_the_field_names_of_the_engine() {
        assert_eq!(
            json(&Joined {
                interface_name: InterfaceName {
                    src_name: "v1".to_owned(),
                    dst_prefix: "ethwe",
                },
                static_routes: vec![StaticRoute {
                    destination: "224.0.0.0/4".to_owned(),
                    route_type: 1,
                    next_hop: "",
                }],
            }),
            r#"{"InterfaceName":{"SrcName":"v1","DstPrefix":"ethwe"},"StaticRoutes":[{"Destination":"224.0.0.0/4","RouteType":1,"NextHop":""}]}"#
        );
        assert_eq!(
            json(&RequestedPool {
                pool_id: "p".to_owned(),
                pool: "10.0.0.0/8".to_owned(),
                data: BTreeMap::new(),
            }),
            r#"{"PoolID":"p","Pool":"10.0.0.0/8","Data":{}}"#
        );
        assert_eq!(json(&CreatedEndpoint::default()), "{}");
        assert_eq!(
            json(&GatewayCheck {
                skip_ipv4: true,
                skip_ipv6: false
            }),
            r#"{"SkipIPv4":true,"SkipIPv6":false}"#
        );
    }

    fn json(reply: &impl Serialize) -> String {
        serde_json::to_string(reply).unwrap()
    }
}
