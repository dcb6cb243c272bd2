//! What the mesh's own connections carry.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Bytes on all connections since the start, as they are on the wire.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

/// What the mesh's connections came to since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCounters {
    /// Sessions that came about.
    pub sessions: u64,
    /// Sessions that ended.
    pub terminations: u64,
    /// Bytes of messages sent, without TCP's own.
    pub sent_bytes: u64,
    /// Bytes of messages received, without TCP's own.
    pub received_bytes: u64,
}

impl Traffic {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds the bytes to what else is counted.
    pub(super) fn complete(&self, counters: MeshCounters) -> MeshCounters {
        MeshCounters {
            sent_bytes: self.sent.load(Ordering::Relaxed),
            received_bytes: self.received.load(Ordering::Relaxed),
            ..counters
        }
    }
}
