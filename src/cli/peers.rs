//! Commands that say where to connect to.

use clap::Args;

use super::client::{Client, ClientError};
use super::terminal;
use crate::config::PeerAddress;
use crate::control::socket;

#[derive(Debug, Args)]
pub(super) struct Connect {
    /// Connect to these hosts only, in place of all that were given before
    #[arg(long)]
    replace: bool,
    /// Other hosts: `host`, `host:port`, `address:port` or, of IPv6, `[address]:port`
    #[arg(value_name = "PEER", required_unless_present = "replace")]
    peers: Vec<PeerAddress>,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// Hosts as they were given
    #[arg(value_name = "PEER", required = true)]
    peers: Vec<PeerAddress>,
}

impl Connect {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let request = socket::Connect {
            peers: self.peers,
            replace: self.replace,
        };
        client.post("/connect", &request).await?;
        Ok(terminal::print(
            "see how it goes with: weave status connections\n",
        )?)
    }
}

impl Forget {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let request = socket::Forget { peers: self.peers };
        let unknown = client.post("/forget", &request).await?;
        // Earlier daemons do not tell.
        let unknown: Vec<PeerAddress> = serde_json::from_str(&unknown).unwrap_or_default();
        for peer in unknown {
            eprintln!(
                "weave: {peer} was named by no setting and by no command: `weave status targets` \
                 shows what is, and by whom"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Warnings;
    use crate::control::socket::tests::Fake;

    #[tokio::test]
    async fn commands_reach_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave/control.sock");
        let fake = Arc::new(Fake::default());
        tokio::spawn(socket::serve(
            path.clone(),
            fake.clone(),
            Warnings::default(),
        ));
        let client = Client::new(path);
        let peers: Vec<PeerAddress> = vec!["h1".parse().unwrap(), "[fd00::1]:7".parse().unwrap()];
        while let Err(error) = client.get("/healthz").await {
            assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
            tokio::task::yield_now().await;
        }
        let connect = Connect {
            replace: true,
            peers: peers.clone(),
        };
        connect.run(&client).await.unwrap();
        Forget { peers }.run(&client).await.unwrap();
        let asked = ["connect h1,[fd00::1]:7 true", "forget h1,[fd00::1]:7"];
        assert_eq!(*fake.asked.lock().unwrap(), asked);
        let error = client.post("/forget", &"nonsense").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("400 Bad Request: the request is not"),
            "{error}"
        );
    }
}
