//! The thread that waits for frames in the segments' TAPs.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};

use super::Signals;
use super::forwarder::SharedForwarder;
use super::table::{Reader, Table};

/// Descriptors looked at in one turn.
const READY: usize = 64;
/// The number of the descriptor that wakes the thread; TAPs have their index.
const WAKE: u64 = u64::MAX;

/// The thread's state.
pub(super) struct Sender {
    reader: Reader,
    forwarder: SharedForwarder,
    signals: Signals,
}

impl Sender {
    pub(super) fn new(reader: Reader, forwarder: SharedForwarder, signals: Signals) -> Self {
        Self {
            reader,
            forwarder,
            signals,
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut table = self.reader.table();
        let mut epoll = self.watch(&table)?;
        let mut ready = [EpollEvent::empty(); READY];
        while !self.signals.stop.load(Ordering::Relaxed) {
            let count = match epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let woken = ready[..count].iter().any(|event| event.data() == WAKE);
            if woken {
                let _ = self.signals.wake.read();
            }
            for event in &ready[..count] {
                let mut forwarder = self.forwarder.lock()?;
                // By an older table than the frames before them, these might overtake or be
                // overtaken. What is waiting is reported again.
                if self.reader.refresh() {
                    table = self.reader.table();
                    epoll = self.watch(&table)?;
                    break;
                }
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if index < table.segments.len() && !forwarder.drain(&table, index) {
                    let _ = epoll.delete(&table.segments[index].tap);
                }
            }
        }
        Ok(())
    }

    fn watch(&self, table: &Table) -> io::Result<Epoll> {
        let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            &*self.signals.wake,
            EpollEvent::new(EpollFlags::EPOLLIN, WAKE),
        )?;
        for (index, segment) in table.segments.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            if let Err(errno) = epoll.add(&*segment.tap, event) {
                tracing::warn!(tap = segment.tap.name(), %errno, "cannot watch a TAP device");
            }
        }
        Ok(epoll)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.signals.wake.as_raw_fd())
    }
}
