//! The sockets that queries come to.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::Shared;
use super::answer::{Asked, Desk, Outcome, Transport, Verdict, error_reply};
use super::askers::{Asker, Origin};
use super::counters::Tally;
use super::upstream::{read_message, write_message};
use crate::linux::udp::{ReceiveBuffers, Transmit, UdpSocket};

/// The largest query: larger ones are cut off, and are none of DNS. Not a whole number of pages:
/// then queries that are received together would share few lines of a core's cache.
const MAX_QUERY: usize = 4096 + 64;

/// How long an asker may stay unknown: the Engine tells of a container within some milliseconds of
/// its start.
const WAIT: Duration = Duration::from_secs(1);

/// How many queries may wait for their asker to be known, and how many for the host's servers.
const MAX_WAITING: usize = 256;
const MAX_FORWARDED: usize = 1024;

/// How many connections there may be at a time, and how long one may be silent.
const MAX_CONNECTIONS: usize = 128;
const SILENCE: Duration = Duration::from_secs(10);

/// Most sockets that share the datagrams.
const MAX_SOCKETS: usize = 4;

/// Bytes of datagrams that wait for their turn.
const QUEUE: usize = 1 << 20;

/// Bound sockets that are not served yet.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    datagrams: Vec<UdpSocket>,
    connections: TcpListener,
}

impl Server {
    /// Binds the sockets. With port 0 the system chooses one.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let connections = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        connections.set_reuse_address(true)?;
        connections.bind(&address.into())?;
        connections.listen(MAX_CONNECTIONS as i32)?;
        let connections = TcpListener::from_std(connections.into())?;
        let address = connections.local_addr()?;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let datagrams = (0..threads.min(MAX_SOCKETS)).map(|_| bind_datagrams(address));
        Ok(Self {
            address,
            datagrams: datagrams.collect::<io::Result<_>>()?,
            connections,
        })
    }

    /// Where it listens.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a socket fails.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        let failed = Arc::new(Notify::new());
        let mut threads = Vec::new();
        for socket in self.datagrams {
            match DatagramThread::start(socket, Arc::clone(&shared), Arc::clone(&failed)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!(%error, "no thread for DNS");
                    return;
                }
            }
        }
        tokio::select! {
            () = failed.notified() => {}
            () = serve_connections(self.connections, shared) => {}
        }
    }
}

/// One of the sockets that share the datagrams.
fn bind_datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
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
struct DatagramThread {
    socket: Arc<UdpSocket>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramThread {
    fn start(socket: UdpSocket, shared: Arc<Shared>, failed: Arc<Notify>) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let mut datagrams = Datagrams::new(Arc::clone(&socket), shared);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("dns".to_owned())
            .spawn(move || {
                datagrams.serve(&stopped);
                failed.notify_one();
            })?;
        Ok(Self {
            socket,
            stop,
            thread: Some(thread),
        })
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
        // A full queue, or an asker that is gone: as good as lost on the way.
        let lost = |_, _| ();
        self.socket.send(&self.desk.out, &self.replies, false, lost);
        for (at, verdict) in self.later.drain(..) {
            let slots = match verdict {
                Verdict::Wait => &self.waiting,
                _ => &self.forwarded,
            };
            let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
                tally.count(Asked::Other, Outcome::Ignored);
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
        self.shared.counters.add(&tally);
    }
}

async fn serve_connections(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed, so there is always a permit in the end.
        let slot = Arc::clone(&slots).acquire_owned().await.ok();
        match listener.accept().await {
            Ok((stream, from)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = serve_connection(stream, from, &shared).await {
                        tracing::trace!(%error, "a DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, or the client is gone already.
                tracing::debug!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    from: SocketAddr,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    // Strangers do not get to hold a connection.
    if shared.read(|zone| zone.askers.origin(from.ip()) == Origin::Foreign) {
        return Ok(());
    }
    loop {
        let query = timeout(SILENCE, read_message(&mut stream)).await??;
        let Some(reply) = resolve(shared, &query, from, Transport::Tcp).await else {
            return Ok(());
        };
        timeout(SILENCE, write_message(&mut stream, &reply)).await??;
    }
}

/// The answer, whoever it takes; `None` to keep silent.
async fn resolve(
    shared: &Shared,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
) -> Option<Vec<u8>> {
    let mut desk = Desk::new(rand::random());
    let begin = Instant::now();
    let mut changes = shared.changes.subscribe();
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        changes.mark_unchanged();
        let source = from.ip();
        match shared.read(|zone| zone.answer(query, source, transport, &mut desk)) {
            Verdict::Reply(asked, outcome) => {
                let mut tally = Tally::default();
                tally.answered(asked, outcome, begin.elapsed());
                shared.counters.add(&tally);
                return Some(desk.out);
            }
            Verdict::Ignore => {
                shared.counters.count(Asked::Other, Outcome::Ignored);
                return None;
            }
            Verdict::Forward(asked) => {
                return Some(forward(shared, query, from, transport, asked).await);
            }
            Verdict::Wait => {
                let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
                if !matches!(changed, Ok(Ok(()))) {
                    shared.counters.count(Asked::Other, Outcome::Ignored);
                    return None;
                }
            }
        }
    }
}

async fn forward(
    shared: &Shared,
    query: &[u8],
    from: SocketAddr,
    transport: Transport,
    asked: Asked,
) -> Vec<u8> {
    let of_host = shared.read(|zone| zone.askers.origin(from.ip()) == Origin::Known(Asker::Host));
    match shared.upstreams.ask(query, transport, of_host).await {
        Ok(answer) => {
            shared.counters.count(asked, Outcome::Forwarded);
            answer
        }
        Err(error) => {
            shared.counters.failed(asked, error.to_string());
            error_reply(query, ResponseCode::ServFail)
        }
    }
}
