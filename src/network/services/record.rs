//! What managers tell of services, and nodes of the tasks that back them.

use std::net::Ipv4Addr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::mesh::form::{self, FormError};
use crate::mesh::{Key, Kind};
use crate::network::record::FORM;
use crate::types::{EndpointId, NetworkId};

/// Swarm's identifier of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId(pub String);

/// A service and its virtual addresses, as a manager knows them. Named after the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, for people.
    pub name: String,
    /// Its virtual address on each network.
    pub vips: Vec<(NetworkId, Ipv4Addr)>,
}

/// A task that runs, on one network. Named after its endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The service it belongs to.
    pub service: ServiceId,
    /// The network.
    pub network: NetworkId,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Whether it takes connections.
    pub state: TaskState,
}

/// Whether a running task takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It does.
    Ready,
    /// Its health check has not succeeded yet.
    Starting,
    /// Its health check fails.
    Unhealthy,
    /// It was told to stop.
    Stopping,
}

/// One life of a node's daemon, to be told from its other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life(pub(super) u64);

/// What a node tells of a task, and in which life. The mesh keeps what a node said in the life
/// before for a while; until it is said again, nobody knows whether the task still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) life: Life,
    pub(super) backend: Backend,
}

/// The name of the record by which a node says in which life it is.
pub(super) const LIFE: &str = "life";

/// The name of the record by which a manager says that it is one: what it says of services, and
/// what it leaves out, counts before what managers said that cannot be reached any more.
pub(super) const MANAGER: &str = "manager";

pub(super) fn manager_key() -> Key {
    Key::new(Kind::SERVICE, MANAGER)
}

impl Service {
    pub(super) fn key(id: &ServiceId) -> Key {
        Key::new(Kind::SERVICE, id.0.clone())
    }

    pub(super) fn encode(&self) -> Bytes {
        form::encode(FORM, self)
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, FormError> {
        form::decode(FORM, value)
    }
}

impl Backend {
    pub(super) fn key(endpoint: &EndpointId) -> Key {
        Key::new(Kind::BACKEND, endpoint.short().to_owned())
    }
}

impl Told {
    pub(super) fn encode(&self) -> Bytes {
        form::encode(FORM, self)
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, FormError> {
        form::decode(FORM, value)
    }
}

impl Life {
    pub(super) fn key() -> Key {
        Key::new(Kind::BACKEND, LIFE)
    }

    pub(super) fn encode(self) -> Bytes {
        form::encode(FORM, &self)
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, FormError> {
        form::decode(FORM, value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_survive_the_wire(
            name: String,
            network in "[a-z0-9]{25}",
            address: Ipv4Addr,
            state in proptest::sample::select(vec![TaskState::Ready, TaskState::Stopping]),
            life: u64,
        ) {
            let network: NetworkId = network.parse().unwrap();
            let service = Service { name: name.clone(), vips: vec![(network.clone(), address)] };
            prop_assert_eq!(Service::decode(&service.encode()), Ok(service));
            let backend = Backend { service: ServiceId(name), network, address, state };
            let told = Told { life: Life(life), backend };
            prop_assert_eq!(Told::decode(&told.encode()), Ok(told));
            prop_assert_eq!(Life::decode(&Life(life).encode()), Ok(Life(life)));
        }

        #[test]
        fn no_value_makes_decoding_panic(value: Vec<u8>) {
            let _ = Service::decode(&value);
            let _ = Told::decode(&value);
            let _ = Life::decode(&value);
        }
    }
}
