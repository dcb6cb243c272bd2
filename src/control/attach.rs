//! What an operator may ask about attachments.

use serde::{Deserialize, Serialize};

use crate::network::AddressSpec;
use crate::types::DnsName;

/// What `POST /attachments` takes; it answers with an array of addresses with prefix lengths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AttachCommand {
    /// Give a running container an interface for each address.
    Attach {
        /// Its name or identifier.
        container: String,
        /// Which addresses; one of the default subnet if none is named.
        addresses: Vec<AddressSpec>,
        /// Whether multicast goes that way.
        multicast_route: bool,
        /// Whether the addresses are left out of what the container is called in weaveDNS.
        #[serde(default)]
        without_dns: bool,
    },
    /// Take interfaces from a container.
    Detach {
        /// Its name or identifier.
        container: String,
        /// Which addresses; all that were attached if none is named.
        addresses: Vec<AddressSpec>,
    },
    /// Give this host addresses.
    Expose {
        /// Which ones; one of the default subnet if none is named.
        addresses: Vec<AddressSpec>,
        /// Whether what passes between the subnet and the world gets this host's address.
        masquerade: bool,
        /// What they are called in weaveDNS, with or without the domain.
        #[serde(default)]
        name: Option<DnsName>,
    },
    /// Take addresses from this host.
    Hide {
        /// Which ones; all if none is named.
        addresses: Vec<AddressSpec>,
    },
}
