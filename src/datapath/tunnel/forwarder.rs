//! From the segments' TAPs to the peers: what reads, looks up and hands on.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use nix::libc;

use super::control::Events;
use super::frame::complete_checksum;
use super::outbox::{Outbox, SMALL};
use super::table::{Hop, Table};
use super::watch::Watch;
use crate::linux::tap::{Gso, VNET_HEADER, VnetHeader};
use crate::linux::udp::UdpSocket;
use crate::types::Mac;

/// Bytes of the largest frame with its header (tun's `gso_max_size` is 64 KiB).
const FRAME: usize = 64 * 1024 + 256;
/// Frames read from one TAP before the others have their turn.
const BATCH: usize = 64;
/// Answers that the receiving thread sends itself before it receives again.
const ANSWERS: usize = 32;

/// Takes frames from TAPs and sends them. One at a time, from reading to sending: only so do the
/// frames of a flow stay in order, whichever thread reads them.
pub(super) struct Forwarder {
    out: Outbox,
    frame: Vec<u8>,
    scratch: Vec<u8>,
}

impl Forwarder {
    pub(super) fn new(socket: Arc<UdpSocket>, events: Events) -> Self {
        Self {
            out: Outbox::new(socket, events),
            frame: vec![0; FRAME],
            scratch: vec![0; FRAME],
        }
    }

    /// Sends what is waiting in one TAP; returns whether the device is still there.
    pub(super) fn drain(&mut self, table: &Table, index: usize) -> bool {
        let mut alive = true;
        for _ in 0..BATCH {
            if let Err(error) = self.forward_next(table, index) {
                alive = is_passing(&error);
                if !alive {
                    let name = table.segments[index].tap.name();
                    tracing::warn!(tap = name, %error, "a TAP device is gone");
                }
                break;
            }
        }
        self.out.flush(table);
        alive
    }

    /// Sends what a container answered at once to the frames that were just written. More than
    /// a few small frames are left to the sending thread, and what the socket has no room for is
    /// lost: the caller has to receive. Returns whether that was all.
    pub(super) fn answer(&mut self, table: &Table, index: usize) -> bool {
        self.out.set_patient(false);
        let mut all = false;
        for _ in 0..ANSWERS {
            match self.forward_next(table, index) {
                Ok(len) if len <= SMALL => {}
                Ok(_) => break,
                Err(_) => {
                    all = true;
                    break;
                }
            }
        }
        self.out.flush(table);
        self.out.set_patient(true);
        all
    }

    /// Reads one frame and hands it on; returns its bytes.
    fn forward_next(&mut self, table: &Table, index: usize) -> io::Result<usize> {
        let len = table.segments[index].tap.read(&mut self.frame)?;
        self.forward(table, index, len);
        Ok(len.saturating_sub(VNET_HEADER))
    }

    fn forward(&mut self, table: &Table, index: usize, len: usize) {
        let segment = &table.segments[index];
        let Some((header, frame)) = self.frame[..len].split_first_chunk_mut::<VNET_HEADER>() else {
            return;
        };
        let Some(mut vnet) = VnetHeader::decode(header) else {
            return;
        };
        let Some(mac) = frame.first_chunk().map(|mac| Mac::new(*mac)) else {
            return;
        };
        // What the packet's hint cannot say is completed here; only headers beyond 255 bytes.
        if vnet.gso == Gso::None && vnet.csum_start > u16::from(u8::MAX) {
            complete_checksum(frame, vnet.csum_start.into(), vnet.csum_offset.into());
            vnet.csum_start = 0;
        }
        let frame = &frame[..];
        match segment.forwarding.unicast.get(&mac) {
            Some(Hop::Peer(slot)) => {
                self.out
                    .emit(table, index, *slot, frame, &vnet, &mut self.scratch)
            }
            Some(Hop::Elsewhere) => {}
            None => {
                for &slot in &segment.forwarding.flood {
                    self.out
                        .emit(table, index, slot, frame, &vnet, &mut self.scratch);
                }
            }
        }
    }
}

/// The forwarder, for the threads that take turns with it.
#[derive(Clone)]
pub(super) struct SharedForwarder {
    forwarder: Arc<Mutex<Forwarder>>,
    /// The TAPs whose frames the sending thread waits for.
    pub(super) watch: Arc<Watch>,
}

impl SharedForwarder {
    pub(super) fn new(forwarder: Forwarder, watch: Watch) -> Self {
        Self {
            forwarder: Arc::new(Mutex::new(forwarder)),
            watch: Arc::new(watch),
        }
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// When a thread died at it. What it left is not sent: it may not be sealed yet.
    pub(super) fn lock(&self) -> io::Result<MutexGuard<'_, Forwarder>> {
        self.forwarder.lock().map_err(|_| died())
    }

    /// Its turn, if nobody else is at it.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub(super) fn try_lock(&self) -> io::Result<Option<MutexGuard<'_, Forwarder>>> {
        match self.forwarder.try_lock() {
            Ok(forwarder) => Ok(Some(forwarder)),
            Err(TryLockError::Poisoned(_)) => Err(died()),
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }
}

fn died() -> io::Error {
    io::Error::other("a thread died while it was sending")
}

/// Whether a read failed for now only.
fn is_passing(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => true,
        code => {
            tracing::debug!(?code, "read from a TAP device failed");
            false
        }
    }
}
