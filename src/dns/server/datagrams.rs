//! Queries in datagrams: threads that do nothing but answer them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use super::resolve;
use crate::dns::Shared;
use crate::dns::answer::{Asked, Desk, Outcome, Transport, Verdict};
use crate::dns::counters::Tally;
use crate::linux::udp::{ReceiveBuffers, Transmit, UdpSocket};

/// The largest query: larger ones are cut off, and are none of DNS. Not a whole number of pages:
/// then queries that are received together would share few lines of a core's cache.
const MAX_QUERY: usize = 4096 + 64;

/// How many queries may wait for their asker to be known, and how many for the host's servers.
const MAX_WAITING: usize = 256;
const MAX_FORWARDED: usize = 1024;

/// Bytes of datagrams that wait for their turn.
const QUEUE: usize = 1 << 20;

/// One of the sockets that share the datagrams.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_reuse_port(true)?;
    // The kernel gives what it is allowed to.
    let _ = socket.set_recv_buffer_size(QUEUE);
    socket.bind(&address.into())?;
    Ok(UdpSocket::of(socket))
}

/// A thread that serves datagrams until this is dropped. It sleeps in the kernel until there are some:
/// a runtime would wake a second thread for each that it wakes for them.
pub(super) struct DatagramThread {
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramThread {
    /// Starts serving; `failed` is told when that ends by itself.
    pub(super) fn start(
        socket: UdpSocket,
        shared: Arc<Shared>,
        failed: Arc<Notify>,
    ) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let mut datagrams = Datagrams::new(Arc::clone(&socket), shared);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                // Also when it panics: the kernel would go on giving this socket its share.
                let _farewell = Farewell(failed);
                datagrams.serve(&stopped);
            })?;
        Ok(Self {
            socket,
            stop,
            thread: Some(thread),
        })
    }
}

/// Tells that a thread has ended.
struct Farewell(Arc<Notify>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Drop for DatagramThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.socket.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One socket for datagrams, and what serving it takes.
struct Datagrams {
    socket: Arc<UdpSocket>,
    shared: Arc<Shared>,
    /// Where queries wait that are not answered at once.
    runtime: Handle,
    buffers: ReceiveBuffers,
    desk: Desk,
    replies: Vec<Transmit>,
    /// Queries that are not answered at once, with what keeps them from it.
    later: Vec<(usize, Verdict)>,
    waiting: Arc<Semaphore>,
    forwarded: Arc<Semaphore>,
}

impl Datagrams {
    fn new(socket: Arc<UdpSocket>, shared: Arc<Shared>) -> Self {
        Self {
            socket,
            shared,
            runtime: Handle::current(),
            buffers: ReceiveBuffers::of(MAX_QUERY),
            desk: Desk::new(rand::random()),
            replies: Vec::new(),
            later: Vec::new(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
        }
    }

    fn serve(&mut self, stopped: &AtomicBool) {
        loop {
            let received = self.socket.wait(&mut self.buffers);
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            match received {
                Ok(count) => {
                    self.answer(count);
                    // Who asks gets its turn, and more comes together, where all cores are busy.
                    thread::yield_now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "a DNS socket failed");
                    return;
                }
            }
        }
    }

    /// Answers what has come, all of it from the same knowledge.
    fn answer(&mut self, count: usize) {
        let mut tally = Tally::default();
        self.desk.out.clear();
        self.replies.clear();
        self.later.clear();
        let mut begin = Instant::now();
        self.shared.read(|zone| {
            for at in 0..count {
                let (received, query) = self.buffers.entry(at);
                let start = self.desk.out.len();
                let source = received.from.ip();
                match zone.answer(query, source, Transport::Udp, &mut self.desk) {
                    Verdict::Reply(asked, outcome) => {
                        let end = Instant::now();
                        tally.answered(asked, outcome, end - begin);
                        begin = end;
                        self.replies.push(Transmit {
                            to: received.from,
                            range: start..self.desk.out.len(),
                            segment: self.desk.out.len() - start,
                            tag: 0,
                        });
                    }
                    Verdict::Ignore => tally.count(Asked::Other, Outcome::Ignored),
                    verdict => self.later.push((at, verdict)),
                }
            }
        });
        // Whoever has an answer finds it counted.
        self.shared.counters.add(&tally);
        // A full queue, or an asker that is gone: as good as lost on the way.
        let lost = |_| ();
        self.socket.send(&self.desk.out, &self.replies, false, lost);
        for (at, verdict) in self.later.drain(..) {
            let slots = match verdict {
                Verdict::Wait => &self.waiting,
                _ => &self.forwarded,
            };
            let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
                self.shared.counters.count(Asked::Other, Outcome::Ignored);
                continue;
            };
            let (socket, shared) = (Arc::clone(&self.socket), Arc::clone(&self.shared));
            let (received, query) = self.buffers.entry(at);
            let (from, query) = (received.from, query.to_vec());
            self.runtime.spawn(async move {
                if let Some(reply) = resolve(&shared, &query, from, Transport::Udp).await {
                    let _ = socket.send_one(from, &reply);
                }
                drop(slot);
            });
        }
    }
}
