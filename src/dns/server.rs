//! The sockets that queries come to.

mod datagrams;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use self::datagrams::DatagramThread;
use super::Shared;
use super::answer::{Asked, Desk, Outcome, Transport, Verdict, error_reply};
use super::askers::{Asker, Origin};
use super::counters::Tally;
use super::upstream::{read_message, write_message};
use crate::linux::udp::UdpSocket;

/// How long an asker may stay unknown: the Engine tells of a container within some milliseconds of
/// its start.
const WAIT: Duration = Duration::from_secs(1);

/// How many connections there may be at a time, and how long one may be silent.
const MAX_CONNECTIONS: usize = 128;
const SILENCE: Duration = Duration::from_secs(10);

/// Most sockets that share the datagrams.
const MAX_SOCKETS: usize = 4;

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
        let sockets = (0..threads.min(MAX_SOCKETS)).map(|_| datagrams::bind(address));
        Ok(Self {
            address,
            datagrams: sockets.collect::<io::Result<_>>()?,
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
