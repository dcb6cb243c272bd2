//! The mesh as the floors above hold it.

use std::net::IpAddr;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::{PublishError, SendError};
use super::credentials::TunnelKeys;
use super::message::{MAX_KEY_ID, MAX_VALUE};
use super::shell;
use super::{Key, Kind, MeshEvent, MeshStatus};
use crate::store::Store;
use crate::types::{PeerId, Secret};

/// The TCP port of the mesh: that of Weave Net's control connections.
pub const DEFAULT_PORT: u16 = 6783;

/// Most sessions of one peer: Weave Net's `--conn-limit`.
pub const DEFAULT_CONN_LIMIT: usize = 100;

/// What the mesh is told at its start.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// What this peer calls itself, at most 255 bytes.
    pub nickname: String,
    /// The version of the daemon, at most 255 bytes.
    pub version: String,
    /// The address to listen on; all when there is none.
    pub bind: Option<IpAddr>,
    /// The addresses at which others can reach this peer. When there are none: the one it
    /// listens on, else those of its sessions and of its default routes.
    pub advertise: Vec<IpAddr>,
    /// The TCP port to listen on, which targets have that name no other. With 0 the system
    /// chooses one.
    pub port: u16,
    /// What all peers of the mesh prove to each other.
    pub password: Option<Secret>,
    /// Whether peers learned of from others are dialled.
    pub discovery: bool,
    /// Most sessions at a time.
    pub conn_limit: usize,
    /// Where to connect to, by source (`settings`, ...).
    pub targets: Vec<(String, Vec<String>)>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            nickname: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bind: None,
            advertise: Vec::new(),
            port: DEFAULT_PORT,
            password: None,
            discovery: true,
            conn_limit: DEFAULT_CONN_LIMIT,
            targets: Vec::new(),
        }
    }
}

/// What the handle asks of the task that runs the mesh.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Key, Option<Bytes>),
    Send(PeerId, Kind, Bytes),
    Targets(String, Vec<String>),
    Forget(PeerId),
    Subscribe(mpsc::UnboundedSender<MeshEvent>),
    Status(oneshot::Sender<MeshStatus>),
    TunnelKeys(oneshot::Sender<TunnelKeys>),
    Stop(oneshot::Sender<()>),
}

/// A running mesh. Clones are handles to the same one, which runs until it is stopped or the last
/// of them is dropped.
#[derive(Debug, Clone)]
pub struct Mesh {
    commands: mpsc::UnboundedSender<Command>,
    id: watch::Receiver<PeerId>,
}

impl Mesh {
    /// Starts the mesh. What does not work (the port, the disk, a name) is in the status, and
    /// tried again; there is always a mesh.
    pub async fn start(config: MeshConfig, store: Option<Store>) -> Self {
        let (commands, queue) = mpsc::unbounded_channel();
        let id = shell::start(config, store, queue).await;
        Self { commands, id }
    }

    /// This peer. Changes only when another machine turns up that has the same key.
    pub fn id(&self) -> PeerId {
        *self.id.borrow()
    }

    /// Waits until this peer has another name than this, and returns it: another machine had the same
    /// identity. For ever, if that never happens.
    pub async fn another_id(&self, than: PeerId) -> PeerId {
        let mut id = self.id.clone();
        let changed = id.wait_for(|id| *id != than).await.map(|id| *id);
        match changed {
            Ok(id) => id,
            Err(_) => std::future::pending().await,
        }
    }

    /// Sets a record of this peer, or removes it with `None`. Every peer gets it, at once or when
    /// it can be reached again.
    ///
    /// # Errors
    ///
    /// A name or value that is too long; nothing is changed then.
    pub fn publish(&self, key: Key, value: Option<Bytes>) -> Result<(), PublishError> {
        if key.id.len() > MAX_KEY_ID {
            return Err(PublishError::NameTooLong(key.id.len()));
        }
        match &value {
            Some(value) if value.len() > MAX_VALUE => Err(PublishError::ValueTooLong(value.len())),
            _ => {
                self.command(Command::Publish(key, value));
                Ok(())
            }
        }
    }

    /// Sends a message to one peer, through others if need be. It may get lost.
    ///
    /// # Errors
    ///
    /// A payload that is too long.
    pub fn send(&self, to: PeerId, kind: Kind, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > MAX_VALUE {
            return Err(SendError::TooLong(payload.len()));
        }
        self.command(Command::Send(to, kind, payload));
        Ok(())
    }

    /// Replaces what this source (`settings`, `swarm`, `discover`, `command`, ...) says where to
    /// connect to, each as `host[:port]`. The union over all sources is dialled.
    pub fn set_targets(&self, source: impl Into<String>, targets: Vec<String>) {
        self.command(Command::Targets(source.into(), targets));
    }

    /// The peer is gone for good, everywhere. Should it live after all, it is welcome again.
    pub fn forget(&self, peer: PeerId) {
        self.command(Command::Forget(peer));
    }

    /// What happens from now on. What is known already comes first: the records of all other
    /// peers, and which of them can be reached.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<MeshEvent> {
        let (events, subscription) = mpsc::unbounded_channel();
        self.command(Command::Subscribe(events));
        subscription
    }

    /// The mesh for people; `None` once it has stopped.
    pub async fn status(&self) -> Option<MeshStatus> {
        let (reply, status) = oneshot::channel();
        self.command(Command::Status(reply));
        status.await.ok()
    }

    /// What the tunnel's handshakes need; `None` once the mesh has stopped. To be asked for again
    /// when [`id`](Self::id) changes.
    pub async fn tunnel_keys(&self) -> Option<TunnelKeys> {
        let (reply, keys) = oneshot::channel();
        self.command(Command::TunnelKeys(reply));
        keys.await.ok()
    }

    /// Says goodbye to all peers, writes what is to be kept, and ends the mesh. Returns when that
    /// is done, within two seconds.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.command(Command::Stop(reply));
        // No answer comes when it has stopped before.
        let _ = stopped.await;
    }

    /// Commands to a mesh that has stopped have no effect.
    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}
