//! What the datapath's threads look things up in.
//!
//! A table is never changed: the control thread makes a new one, and each datapath thread takes
//! it up before its next batch. Looking something up takes no lock.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::seal::{ReceiveKey, SendKey};
use super::stats::PeerCounters;
use super::wire::{MAX_HOPS, OVERHEAD, RELAY_HEADER, RelayHeader};
use crate::linux::tap::Tap;
use crate::types::{Mac, PeerId, Vni};

/// A peer's place in [`Table::peers`].
pub(super) type Slot = usize;

/// Everything that a frame or a packet may need.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) segments: Vec<Segment>,
    pub(super) vnis: HashMap<u32, usize>,
    /// Where in `segments` a TAP's descriptor is.
    pub(super) taps: HashMap<RawFd, usize>,
    pub(super) peers: Vec<Option<PeerEntry>>,
    pub(super) slots: HashMap<PeerId, Slot>,
    pub(super) receive: HashMap<u32, ReceiveEntry>,
    /// From where packets to be passed on are taken.
    pub(super) sources: HashSet<SocketAddr>,
}

/// One segment on this host.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) vni: Vni,
    pub(super) tap: Arc<Tap>,
    pub(super) forwarding: Arc<Forwarding>,
}

/// Where a segment's frames go.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    pub(super) unicast: HashMap<Mac, Hop>,
    pub(super) flood: Vec<Slot>,
}

/// Where frames for one address go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// To a peer, through the tunnel.
    Peer(Slot),
    /// Not through the tunnel.
    Elsewhere,
}

/// One peer.
#[derive(Debug, Clone)]
pub(super) struct PeerEntry {
    pub(super) id: PeerId,
    pub(super) send: Option<Arc<SendKey>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) path: Option<Path>,
    /// Whether nothing has answered yet on any path.
    pub(super) down: bool,
    pub(super) counters: Arc<PeerCounters>,
}

/// How packets reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// Where datagrams go: to the peer, or to the next on the way to it.
    pub(super) to: SocketAddr,
    /// What precedes each packet, if another peer passes it on.
    pub(super) relay: Option<RelayHeader>,
    /// Bytes of UDP payload that get through.
    pub(super) mtu: u16,
    /// Whether it is known that no more do.
    pub(super) settled: bool,
}

impl Path {
    /// The way by another peer.
    pub(super) fn relayed(
        to: SocketAddr,
        from: PeerId,
        peer: PeerId,
        mtu: u16,
        settled: bool,
    ) -> Self {
        Self {
            to,
            relay: Some(RelayHeader {
                hops_left: MAX_HOPS,
                to: peer,
                from,
            }),
            mtu,
            settled,
        }
    }

    /// Bytes before the sealed packet.
    pub(super) fn prefix(&self) -> usize {
        self.relay.map_or(0, |_| RELAY_HEADER)
    }

    /// Bytes of frame that one packet takes.
    pub(super) fn capacity(&self) -> usize {
        usize::from(self.mtu).saturating_sub(self.prefix() + OVERHEAD)
    }
}

/// One key that packets may be opened with.
#[derive(Debug, Clone)]
pub(super) struct ReceiveEntry {
    pub(super) key: Arc<ReceiveKey>,
    pub(super) slot: Slot,
}

/// The latest table, for all threads.
#[derive(Debug, Default)]
pub(super) struct Shared {
    generation: AtomicU64,
    table: Mutex<Arc<Table>>,
}

impl Shared {
    /// Replaces the table.
    pub(super) fn publish(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The latest table.
    pub(super) fn latest(&self) -> Arc<Table> {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One thread's view of the table.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    generation: u64,
    table: Arc<Table>,
}

impl Reader {
    /// A view of what is there.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            generation: u64::MAX,
            table: shared.latest(),
            shared,
        }
    }

    /// Takes up the latest table; returns whether it is another.
    pub(super) fn refresh(&mut self) -> bool {
        if self.is_latest() {
            return false;
        }
        self.generation = self.shared.generation.load(Ordering::Acquire);
        self.table = self.shared.latest();
        true
    }

    /// Whether there is no later table than the one taken up last.
    pub(super) fn is_latest(&self) -> bool {
        self.shared.generation.load(Ordering::Acquire) == self.generation
    }

    /// The table taken up last.
    pub(super) fn table(&self) -> Arc<Table> {
        self.table.clone()
    }
}
