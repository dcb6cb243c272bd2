//! Commands about addresses.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::client::{Client, ClientError};
use super::terminal;
use crate::control::AddressCommand;

#[derive(Debug, Args)]
pub(super) struct RemovePeer {
    /// Its nickname or identifier, as `weave status ipam` shows it
    peer: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ipam {
    /// Allocate an address; the one the container has, if it has one there
    Allocate {
        /// The container's identifier
        container: String,
        /// From this subnet in place of the default one
        subnet: Option<IpNet>,
    },
    /// Note that a container has an address
    Claim {
        /// The container's identifier
        container: String,
        /// The address with its subnet's prefix length, like 10.32.0.5/12
        address: IpNet,
    },
    /// Show the addresses of a container
    Lookup {
        /// The container's identifier
        container: String,
    },
    /// Release one address of a container, or all
    Release {
        /// The container's identifier
        container: String,
        /// Which one
        address: Option<IpAddr>,
    },
}

impl RemovePeer {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let peer = self.peer;
        post(client, AddressCommand::Remove { peer })
            .await
            .map(drop)
    }
}

impl Ipam {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let command = match self {
            Self::Allocate { container, subnet } => AddressCommand::Allocate { container, subnet },
            Self::Claim { container, address } => AddressCommand::Claim { container, address },
            Self::Lookup { container } => AddressCommand::Lookup { container },
            Self::Release { container, address } => AddressCommand::Release { container, address },
        };
        let addresses = post(client, command).await?;
        let lines: String = addresses.iter().map(|a| format!("{a}\n")).collect();
        Ok(terminal::print(&lines)?)
    }
}

/// Waits until addresses can be handed out.
pub(super) async fn prime(client: &Client) -> Result<(), ClientError> {
    post(client, AddressCommand::Prime).await.map(drop)
}

/// Hands this host's addresses over.
pub(super) async fn reset(client: &Client) -> Result<(), ClientError> {
    post(client, AddressCommand::Reset).await.map(drop)
}

async fn post(client: &Client, command: AddressCommand) -> Result<Vec<IpNet>, ClientError> {
    let answer = client.post("/addresses", &command).await?;
    Ok(serde_json::from_str(&answer).map_err(std::io::Error::from)?)
}
