//! What the tunnel counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why something was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum DropReason {
    /// No keys have been agreed on with the peer yet.
    NoSession,
    /// It is not known where the peer can be reached.
    NoPath,
    /// The frame cannot be cut into pieces that fit.
    TooLarge,
    /// A packet too large for its path was answered instead ("packet too big").
    Answered,
    /// The kernel did not take the datagram.
    SendFailed,
    /// A datagram that is not the tunnel's.
    Garbage,
    /// A packet for a key that is not known here, or not any more.
    UnknownKey,
    /// A packet that was seen before, or is too old to tell.
    Replayed,
    /// A packet that was not sealed by the peer, or changed on its way.
    Forged,
    /// A packet to be passed on, from an address that no peer has.
    RelayRefused,
    /// A packet to be passed on, to a peer that cannot be reached, or after too many hops.
    RelayFailed,
    /// A frame whose headers make no sense.
    Malformed,
    /// A frame of a segment that this host does not take part in.
    NoSegment,
    /// The device did not take the frame.
    DeviceFailed,
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::NoSession,
        Self::NoPath,
        Self::TooLarge,
        Self::Answered,
        Self::SendFailed,
        Self::Garbage,
        Self::UnknownKey,
        Self::Replayed,
        Self::Forged,
        Self::RelayRefused,
        Self::RelayFailed,
        Self::Malformed,
        Self::NoSegment,
        Self::DeviceFailed,
    ];

    /// The reason as a label of a metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::NoPath => "no_path",
            Self::TooLarge => "too_large",
            Self::Answered => "answered_too_big",
            Self::SendFailed => "send_failed",
            Self::Garbage => "garbage",
            Self::UnknownKey => "unknown_key",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::RelayRefused => "relay_refused",
            Self::RelayFailed => "relay_failed",
            Self::Malformed => "malformed",
            Self::NoSegment => "no_segment",
            Self::DeviceFailed => "device_failed",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counters of what was dropped.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one more.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts so many more.
    pub fn add(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How many were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// All reasons for which something was dropped.
    pub fn snapshot(&self) -> Vec<(DropReason, u64)> {
        let all = DropReason::ALL.map(|reason| (reason, self.get(reason)));
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Counters of one direction, on a cache line of their own: mostly, each direction has its thread.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Traffic {
    frames: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficSnapshot {
    /// Frames and super-frames, as containers' kernels handed them out; counted only where whole
    /// frames are seen.
    pub frames: u64,
    /// Datagrams on the underlay.
    pub packets: u64,
    /// Bytes of UDP payload on the underlay.
    pub bytes: u64,
}

impl Traffic {
    /// Counts what passed.
    pub fn count(&self, frames: u64, packets: u64, bytes: u64) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What passed so far.
    pub fn snapshot(&self) -> TrafficSnapshot {
        TrafficSnapshot {
            frames: self.frames.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Counters of one peer.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// What was sent to it. What the kernel did not take of it is among the drops, too.
    pub sent: Traffic,
    /// What it sent, and proved to have sent.
    pub received: Traffic,
    /// What was passed on to it for others. What the kernel did not take is among the drops, too.
    pub relayed: Traffic,
    /// What was dropped that was for it or from it.
    pub drops: Drops,
}
