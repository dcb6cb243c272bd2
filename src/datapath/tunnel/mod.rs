//! The tunnel: container traffic between two hosts, encrypted and authenticated, over UDP.
//!
//! Each segment has a TAP in its bridge. One thread reads frames and super-frames from the TAPs,
//! cuts, seals and sends them; one receives, opens, puts together and writes, and sends what the
//! containers answer at once; one does all that is not per packet. Keys are agreed on through the
//! mesh, end to end, so that a peer which passes packets on for others cannot read them. [`wire`]
//! says what travels and what a listener can see.
//!
//! The pure parts are [`session`], [`handshake`], [`probe`], [`segment`], [`coalesce`],
//! [`fragment`], [`replay`], [`too_big`] and [`wire`]; the threads are in `sender`,
//! `receiver` (with `answers`) and `control`, what the first two share in `forwarder`, `outbox` and
//! `watch`.

mod answers;
pub mod cipher;
pub mod coalesce;
mod control;
mod forwarder;
pub mod fragment;
pub mod frame;
pub mod handshake;
mod outbox;
pub mod probe;
mod receiver;
pub mod replay;
pub mod seal;
pub mod segment;
mod sender;
pub mod session;
pub mod stats;
mod table;
pub mod too_big;
mod watch;
pub mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender as Queue, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use thiserror::Error;

use self::answers::Answers;
use self::cipher::Cipher;
use self::control::{Command, Control, Events, Input};
use self::forwarder::{Forwarder, SharedForwarder};
use self::handshake::Identity;
use self::probe::Prober;
use self::seal::RawKey;
use self::session::{SessionCounts, Sessions};
use self::stats::{DropReason, Drops, TrafficSnapshot};
use self::table::{Path, Reader, Shared};
use self::watch::Watch;
use crate::datapath::Forwarding;
use crate::linux::tap::{Tap, TapOffloads};
use crate::linux::udp::UdpSocket;
use crate::types::{PeerId, SegmentId, Vni};

/// The tunnel's UDP port, that of Weave Net's encrypted traffic.
pub const PORT: u16 = 6783;
/// How long an answer of the control thread may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the tunnel has to know from the start.
pub struct TunnelConfig {
    /// This peer.
    pub peer: PeerId,
    /// The X25519 key that its name is made from.
    pub static_key: RawKey,
    /// The key made from the mesh's password, if there is one.
    pub password_key: Option<RawKey>,
    /// The address to listen on, of this host's; all without it.
    pub address: Option<IpAddr>,
    /// The UDP port to listen on.
    pub port: u16,
    /// True randomness.
    pub seed: [u8; 32],
}

/// Why there is no tunnel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The UDP port cannot be used.
    #[error("cannot listen on UDP port {port}: {source}; is another program using it?")]
    Listen {
        /// Which port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start the tunnel's threads: {0}")]
    Thread(#[source] io::Error),
    /// The control thread does not answer.
    #[error("the tunnel's control thread does not answer within {PATIENCE:?}")]
    Stuck,
}

/// How a peer can be reached, as far as the mesh knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerRoute {
    /// Its address on the underlay. What its packets show is believed more than this.
    pub endpoint: Option<SocketAddr>,
    /// The next peer on the way to it, used while it does not answer itself. That peer must be
    /// set too, with an endpoint.
    pub relay: Option<PeerId>,
}

/// How packets reach a peer at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// It answers no probe.
    Down,
    /// Directly.
    Direct {
        /// Where it is.
        to: SocketAddr,
        /// The largest IP packet of a container that needs no fragmenting.
        mtu: u16,
        /// Whether the search for a larger one has ended.
        settled: bool,
    },
    /// By way of another peer.
    Relayed {
        /// The next peer on the way.
        via: PeerId,
        /// As in `Direct`.
        mtu: u16,
        /// As in `Direct`.
        settled: bool,
    },
}

impl PathState {
    fn direct(to: SocketAddr, path: &Path, prober: &Prober) -> Self {
        Self::Direct {
            to,
            mtu: inner_mtu(path),
            settled: prober.settled(),
        }
    }

    fn relayed(via: PeerId, path: &Path, prober: &Prober) -> Self {
        Self::Relayed {
            via,
            mtu: inner_mtu(path),
            settled: prober.settled(),
        }
    }

    /// The largest IP packet of a container that needs no fragmenting, if the peer is reached.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::Down => None,
            Self::Direct { mtu, .. } | Self::Relayed { mtu, .. } => Some(*mtu),
        }
    }
}

/// What the tunnel tells the daemon, from its control thread: whoever is told must not wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A message of kind [`TUNNEL`](crate::mesh::Kind::TUNNEL) for a peer, to be carried by the
    /// mesh, best-effort.
    Message(PeerId, Bytes),
    /// How a peer is reached changed.
    Path(PeerId, PathState),
    /// Another peer wants packets passed on to this one, which was not set. May come many times.
    Unrouted(PeerId),
}

/// One peer as the tunnel sees it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Which peer.
    pub peer: PeerId,
    /// Where it was told or seen to be.
    pub endpoint: Option<SocketAddr>,
    /// How packets reach it.
    pub path: PathState,
    /// How they are sealed, once keys are agreed on.
    pub cipher: Option<Cipher>,
    /// How long the keys have been in use.
    pub key_age: Option<Duration>,
    /// Handshakes so far.
    pub sessions: SessionCounts,
    /// What was sent to it.
    pub sent: TrafficSnapshot,
    /// What it sent.
    pub received: TrafficSnapshot,
    /// What was passed on to it for others.
    pub relayed: TrafficSnapshot,
    /// What was dropped, and why.
    pub drops: Vec<(DropReason, u64)>,
}

/// One segment as the tunnel sees it.
#[derive(Debug, Clone)]
pub struct SegmentStatus {
    /// Which segment.
    pub segment: SegmentId,
    /// Its number on the wire.
    pub vni: Vni,
    /// Its TAP.
    pub device: String,
    /// The offloads that the kernel gave.
    pub offloads: TapOffloads,
}

/// What the tunnel says of itself.
#[derive(Debug, Clone)]
pub struct TunnelStatus {
    /// Where it listens.
    pub listening: Option<SocketAddr>,
    /// Whether datagrams are sent many at once (`UDP_SEGMENT`).
    pub segmentation: bool,
    /// Whether they are received many at once (`UDP_GRO`).
    pub aggregation: bool,
    /// All peers.
    pub peers: Vec<PeerStatus>,
    /// All segments.
    pub segments: Vec<SegmentStatus>,
    /// What was dropped and belongs to no peer, and why.
    pub drops: Vec<(DropReason, u64)>,
    /// Threads that ended though nobody told them to: the tunnel must be started again.
    pub dead: Vec<String>,
}

/// What a thread of the datapath is told by the others.
struct Signals {
    /// There is a new table, or the end has come.
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
}

/// The running tunnel; it stops when dropped.
pub struct Tunnel {
    inputs: Queue<Input>,
    socket: Arc<UdpSocket>,
    drops: Arc<Drops>,
    stop: Arc<AtomicBool>,
    wake: Vec<Arc<EventFd>>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Listens and starts the threads. Must be called in the host's network namespace.
    ///
    /// # Errors
    /// When the port is taken, or the kernel gives no threads.
    pub fn start(
        config: TunnelConfig,
        output: impl Fn(Output) + Send + 'static,
    ) -> Result<Self, TunnelError> {
        let socket = UdpSocket::bind(config.address, config.port).map_err(|source| {
            let port = config.port;
            TunnelError::Listen { port, source }
        })?;
        let socket = Arc::new(socket);
        let new_wake = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let wake: Result<Vec<_>, _> = (0..2).map(|_| new_wake().map(Arc::new)).collect();
        let wake = wake.map_err(|errno| TunnelError::Thread(errno.into()))?;
        let (inputs, queue) = channel();
        let events = Events {
            inputs: inputs.clone(),
            waiting: Arc::default(),
        };
        let mut tunnel = Self {
            inputs,
            socket: socket.clone(),
            drops: Arc::default(),
            stop: Arc::default(),
            wake: wake.clone(),
            threads: Vec::new(),
        };
        let shared = Arc::new(Shared::default());
        let me = config.peer;
        let identity = Identity {
            static_key: config.static_key,
            password_key: config.password_key,
            peer: me,
            cipher: Cipher::preferred(),
        };
        let control = Control {
            me,
            sessions: Sessions::new(identity, ChaCha20Rng::from_seed(config.seed)),
            socket: socket.clone(),
            shared: shared.clone(),
            output: Box::new(output),
            wake: wake.clone(),
            peers: BTreeMap::new(),
            segments: BTreeMap::new(),
            receive: BTreeMap::new(),
            waiting: events.waiting.clone(),
            probers: 0,
            dirty: false,
        };
        let signals = |wake: &Arc<EventFd>| Signals {
            wake: wake.clone(),
            stop: tunnel.stop.clone(),
        };
        let watch = Watch::new(&*wake[0]).map_err(TunnelError::Thread)?;
        let forwarder = SharedForwarder::new(Forwarder::new(socket.clone(), events.clone()), watch);
        let sender = sender::Sender::new(
            Reader::new(shared.clone()),
            forwarder.clone(),
            signals(&wake[0]),
        );
        let receiver = receiver::Receiver::new(
            me,
            Reader::new(shared),
            socket,
            Answers::new(forwarder),
            events,
            tunnel.drops.clone(),
            signals(&wake[1]),
        );
        tunnel.spawn("weave-control", move || {
            control.run(&queue);
            Ok(())
        })?;
        tunnel.spawn("weave-send", move || sender.run())?;
        tunnel.spawn("weave-receive", move || receiver.run())?;
        Ok(tunnel)
    }

    /// Takes part in a segment, whose bridge has this TAP as a port.
    pub fn add_segment(&self, segment: SegmentId, vni: Vni, tap: impl Into<Arc<Tap>>) {
        self.command(Command::AddSegment(segment, vni, tap.into()));
    }

    /// Takes part no more. The device stays unless [`Tap::forget`] was called.
    pub fn remove_segment(&self, segment: &SegmentId) {
        self.command(Command::RemoveSegment(segment.clone()));
    }

    /// Makes the forwarding of a segment exactly this. What goes by VXLAN is left alone.
    pub fn set_forwarding(&self, segment: &SegmentId, forwarding: &Forwarding) {
        self.command(Command::SetForwarding(segment.clone(), forwarding.clone()));
    }

    /// Sees to it that there are keys with this peer and that its paths are probed. To be called
    /// again whenever the mesh reports the peer reachable.
    pub fn set_peer(&self, peer: PeerId, route: PeerRoute) {
        self.command(Command::SetPeer(peer, route));
    }

    /// Forgets a peer, and all keys with it.
    pub fn remove_peer(&self, peer: PeerId) {
        self.command(Command::RemovePeer(peer));
    }

    /// Takes a message of kind [`TUNNEL`](crate::mesh::Kind::TUNNEL) from a peer.
    pub fn handle_mesh_message(&self, from: PeerId, payload: Bytes) {
        self.command(Command::Message(from, payload));
    }

    /// The largest IP packet of a container that reaches this peer unfragmented, if it is
    /// reached at all.
    ///
    /// # Errors
    /// When the control thread does not answer.
    pub fn path_mtu(&self, peer: PeerId) -> Result<Option<u16>, TunnelError> {
        let peers = self.ask()?.0;
        let status = peers.into_iter().find(|status| status.peer == peer);
        Ok(status.and_then(|status| status.path.mtu()))
    }

    /// What there is to say.
    ///
    /// # Errors
    /// When the control thread does not answer.
    pub fn status(&self) -> Result<TunnelStatus, TunnelError> {
        let (peers, segments) = self.ask()?;
        Ok(TunnelStatus {
            listening: self.socket.local_addr().ok(),
            segmentation: self.socket.segmentation(),
            aggregation: self.socket.aggregation(),
            peers,
            segments,
            drops: self.drops.snapshot(),
            dead: self.dead(),
        })
    }

    /// Names of threads that ended though nobody told them to.
    pub fn dead(&self) -> Vec<String> {
        let dead = self.threads.iter().filter(|thread| thread.is_finished());
        dead.filter_map(|thread| Some(thread.thread().name()?.to_owned()))
            .collect()
    }

    fn ask(&self) -> Result<(Vec<PeerStatus>, Vec<SegmentStatus>), TunnelError> {
        let (reply, answer) = sync_channel(1);
        self.command(Command::Status(reply));
        answer
            .recv_timeout(PATIENCE)
            .map_err(|_| TunnelError::Stuck)
    }

    fn command(&self, command: Command) {
        // The control thread ends only when told to, after the last command.
        let _ = self.inputs.send(Input::Command(command));
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), TunnelError> {
        let name = name.to_owned();
        let run = {
            let name = name.clone();
            move || {
                if let Err(error) = work() {
                    tracing::error!(thread = name, %error, "a thread of the tunnel ended");
                }
            }
        };
        let thread = thread::Builder::new().name(name).spawn(run);
        self.threads.push(thread.map_err(TunnelError::Thread)?);
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.command(Command::Stop);
        for wake in &self.wake {
            let _ = wake.write(1);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The largest IP packet in a frame without VLAN tag that one packet takes.
fn inner_mtu(path: &Path) -> u16 {
    u16::try_from(path.capacity().saturating_sub(frame::ETHERNET)).unwrap_or(u16::MAX)
}

/// How many fragments a frame makes; `None` when there would be too many, or no room at all.
fn fragment_count(len: usize, capacity: usize) -> Option<u8> {
    if capacity == 0 {
        return None;
    }
    u8::try_from(len.div_ceil(capacity)).ok()
}
