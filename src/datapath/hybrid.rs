//! The kernel's devices and the tunnel as one datapath.
//!
//! A segment has a TAP only once somebody on another host takes part in it: making a device takes
//! time, which a container's start should not have to wait for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::tunnel::{PeerRoute, Tunnel, TunnelError, TunnelStatus};
use super::{
    Datapath, DatapathError, Forwarding, Inventory, KernelDatapath, PortSpec, SegmentSpec, tap_name,
};
use crate::linux::netns::NetNs;
use crate::linux::tap::Tap;
use crate::types::{Mac, PeerId, SegmentId};

/// The kernel's datapath, to which a tunnel can be added at any time; cloning gives another
/// handle.
#[derive(Debug, Clone)]
pub struct HybridDatapath {
    kernel: KernelDatapath,
    side: Arc<Mutex<TunnelSide>>,
}

/// The running tunnel, and what the next one has to be told.
#[derive(Default)]
struct TunnelSide {
    tunnel: Option<Arc<Tunnel>>,
    /// By tag.
    segments: BTreeMap<u32, Held>,
    peers: BTreeMap<PeerId, PeerRoute>,
}

/// A segment whose frames travel through the tunnel.
struct Held {
    spec: SegmentSpec,
    /// Open for as long as the segment lives: the kernel allows nobody else to open it.
    tap: Option<Arc<Tap>>,
    forwarding: Forwarding,
}

impl HybridDatapath {
    /// A datapath that has no tunnel yet.
    pub fn new(kernel: KernelDatapath) -> Self {
        Self {
            kernel,
            side: Arc::default(),
        }
    }

    /// The kernel's part.
    pub fn kernel(&self) -> &KernelDatapath {
        &self.kernel
    }

    /// Gives segments and peers to a tunnel that has just been started.
    pub fn set_tunnel(&self, tunnel: Tunnel) {
        let mut side = self.side();
        for held in side.segments.values() {
            held.tell(&tunnel);
        }
        for (peer, route) in &side.peers {
            tunnel.set_peer(*peer, *route);
        }
        side.tunnel = Some(Arc::new(tunnel));
    }

    /// Ends the tunnel, if there is one: before another is started, which needs its port. Waits
    /// for its threads: not for the threads that run tasks.
    pub fn end_tunnel(&self) {
        let before = self.side().tunnel.take();
        drop(before);
    }

    /// Names of the tunnel's threads that ended though nobody told them to.
    pub fn dead_threads(&self) -> Vec<String> {
        let tunnel = self.side().tunnel.clone();
        tunnel.map(|tunnel| tunnel.dead()).unwrap_or_default()
    }

    /// Sees to it that the tunnel has keys for this peer and probes the ways to it. To be called
    /// again whenever the mesh reports the peer reachable.
    pub fn set_peer(&self, peer: PeerId, route: PeerRoute) {
        let mut side = self.side();
        side.peers.insert(peer, route);
        if let Some(tunnel) = &side.tunnel {
            tunnel.set_peer(peer, route);
        }
    }

    /// Forgets a peer that is gone for good.
    pub fn remove_peer(&self, peer: PeerId) {
        let mut side = self.side();
        side.peers.remove(&peer);
        if let Some(tunnel) = &side.tunnel {
            tunnel.remove_peer(peer);
        }
    }

    /// Takes a message of kind [`TUNNEL`](crate::mesh::Kind::TUNNEL) from a peer.
    pub fn handle_mesh_message(&self, from: PeerId, payload: Bytes) {
        if let Some(tunnel) = &self.side().tunnel {
            tunnel.handle_mesh_message(from, payload);
        }
    }

    /// What the tunnel says of itself; `None` when there is none. May take seconds: not for the
    /// threads that run tasks.
    ///
    /// # Errors
    /// When the tunnel does not answer.
    pub fn tunnel_status(&self) -> Option<Result<TunnelStatus, TunnelError>> {
        let tunnel = self.side().tunnel.clone();
        tunnel.map(|tunnel| tunnel.status())
    }

    fn side(&self) -> MutexGuard<'_, TunnelSide> {
        lock(&self.side)
    }

    /// Opens the segment's TAP, so that the kernel's part finds it, or lets go of it.
    async fn hold(&self, spec: SegmentSpec) -> Result<(), DatapathError> {
        let (namespace, side) = (self.kernel.namespace().clone(), Arc::clone(&self.side));
        let held = spawn_blocking(move || lock(&side).hold(&namespace, spec)).await;
        held.unwrap_or_else(|error| {
            Err(DatapathError::Step {
                step: "open a TAP".to_owned(),
                reason: error.to_string(),
            })
        })
    }
}

impl TunnelSide {
    fn hold(&mut self, namespace: &NetNs, spec: SegmentSpec) -> Result<(), DatapathError> {
        let tag = spec.id.tag();
        if !spec.tunnel {
            self.release(tag);
            return Ok(());
        }
        let (tap, forwarding) = match self.segments.remove(&tag) {
            Some(before) => (before.working_tap().cloned(), before.forwarding),
            None => (None, Forwarding::default()),
        };
        let opened = match tap {
            Some(tap) => Ok(Some(tap)),
            None if is_local(&forwarding) => Ok(None),
            None => {
                Tap::open(&tap_name(tag), Some(namespace.as_fd())).map(|tap| Some(Arc::new(tap)))
            }
        };
        let (tap, result) = match opened {
            Ok(tap) => (tap, Ok(())),
            Err(error) => {
                let what = "the tunnel";
                let reason = error.to_string();
                (None, Err(DatapathError::Unsupported { what, reason }))
            }
        };
        let held = Held {
            spec,
            tap,
            forwarding,
        };
        if let Some(tunnel) = &self.tunnel {
            held.tell(tunnel);
        }
        self.segments.insert(tag, held);
        result
    }

    fn release(&mut self, tag: u32) {
        if let Some(held) = self.segments.remove(&tag)
            && let Some(tunnel) = &self.tunnel
        {
            tunnel.remove_segment(&held.spec.id);
        }
    }

    /// Returns what the segment should be when it has no working TAP although it should.
    fn set_forwarding(&mut self, id: &SegmentId, forwarding: &Forwarding) -> Option<SegmentSpec> {
        let held = self.segments.get_mut(&id.tag())?;
        held.forwarding.clone_from(forwarding);
        if let Some(tunnel) = &self.tunnel {
            tunnel.set_forwarding(id, forwarding);
        }
        let missing = held.working_tap().is_none() && !is_local(forwarding);
        missing.then(|| held.spec.clone())
    }
}

impl Held {
    /// The TAP, unless somebody deleted its device.
    fn working_tap(&self) -> Option<&Arc<Tap>> {
        self.tap.as_ref().filter(|tap| tap.is_attached())
    }

    fn tell(&self, tunnel: &Tunnel) {
        let Some(tap) = &self.tap else {
            return;
        };
        tunnel.add_segment(self.spec.id.clone(), self.spec.vni, Arc::clone(tap));
        tunnel.set_forwarding(&self.spec.id, &self.forwarding);
    }
}

impl fmt::Debug for TunnelSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelSide")
            .field("segments", &self.segments.keys())
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Datapath for HybridDatapath {
    async fn inventory(&self) -> Result<Inventory, DatapathError> {
        self.kernel.inventory().await
    }

    async fn ensure_segment(&self, spec: &SegmentSpec) -> Result<(), DatapathError> {
        let held = self.hold(spec.clone()).await;
        self.kernel.ensure_segment(spec).await?;
        held
    }

    async fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        self.side().release(tag);
        self.kernel.remove_segment(tag).await
    }

    async fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> Result<(), DatapathError> {
        let incomplete = self.side().set_forwarding(segment, forwarding);
        self.kernel.set_forwarding(segment, forwarding).await?;
        match incomplete {
            Some(spec) => self.ensure_segment(&spec).await,
            None => Ok(()),
        }
    }

    async fn plug(&self, port: &PortSpec) -> Result<String, DatapathError> {
        self.kernel.plug(port).await
    }

    async fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        self.kernel.unplug(port).await
    }

    async fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        self.kernel.announce(segment, mac, addresses).await
    }
}

/// Whether nobody on another host takes part.
fn is_local(forwarding: &Forwarding) -> bool {
    forwarding.unicast.is_empty() && forwarding.flood.is_empty()
}

/// Every call leaves the lists consistent before it does anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
