//! The endpoint of one attachment: made, looked for, removed.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::place::Place;
use super::record::{Attachment, endpoint_of, network_of};
use super::{Shared, refused};
use crate::control::ControlError;
use crate::datapath::{Datapath, port_name};
use crate::network::{EndpointSpec, NetworkOptions, NetworkSpec, Pool};
use crate::types::EndpointId;

impl Shared {
    /// Makes the endpoint for an address, and the interface in its place.
    pub(super) async fn plug(
        &self,
        place: &Place,
        holder: &str,
        address: IpNet,
    ) -> Result<Attachment, ControlError> {
        let of_network = |error: crate::network::NetworkError| refused(error.to_string());
        let network = network_of(address).map_err(|error| refused(error.to_string()))?;
        let endpoint = endpoint_of(&place.container, address);
        let endpoint = endpoint.map_err(|error| refused(error.to_string()))?;
        let definition = NetworkSpec {
            id: network.clone(),
            pools: vec![Pool {
                subnet: address.trunc(),
                gateway: None,
            }],
            options: NetworkOptions {
                multicast: Some(true),
                ..NetworkOptions::default()
            },
        };
        self.networks.create(definition).await.map_err(of_network)?;
        let (ipv4, ipv6) = match address {
            IpNet::V4(_) => (Some(address), None),
            IpNet::V6(_) => (None, Some(address)),
        };
        let spec = EndpointSpec {
            network: network.clone(),
            endpoint: endpoint.clone(),
            ipv4,
            ipv6,
            mac: None,
            wants_multicast: None,
        };
        let mac = self
            .networks
            .create_endpoint(spec)
            .await
            .map_err(of_network)?;
        let plugged = async {
            let sandbox = place.sandbox.clone();
            let joined = self
                .networks
                .join(network.clone(), endpoint.clone(), sandbox);
            let joined = joined.await.map_err(of_network)?;
            place
                .settle(joined.interface, address, joined.connected_routes)
                .await
                .map_err(|error| refused(format!("cannot set the interface up: {error}")))
        };
        match plugged.await {
            Ok(interface) => Ok(Attachment {
                container: place.container.clone(),
                name: place.name.clone(),
                holder: holder.to_owned(),
                endpoint,
                network,
                interface,
                address,
                mac,
                masquerade: place.masquerade,
                attached: true,
                naming: place.naming.clone(),
            }),
            Err(error) => {
                let _ = self.networks.delete_endpoint(endpoint).await;
                Err(error)
            }
        }
    }

    /// Removes an attachment's endpoint, and its network if no other is left there.
    pub(super) async fn unplug(&self, attachment: &Attachment, left: &[Attachment]) {
        let _ = self.networks.leave(attachment.endpoint.clone()).await;
        let deleted = self.networks.delete_endpoint(attachment.endpoint.clone());
        let _ = deleted.await;
        let network = &attachment.network;
        if !left.iter().any(|a| a.attached && a.network == *network) {
            let _ = self.networks.delete(network.clone()).await;
        }
    }

    /// The bridge ports that exist; `None` where the kernel cannot be asked.
    pub(super) async fn ports(&self) -> Option<BTreeSet<String>> {
        let inventory = self.datapath.inventory().await.ok()?;
        Some(inventory.ports.into_keys().collect())
    }

    pub(super) async fn is_plugged(&self, endpoint: &EndpointId) -> bool {
        let ports = self.ports().await;
        ports.is_some_and(|ports| ports.contains(&port_name(endpoint)))
    }
}
