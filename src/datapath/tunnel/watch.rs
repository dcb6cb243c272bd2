//! The TAPs in which the sending thread waits for frames.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::linux::tap::Tap;

/// Descriptors reported in one turn.
const READY: usize = 64;

/// What one thread waits for and another can keep from it for a moment.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: Epoll,
}

impl Watch {
    /// Waits for what wakes the thread, and for no TAP yet.
    pub(super) fn new(wake: impl AsFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = event(EpollFlags::EPOLLIN, wake.as_fd().as_raw_fd());
        epoll.add(wake, event)?;
        Ok(Self { epoll })
    }

    /// Waits; puts the descriptors that have something into `ready`.
    pub(super) fn wait(&self, ready: &mut Vec<RawFd>) -> io::Result<()> {
        ready.clear();
        let mut events = [EpollEvent::empty(); READY];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => {
                let descriptors = events[..count].iter().map(EpollEvent::data);
                ready.extend(descriptors.filter_map(|data| RawFd::try_from(data).ok()));
                Ok(())
            }
            Err(nix::Error::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for this TAP, too.
    pub(super) fn add(&self, tap: &Tap) {
        if let Err(errno) = self.epoll.add(tap, readable(tap)) {
            tracing::warn!(tap = tap.name(), %errno, "cannot watch a TAP device");
        }
    }

    /// Waits for this TAP no more.
    pub(super) fn remove(&self, tap: &Tap) {
        // It may have been removed already because its device was gone.
        let _ = self.epoll.delete(tap);
    }

    /// Does not wait for this TAP until [`resume`](Self::resume), because the caller will read what
    /// is there itself: to wake a thread that nobody needs costs some 30 µs on a virtual machine.
    pub(super) fn pause(&self, tap: &Tap) {
        let mut nothing = event(EpollFlags::empty(), tap.descriptor());
        // A TAP that is not waited for needs no pause.
        let _ = self.epoll.modify(tap, &mut nothing);
    }

    /// Waits for this TAP again. What is still there is reported now.
    pub(super) fn resume(&self, tap: &Tap) {
        let _ = self.epoll.modify(tap, &mut readable(tap));
    }
}

fn readable(tap: &Tap) -> EpollEvent {
    event(EpollFlags::EPOLLIN, tap.descriptor())
}

fn event(flags: EpollFlags, descriptor: RawFd) -> EpollEvent {
    EpollEvent::new(flags, u64::from(descriptor.unsigned_abs()))
}
