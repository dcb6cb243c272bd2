//! Leaving for good: addresses go to the others, and nothing of ours stays on the host.

use std::fs;
use std::io;
use std::time::Duration;

use clap::Args;

use super::client::{Client, ClientError};
use super::launch::{self, GRACE, LaunchError, NAME};
use super::terminal;
use crate::config::Paths;
use crate::control::{AddressCommand, AttachCommand};
use crate::datapath::NAMESPACE;
use crate::docker::engine::Engine;
use crate::docker::weave_network::{self, LEGACY_DRIVER};
use crate::linux::netns::NetNs;

/// How long the network `weave` may take to go.
const NETWORK_TRIES: u32 = 3;

#[derive(Debug, Args)]
pub(super) struct Reset {
    /// Also where the daemon does not run, or cannot hand its addresses over
    #[arg(long)]
    force: bool,
}

impl Reset {
    pub(super) async fn run(self, paths: &Paths, client: &Client) -> Result<(), LaunchError> {
        terminal::progress("handing this host's addresses over");
        let handed_over = client.post("/addresses", &AddressCommand::Reset).await;
        match handed_over {
            Ok(_) => {}
            Err(error) if self.force => eprintln!("weave: no addresses handed over: {error}"),
            Err(ClientError::NotRunning { .. }) => {
                return Err(LaunchError::Refused(
                    "the daemon is not running, so its addresses cannot be handed over to the \
                     other peers\n\
                     launch it first, or give them up with `weave reset --force` and free them \
                     with `weave rmpeer` on another host"
                        .to_owned(),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let engine = launch::engine(paths, client).await;
        let launched = engine.own_container(NAME).await?.is_some();
        if !launched && client.get("/healthz").await.is_ok() {
            return Ok(terminal::print(
                "the addresses were handed over; the daemon goes on, with its state\n\
                 to remove the plugin: docker plugin rm -f weaveworks/net-plugin\n\
                 to remove a service: systemctl disable --now weave, then weave reset --force\n",
            )?);
        }
        let addresses = Vec::new();
        let _ = client
            .post("/attachments", &AttachCommand::Hide { addresses })
            .await;
        if launched {
            terminal::progress("stopping the daemon");
            // Docker asks the daemon about its networks, so it goes last.
            remove_networks(&engine).await;
            engine.remove_container(NAME, GRACE).await?;
        }
        Ok(remove_state(paths)?)
    }
}

/// With their containers they stay; these are the operator's.
async fn remove_networks(engine: &Engine) {
    let all = engine.networks(LEGACY_DRIVER).await.unwrap_or_default();
    for network in all
        .iter()
        .filter(|network| weave_network::made_by_us(network))
    {
        remove_network(engine, &network.name).await;
    }
}

async fn remove_network(engine: &Engine, name: &str) {
    for left in (0..NETWORK_TRIES).rev() {
        match engine.remove_network(name).await {
            Ok(()) => return,
            Err(error) if error.is_not_found() => return,
            Err(error) if left == 0 => eprintln!("weave: the network `{name}` stays: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
        }
    }
}

fn remove_state(paths: &Paths) -> io::Result<()> {
    NetNs::forget(&paths.run(), NAMESPACE)?;
    for directory in [paths.state(), paths.run().join("weave")] {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let directory = directory.display();
                return Err(io::Error::other(format!(
                    "cannot remove {directory}: {error}"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}
