//! The sockets that queries come to.

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::answer::{Asked, Desk, Outcome, Transport, Verdict, error_reply};
use super::askers::{Asker, Origin};
use super::counters::Tally;
use super::upstream::{read_message, write_message};
use crate::linux::udp::{RECEIVE_MANY, ReceiveBuffers, Transmit, UdpSocket};

/// The largest query: larger ones are cut off, and are none of DNS.
const MAX_QUERY: usize = 4096;

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
    datagrams: Vec<DatagramSocket>,
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
        let datagrams = (0..threads.min(MAX_SOCKETS)).map(|_| DatagramSocket::bind(address));
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
        let mut tasks = JoinSet::new();
        for socket in self.datagrams {
            tasks.spawn(Datagrams::new(socket, Arc::clone(&shared)).serve());
        }
        tasks.spawn(serve_connections(self.connections, shared));
        tasks.join_next().await;
    }
}

/// One of the sockets that share the datagrams.
#[derive(Debug)]
struct DatagramSocket {
    /// Tells when something has come.
    ready: tokio::net::UdpSocket,
    /// The same socket, for many datagrams at a time.
    socket: UdpSocket,
}

impl DatagramSocket {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.nonblocking(),
            Some(Protocol::UDP),
        )?;
        socket.set_reuse_port(true)?;
        // The kernel gives what it is allowed to.
        let _ = socket.set_recv_buffer_size(QUEUE);
        socket.bind(&address.into())?;
        Ok(Self {
            ready: tokio::net::UdpSocket::from_std(socket.try_clone()?.into())?,
            socket: UdpSocket::of(socket),
        })
    }
}

/// One socket for datagrams, and what serving it takes.
struct Datagrams {
    ready: Arc<tokio::net::UdpSocket>,
    socket: Arc<UdpSocket>,
    shared: Arc<Shared>,
    buffers: ReceiveBuffers,
    desk: Desk,
    replies: Vec<Transmit>,
    /// Queries that are not answered at once, with what keeps them from it.
    later: Vec<(usize, Verdict)>,
    waiting: Arc<Semaphore>,
    forwarded: Arc<Semaphore>,
}

impl Datagrams {
    fn new(socket: DatagramSocket, shared: Arc<Shared>) -> Self {
        Self {
            ready: Arc::new(socket.ready),
            socket: Arc::new(socket.socket),
            shared,
            buffers: ReceiveBuffers::of(MAX_QUERY),
            desk: Desk::new(rand::random()),
            replies: Vec::new(),
            later: Vec::new(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
        }
    }

    async fn serve(mut self) {
        let ready = Arc::clone(&self.ready);
        loop {
            if let Err(error) = ready.readable().await {
                tracing::debug!(%error, "a DNS socket failed");
                return;
            }
            // What comes after this makes the socket ready again: asking for more would be a system
            // call for nothing.
            let taken = ready.try_io(Interest::READABLE, || {
                let count = self.socket.receive(&mut self.buffers)?;
                self.answer(count);
                match count < RECEIVE_MANY {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            // Other errors are what the kernel tells of answers that did not arrive.
            if !taken.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                tokio::task::yield_now().await;
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
            tokio::spawn(async move {
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
