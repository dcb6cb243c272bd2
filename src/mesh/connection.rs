//! One TCP connection with a peer: dialling, the handshake, then messages in both directions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use super::core::{ConnId, DialError, Session};
use super::credentials::Credentials;
use super::framing::{self, Opener, Sealer};
use super::handshake::{Established, Handshake, Role};
use super::message::Message;
use super::refusal::Refusal;
use super::traffic::Traffic;

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one write may wait for the other side to read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection that is closed may take to send what is queued.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that may wait for a peer to read them. Beyond, news are left out until it has caught up;
/// it then asks for what it lacks.
const MAX_QUEUED: usize = 4 * 1024 * 1024;

/// A peer for which no more than this waits has caught up.
const CAUGHT_UP: usize = 512 * 1024;

/// Messages that are waiting are sealed and written together up to about this size.
const BATCH: usize = 64 * 1024;

const READ_BUFFER: usize = 8 * 1024;

/// What a connection tells the shell. The first is `Established` or `Failed`, the last `Closed`
/// or `Failed`.
#[derive(Debug)]
pub(super) enum Report {
    /// Both sides are authenticated and know it.
    Established(Session),
    /// There will be no session.
    Failed {
        /// The far end.
        remote: SocketAddr,
        /// Why.
        error: DialError,
        /// Whether it may have been an attempt to guess or to wear down.
        suspect: bool,
    },
    /// A message came.
    Message(Message),
    /// The peer has read most of what was queued, and news were left out meanwhile.
    CaughtUp,
    /// The session is over.
    Closed(String),
}

/// Where reports go. It is bounded: a peer that talks faster than it is listened to waits.
pub(super) type Reports = mpsc::Sender<(ConnId, Report)>;

/// The way out of a connection. Dropping it closes the connection after what is queued.
#[derive(Debug)]
pub(super) struct Queue {
    messages: mpsc::UnboundedSender<Bytes>,
    level: Arc<Level>,
}

/// The other end of a [`Queue`].
#[derive(Debug)]
pub(super) struct Outbox {
    messages: mpsc::UnboundedReceiver<Bytes>,
    level: Arc<Level>,
    traffic: Arc<Traffic>,
}

/// How full a queue is.
#[derive(Debug, Default)]
struct Level {
    bytes: AtomicUsize,
    left_out: AtomicBool,
}

/// A message did not fit into a queue: the peer does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overflow;

/// A queue for a connection whose bytes are counted there.
pub(super) fn queue(traffic: &Arc<Traffic>) -> (Queue, Outbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let level = Arc::new(Level::default());
    let queue = Queue {
        messages: sender,
        level: Arc::clone(&level),
    };
    let outbox = Outbox {
        messages: receiver,
        level,
        traffic: Arc::clone(traffic),
    };
    (queue, outbox)
}

impl Queue {
    /// Queues a message. News are left out while there is too much to read already.
    ///
    /// # Errors
    ///
    /// When there is so much that it cannot be news alone.
    pub(super) fn push(&self, message: &Message) -> Result<(), Overflow> {
        let queued = self.level.bytes.load(Ordering::Relaxed);
        if matches!(message, Message::Delta(_)) {
            let left_out = self.level.left_out.load(Ordering::Relaxed);
            if left_out || queued > MAX_QUEUED {
                self.level.left_out.store(true, Ordering::Relaxed);
                return Ok(());
            }
        } else if queued > 2 * MAX_QUEUED {
            return Err(Overflow);
        }
        let message = Bytes::from(message.encode());
        self.level.bytes.fetch_add(message.len(), Ordering::Relaxed);
        // A connection that is over has reported so, or is about to.
        let _ = self.messages.send(message);
        Ok(())
    }
}

impl Outbox {
    async fn next(&mut self) -> Option<Bytes> {
        self.messages.recv().await.inspect(|m| self.left(m))
    }

    fn next_now(&mut self) -> Option<Bytes> {
        self.messages.try_recv().ok().inspect(|m| self.left(m))
    }

    fn left(&self, message: &Bytes) {
        self.level.bytes.fetch_sub(message.len(), Ordering::Relaxed);
    }

    /// Whether news were left out and could be queued again; says so once.
    fn has_caught_up(&self) -> bool {
        self.level.bytes.load(Ordering::Relaxed) <= CAUGHT_UP
            && self.level.left_out.swap(false, Ordering::Relaxed)
    }
}

/// Connects to a peer and talks with it until one side closes.
pub(super) async fn dial(
    conn: ConnId,
    address: SocketAddr,
    local: Arc<Credentials>,
    outbox: Outbox,
    reports: Reports,
) {
    let error = match timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            return run(
                conn,
                stream,
                address,
                Role::Initiator,
                local,
                outbox,
                reports,
            )
            .await;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DIAL_TIMEOUT.as_secs()),
    };
    let failed = Report::Failed {
        remote: address,
        error: DialError::Unreachable(error),
        suspect: false,
    };
    // Nobody listens once the mesh has stopped.
    let _ = reports.send((conn, failed)).await;
}

/// Shakes hands on a connection and talks until one side closes.
pub(super) async fn run(
    conn: ConnId,
    mut stream: TcpStream,
    remote: SocketAddr,
    role: Role,
    local: Arc<Credentials>,
    outbox: Outbox,
    reports: Reports,
) {
    let deadline = tokio::time::Instant::now() + HANDSHAKE_TIMEOUT;
    let mut handshake = Handshake::new(role, Arc::clone(&local));
    let shaking = async {
        tune(&stream)?;
        let near = stream.local_addr()?;
        Ok::<_, io::Error>((near, shake_hands(&mut stream, &mut handshake).await?))
    };
    let outcome = match timeout_at(deadline, shaking).await {
        // The core wants to know that it met itself, not to talk with itself.
        Ok(Ok((near, Err(Refusal::SelfConnection)))) => {
            let session = own_session(&local, remote, near);
            let _ = reports.send((conn, Report::Established(session))).await;
            return linger(stream).await;
        }
        Ok(Ok((near, Ok(())))) => match handshake.into_established() {
            Some(established) => Ok((near, established)),
            None => Err((false, handshake_error("it is not over"))),
        },
        Ok(Ok((_, Err(refusal)))) => Err((refusal.is_suspect(), dial_error(refusal))),
        Ok(Err(error)) => Err((
            handshake.has_answered_guess(),
            handshake_error(&error.to_string()),
        )),
        Err(_) => Err((true, handshake_error("it took longer than 5 s"))),
    };
    let (near, established) = match outcome {
        Ok(outcome) => outcome,
        Err((suspect, error)) => {
            let failed = Report::Failed {
                remote,
                error,
                suspect,
            };
            let _ = reports.send((conn, failed)).await;
            return linger(stream).await;
        }
    };
    tracing::debug!(%remote, protocol = established.protocol, peer = %established.peer, "authenticated");
    let session = Session {
        peer: established.peer,
        nickname: established.details.nickname.clone(),
        public_key: established.public_key,
        instance: established.details.instance,
        remote,
        local: canonical(near),
        listen_port: established.details.port,
        features: established.details.features & local.details.features,
    };
    if reports
        .send((conn, Report::Established(session)))
        .await
        .is_err()
    {
        return;
    }
    talk(conn, stream, established, outbox, reports).await;
}

fn own_session(local: &Credentials, remote: SocketAddr, near: SocketAddr) -> Session {
    Session {
        peer: local.identity.id(),
        nickname: local.details.nickname.clone(),
        public_key: *local.identity.public_key(),
        instance: local.details.instance,
        remote,
        local: canonical(near),
        listen_port: local.details.port,
        features: local.details.features,
    }
}

/// Small messages leave at once; a peer that vanished is noticed also by the kernel.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(WRITE_TIMEOUT))
}

async fn shake_hands(
    stream: &mut TcpStream,
    handshake: &mut Handshake,
) -> io::Result<Result<(), Refusal>> {
    let mut buffer = [0; 2048];
    loop {
        if let Some(bytes) = handshake.poll_transmit() {
            stream.write_all(&bytes).await?;
        }
        if handshake.is_done() {
            return Ok(Ok(()));
        }
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the other side closed the connection",
            ));
        }
        if let Err(refusal) = handshake.handle_bytes(&buffer[..len]) {
            if let Some(bytes) = handshake.poll_transmit() {
                stream.write_all(&bytes).await?;
            }
            return Ok(Err(refusal));
        }
    }
}

/// Closing while there is something left to read would take back what was just sent.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whatever comes of it, the connection is over.
    let _ = timeout(CLOSE_TIMEOUT, drain).await;
}

async fn talk(
    conn: ConnId,
    stream: TcpStream,
    established: Established,
    outbox: Outbox,
    reports: Reports,
) {
    let (sealer, opener) = framing::split(established.transport, &established.surplus);
    let (mut from_peer, mut to_peer) = stream.into_split();
    let traffic = Arc::clone(&outbox.traffic);
    let reason = tokio::select! {
        reason = listen(conn, &mut from_peer, opener, &traffic, &reports) => Some(reason),
        written = speak(conn, &mut to_peer, sealer, outbox, &reports) => written.err(),
    };
    match reason {
        Some(reason) => {
            let _ = reports.send((conn, Report::Closed(reason))).await;
        }
        None => {
            if let Ok(stream) = from_peer.reunite(to_peer) {
                linger(stream).await;
            }
        }
    }
}

/// Hands on what comes until the connection ends; says why it did.
async fn listen(
    conn: ConnId,
    from_peer: &mut OwnedReadHalf,
    mut opener: Opener,
    traffic: &Traffic,
    reports: &Reports,
) -> String {
    loop {
        loop {
            let message = match opener.next_message() {
                Ok(Some(bytes)) => Message::decode(&bytes),
                Ok(None) => break,
                Err(error) => return error.to_string(),
            };
            match message {
                Ok(Some(message)) => {
                    if reports
                        .send((conn, Report::Message(message)))
                        .await
                        .is_err()
                    {
                        return "the mesh has stopped".to_owned();
                    }
                }
                // Of a kind that only newer peers know.
                Ok(None) => {}
                Err(error) => return error.to_string(),
            }
        }
        let buffer = opener.buffer();
        buffer.reserve(READ_BUFFER);
        match from_peer.read_buf(buffer).await {
            Ok(0) => return "the other side closed the connection".to_owned(),
            Ok(bytes) => traffic.received(bytes),
            Err(error) => return error.to_string(),
        }
    }
}

/// Writes what is queued until the queue is closed and empty.
async fn speak(
    conn: ConnId,
    to_peer: &mut OwnedWriteHalf,
    mut sealer: Sealer,
    mut outbox: Outbox,
    reports: &Reports,
) -> Result<(), String> {
    while let Some(message) = outbox.next().await {
        let mut wire = Vec::new();
        sealer.push(&message).map_err(|e| e.to_string())?;
        while sealer.pending() < BATCH {
            let Some(message) = outbox.next_now() else {
                break;
            };
            sealer.push(&message).map_err(|e| e.to_string())?;
        }
        sealer.seal(&mut wire).map_err(|e| e.to_string())?;
        match timeout(WRITE_TIMEOUT, to_peer.write_all(&wire)).await {
            Ok(Ok(())) => outbox.traffic.sent(wire.len()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the other side does not read what it is sent".to_owned()),
        }
        if outbox.has_caught_up() {
            // Nobody listens once the mesh has stopped.
            let _ = reports.send((conn, Report::CaughtUp)).await;
        }
    }
    Ok(())
}

fn dial_error(refusal: Refusal) -> DialError {
    match refusal {
        Refusal::PasswordMismatch
        | Refusal::PasswordMissingHere
        | Refusal::PasswordMissingThere => DialError::Password(refusal.to_string()),
        refusal => handshake_error(&refusal.to_string()),
    }
}

fn handshake_error(what: &str) -> DialError {
    DialError::Handshake(what.to_owned())
}

/// An IPv4 address as such, also where a dual-stack socket shows it as an IPv6 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::message::Delta;
    use crate::types::PeerId;

    fn news() -> Message {
        let key = crate::mesh::Key::new(crate::mesh::Kind::NAME, "a");
        let value = Some(vec![0; 32 * 1024].into());
        let entry = crate::mesh::message::Entry {
            key,
            version: 1,
            value,
        };
        Message::Delta(Delta {
            owner: PeerId::from_bytes([1; 16]),
            epoch: 1,
            from: 0,
            to: 1,
            collected: 0,
            entries: vec![entry],
        })
    }

    #[test]
    fn a_queue_leaves_out_news_until_the_peer_has_caught_up() {
        let (queue, mut outbox) = queue(&Arc::default());
        (0..1000).for_each(|_| queue.push(&news()).unwrap());
        let level = outbox.level.bytes.load(Ordering::Relaxed);
        assert!(level < MAX_QUEUED + 64 * 1024, "{level}");
        assert!(!outbox.has_caught_up());
        queue.push(&Message::Ping(1)).unwrap();
        while outbox.next_now().is_some() {}
        assert!(outbox.has_caught_up());
        assert!(!outbox.has_caught_up());
        queue.push(&news()).unwrap();
        assert!(outbox.next_now().is_some());
    }

    #[test]
    fn a_queue_is_bounded_whatever_is_sent() {
        let (queue, outbox) = queue(&Arc::default());
        let routed = Message::Routed(crate::mesh::message::Routed {
            from: PeerId::from_bytes([1; 16]),
            to: PeerId::from_bytes([2; 16]),
            ttl: 1,
            kind: crate::mesh::Kind::TUNNEL,
            payload: vec![0; 32 * 1024].into(),
        });
        let pushed = (0..1000)
            .take_while(|_| queue.push(&routed).is_ok())
            .count();
        assert!(pushed < 1000);
        let level = outbox.level.bytes.load(Ordering::Relaxed);
        assert!(level <= 2 * MAX_QUEUED + 64 * 1024, "{level}");
    }
}
