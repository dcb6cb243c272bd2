//! The remote network driver: the Engine's calls, translated for [`Networks`].
//!
//! Every call may come twice, late, or for something this daemon has never heard of: the Engine
//! repeats calls after its own restarts and forgets them after ours.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;

use super::engine::{Engine, EngineError};
use super::network_spec::{self, MULTICAST_OPTION};
use super::wire;
use crate::network::{Attachment, EndpointSpec, NetworkError, Networks};
use crate::types::{EndpointId, Mac, NetworkId, ParseError};

/// What the interface's name in the container begins with; Weave Net's name, which scripts know.
const INTERFACE_PREFIX: &str = "ethwe";
/// A MAC address the user chose, in base64 (libnetwork `netlabel.MacAddress`).
const MAC_OPTION: &str = "com.docker.network.endpoint.macaddress";
/// A route without next hop (libnetwork `types.CONNECTED`).
const CONNECTED: u8 = 1;
/// How long the Engine may take to tell a lost definition: it answers in milliseconds or, busy
/// with the very call that we are answering, not at all.
const DEFINITION_DEADLINE: Duration = Duration::from_secs(2);

/// Why a call to the driver failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The domain refused.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A field of the request is not what it should be.
    #[error("{field}: {source}")]
    Field {
        /// Its name in the request.
        field: &'static str,
        /// What was expected and what came.
        source: ParseError,
    },
    /// The network is not known, and its definition cannot be learned.
    #[error(
        "network {network} is not known on this host, and asking for its definition failed: \
         {source}; remove and create the network anew if this persists"
    )]
    Definition {
        /// Which network.
        network: NetworkId,
        /// What Docker's API said.
        source: EngineError,
    },
}

/// The network driver; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Driver {
    networks: Networks,
    engine: Engine,
}

impl Driver {
    /// The driver of these networks; the Engine is asked for definitions that got lost.
    pub fn new(networks: Networks, engine: Engine) -> Self {
        Self {
            networks,
            engine: engine.with_deadline(DEFINITION_DEADLINE),
        }
    }

    /// `AllocateNetwork`, on the swarm manager: checks the options while somebody is there to
    /// read the error, and chooses the VNI.
    pub async fn allocate_network(
        &self,
        request: wire::AllocateNetwork,
    ) -> Result<wire::AllocatedNetwork, DriverError> {
        let id = network_spec::network_id(&request.network_id)?;
        let given = network_spec::texts(request.options.iter().map(|(k, v)| (k.as_str(), v)));
        network_spec::parse_options(&given)?;
        let chosen = self.networks.allocate(id, given.clone()).await?;
        // The nodes are told what is answered here and nothing of what the user asked for.
        let mut options = given;
        options.extend(chosen);
        Ok(wire::AllocatedNetwork { options })
    }

    /// `FreeNetwork`, on the swarm manager.
    pub async fn free_network(
        &self,
        request: wire::NetworkRequest,
    ) -> Result<wire::Empty, DriverError> {
        let id = network_spec::network_id(&request.network_id)?;
        gone_is_fine(self.networks.free(id).await)
    }

    /// `CreateNetwork`.
    pub async fn create_network(
        &self,
        request: wire::CreateNetwork,
    ) -> Result<wire::Empty, DriverError> {
        let spec = network_spec::of_request(&request)?;
        self.networks.create(spec).await?;
        Ok(wire::Empty {})
    }

    /// `DeleteNetwork`.
    pub async fn delete_network(
        &self,
        request: wire::NetworkRequest,
    ) -> Result<wire::Empty, DriverError> {
        let id = network_spec::network_id(&request.network_id)?;
        gone_is_fine(self.networks.delete(id).await)
    }

    /// `CreateEndpoint`.
    pub async fn create_endpoint(
        &self,
        request: wire::CreateEndpoint,
    ) -> Result<wire::CreatedEndpoint, DriverError> {
        let spec = endpoint_spec(&request)?;
        let mac = match self.networks.create_endpoint(spec.clone()).await {
            Err(NetworkError::UnknownNetwork(id)) => {
                self.recover(id).await?;
                self.networks.create_endpoint(spec).await?
            }
            result => result?,
        };
        let chosen_here = request.interface.mac_address.is_empty();
        Ok(wire::CreatedEndpoint {
            interface: chosen_here.then(|| wire::EndpointInterface {
                mac_address: mac.to_string(),
                ..Default::default()
            }),
        })
    }

    /// `EndpointOperInfo`.
    pub async fn endpoint_info(
        &self,
        request: wire::EndpointRequest,
    ) -> Result<wire::EndpointInfo, DriverError> {
        let (_, endpoint) = ids(&request.network_id, &request.endpoint_id)?;
        let value = self.networks.describe(endpoint).await?;
        Ok(wire::EndpointInfo { value })
    }

    /// `DeleteEndpoint`.
    pub async fn delete_endpoint(
        &self,
        request: wire::EndpointRequest,
    ) -> Result<wire::Empty, DriverError> {
        let (_, endpoint) = ids(&request.network_id, &request.endpoint_id)?;
        gone_is_fine(self.networks.delete_endpoint(endpoint).await)
    }

    /// `Join`.
    pub async fn join(&self, request: wire::Join) -> Result<wire::Joined, DriverError> {
        let (network, endpoint) = ids(&request.network_id, &request.endpoint_id)?;
        let sandbox = Some(request.sandbox_key)
            .filter(|key| !key.is_empty())
            .map(PathBuf::from);
        let join = || {
            let (network, endpoint) = (network.clone(), endpoint.clone());
            self.networks.join(network, endpoint, sandbox.clone())
        };
        let attachment = match join().await {
            Err(NetworkError::UnknownNetwork(id)) => {
                self.recover(id).await?;
                join().await?
            }
            result => result?,
        };
        Ok(joined(attachment))
    }

    /// `Leave`.
    pub async fn leave(&self, request: wire::EndpointRequest) -> Result<wire::Empty, DriverError> {
        let (_, endpoint) = ids(&request.network_id, &request.endpoint_id)?;
        gone_is_fine(self.networks.leave(endpoint).await)
    }

    /// Creates a network again that the Engine knows and this daemon has lost.
    async fn recover(&self, id: NetworkId) -> Result<(), DriverError> {
        let definition = self.engine.network(&id).await.map_err(|source| {
            let network = id.clone();
            DriverError::Definition { network, source }
        })?;
        let spec = network_spec::of_definition(&definition)?;
        tracing::warn!(network = %id, "network was not known; took its definition from docker");
        self.networks.create(spec).await?;
        Ok(())
    }
}

fn endpoint_spec(request: &wire::CreateEndpoint) -> Result<EndpointSpec, DriverError> {
    let (network, endpoint) = ids(&request.network_id, &request.endpoint_id)?;
    let interface = &request.interface;
    let ipv4 = address("Address", &interface.address, |ip| ip.is_ipv4())?;
    let ipv6 = address("AddressIPv6", &interface.address_ipv6, |ip| ip.is_ipv6())?;
    let mac = match interface.mac_address.as_str() {
        "" => mac_option(request.options.get(MAC_OPTION))?,
        text => Some(text.parse().map_err(in_field("MacAddress"))?),
    };
    if let Some(mac) = mac.filter(|mac| !mac.is_unicast()) {
        let source = ParseError::new("a unicast Ethernet address", mac.to_string());
        return Err(in_field("MacAddress")(source));
    }
    Ok(EndpointSpec {
        network,
        endpoint,
        ipv4,
        ipv6,
        mac,
        wants_multicast: network_spec::multicast(request.options.get(MULTICAST_OPTION))?,
    })
}

fn ids(network: &str, endpoint: &str) -> Result<(NetworkId, EndpointId), DriverError> {
    let network = network.parse().map_err(in_field("NetworkID"))?;
    let endpoint = endpoint.parse().map_err(in_field("EndpointID"))?;
    Ok((network, endpoint))
}

fn address(
    field: &'static str,
    text: &str,
    family: impl Fn(IpAddr) -> bool,
) -> Result<Option<IpNet>, DriverError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<IpNet>()
        .ok()
        .filter(|net| family(net.addr()))
        .map(Some)
        .ok_or_else(|| in_field(field)(ParseError::new("an address like 10.32.0.5/16", text)))
}

fn mac_option(option: Option<&Value>) -> Result<Option<Mac>, DriverError> {
    let Some(text) = option.and_then(Value::as_str).filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    base64::prelude::BASE64_STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(|bytes| Some(Mac::new(bytes)))
        .ok_or_else(|| in_field(MAC_OPTION)(ParseError::new("six bytes in base64", text)))
}

fn in_field(field: &'static str) -> impl FnOnce(ParseError) -> DriverError {
    move |source| DriverError::Field { field, source }
}

fn joined(attachment: Attachment) -> wire::Joined {
    wire::Joined {
        interface_name: wire::InterfaceName {
            src_name: attachment.interface,
            dst_prefix: INTERFACE_PREFIX,
        },
        static_routes: attachment
            .connected_routes
            .iter()
            .map(|destination| wire::StaticRoute {
                destination: destination.to_string(),
                route_type: CONNECTED,
                next_hop: "",
            })
            .collect(),
    }
}

fn gone_is_fine(result: Result<(), NetworkError>) -> Result<wire::Empty, DriverError> {
    match result {
        Ok(()) | Err(NetworkError::UnknownNetwork(_) | NetworkError::UnknownEndpoint(_)) => {
            Ok(wire::Empty {})
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;
    use crate::docker::replay::twins::NetworksTwin;

    fn driver(engine: Engine) -> (Driver, NetworksTwin) {
        let (networks, twin) = NetworksTwin::start();
        (Driver::new(networks, engine), twin)
    }

    fn no_engine() -> Engine {
        Engine::new("/nonexistent/docker.sock")
    }

    fn parse<T: serde::de::DeserializeOwned + Default>(json: Value) -> T {
        wire::parse(json.to_string().as_bytes()).unwrap()
    }

    fn endpoint(mac: &str, options: Value) -> wire::CreateEndpoint {
        parse(serde_json::json!({
            "NetworkID": "n1", "EndpointID": "e1", "Options": options,
            "Interface": {"Address": "10.5.0.2/16", "AddressIPv6": "", "MacAddress": mac},
        }))
    }

    async fn create_network(driver: &Driver) {
        let request = parse(serde_json::json!({
            "NetworkID": "n1", "IPv4Data": [{"Pool": "10.5.0.0/16"}]
        }));
        driver.create_network(request).await.unwrap();
    }

    #[test]
    fn an_endpoint_may_have_multicast_as_its_network_has_not() {
        let multicast = |options| Some(endpoint_spec(&endpoint("", options)).ok()?.wants_multicast);
        assert_eq!(multicast(Value::Null), Some(None));
        let said = |text: &str| multicast(serde_json::json!({ MULTICAST_OPTION: text }));
        assert_eq!(said("false"), Some(Some(false)));
        assert_eq!(said(""), Some(Some(true)));
        assert_eq!(said("perhaps"), None);
    }

    #[tokio::test]
    async fn only_an_address_that_docker_left_open_is_answered() {
        let (driver, _twin) = driver(no_engine());
        create_network(&driver).await;
        let given = endpoint("02:aa:bb:cc:dd:ee", Value::Null);
        assert_eq!(driver.create_endpoint(given).await.unwrap().interface, None);
        let open = driver.create_endpoint(endpoint("", Value::Null)).await;
        let interface = open.unwrap().interface.unwrap();
        assert_eq!(interface.mac_address, "02:77:0a:05:00:02");
        assert_eq!(
            (interface.address, interface.address_ipv6),
            Default::default()
        );
    }

    #[tokio::test]
    async fn a_mac_address_in_base64_is_obeyed() {
        let (driver, _twin) = driver(no_engine());
        create_network(&driver).await;
        let request = endpoint("", serde_json::json!({ MAC_OPTION: "Aqq7zN3u" }));
        let reply = driver.create_endpoint(request).await.unwrap();
        assert_eq!(reply.interface.unwrap().mac_address, "02:aa:bb:cc:dd:ee");
        for wrong in ["Aqq7zN0=", "?", "Aaq7zN3u"] {
            let request = endpoint("", serde_json::json!({ MAC_OPTION: wrong }));
            assert!(driver.create_endpoint(request).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_lost_network_is_learned_from_docker() {
        let fake = FakeEngine::start(
            Some("1.41"),
            [(
                "/networks/n1",
                r#"{"Id":"n1","IPAM":{"Config":[{"Subnet":"10.5.0.0/16"}]}}"#,
            )],
        );
        let (driver, _twin) = driver(fake.engine());
        driver
            .create_endpoint(endpoint("", Value::Null))
            .await
            .unwrap();
        let join = parse(serde_json::json!({"NetworkID": "n1", "EndpointID": "e1"}));
        let joined = driver.join(join).await.unwrap();
        assert_eq!(joined.interface_name.dst_prefix, "ethwe");
    }

    #[tokio::test]
    async fn a_network_that_nobody_knows_is_a_clear_error() {
        let (driver, _twin) = driver(no_engine());
        let error = driver
            .create_endpoint(endpoint("", Value::Null))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("network n1 is not known"), "{error}");
        assert!(error.contains("/nonexistent/docker.sock"), "{error}");
    }

    #[tokio::test]
    async fn removing_what_is_not_there_succeeds() {
        let (driver, _twin) = driver(no_engine());
        let request: wire::EndpointRequest =
            parse(serde_json::json!({"NetworkID": "n1", "EndpointID": "e1"}));
        driver.leave(request.clone()).await.unwrap();
        driver.delete_endpoint(request.clone()).await.unwrap();
        driver.endpoint_info(request).await.unwrap();
        let network: wire::NetworkRequest = parse(serde_json::json!({"NetworkID": "n1"}));
        driver.delete_network(network.clone()).await.unwrap();
        driver.free_network(network).await.unwrap();
    }

    #[tokio::test]
    async fn the_nodes_are_told_the_users_options_and_the_vni() {
        let (driver, _twin) = driver(no_engine());
        let request =
            |options: Value| parse(serde_json::json!({"NetworkID": "s1", "Options": options}));
        let first = driver
            .allocate_network(request(serde_json::json!({"foo": "bar"})))
            .await
            .unwrap();
        assert_eq!(first.options["foo"], "bar");
        assert!(first.options.contains_key(crate::network::VNI_OPTION));
        let again = serde_json::to_value(&first.options).unwrap();
        let again = driver.allocate_network(request(again)).await.unwrap();
        assert_eq!(again, first);
        let wrong = request(serde_json::json!({"works.weave.multicast": "perhaps"}));
        assert!(driver.allocate_network(wrong).await.is_err());
    }
}
