//! Commands about addresses.

use clap::Args;
use ipnet::IpNet;

use super::client::{Client, ClientError};
use super::terminal;
use crate::control::AddressCommand;

#[derive(Debug, Args)]
pub(super) struct RemovePeer {
    /// Its nickname or identifier, as `weave status ipam` shows it
    peer: String,
}

#[derive(Debug, Args)]
pub(super) struct Ipam {
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AddressCommand,
}

impl RemovePeer {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let peer = self.peer;
        terminal::progress("taking its addresses over");
        post(client, AddressCommand::Remove { peer })
            .await
            .map(drop)
    }
}

impl Ipam {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let addresses = post(client, self.command).await?;
        if self.json {
            let text = serde_json::to_string(&addresses).map_err(std::io::Error::from)?;
            return Ok(terminal::print(&(text + "\n"))?);
        }
        let lines: String = addresses.iter().map(|a| format!("{a}\n")).collect();
        Ok(terminal::print(&lines)?)
    }
}

/// Waits until addresses can be handed out.
pub(super) async fn prime(client: &Client) -> Result<(), ClientError> {
    terminal::progress("waiting until addresses can be handed out");
    post(client, AddressCommand::Prime).await.map(drop)
}

async fn post(client: &Client, command: AddressCommand) -> Result<Vec<IpNet>, ClientError> {
    let answer = client.post("/addresses", &command).await?;
    Ok(serde_json::from_str(&answer).map_err(std::io::Error::from)?)
}
