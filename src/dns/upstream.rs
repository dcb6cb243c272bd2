//! Names outside the domain: the host's own DNS servers are asked, and what they say is handed on
//! as it is.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{HEADER, Transport, question_of};

/// The port of DNS.
pub const DNS_PORT: u16 = 53;

/// How long one server may take before the next is asked; resolvers ask us again after five
/// seconds.
const TRY: Duration = Duration::from_millis(1500);

/// How often all servers are asked.
const ROUNDS: usize = 2;

/// How many queries may be under way; more are answered with a failure at once.
const MAX_UNDER_WAY: usize = 1024;

/// How often this host itself may ask the same at a time. More is a server that asks us what we
/// have asked it.
const MAX_SAME: usize = 4;

/// How many servers are taken from a configuration: as many as glibc does (`MAXNS`).
const MAX_SERVERS: usize = 3;

/// The largest message.
const MAX_MESSAGE: usize = u16::MAX as usize;

/// Why nobody answered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum UpstreamError {
    /// Nobody is there to be asked.
    #[error("the host has no DNS servers but this one")]
    NoServers,
    /// What is asked came back from the servers that were asked.
    #[error("the host's DNS servers ask this one what it asks them")]
    Loop,
    /// Too many wait already.
    #[error("{MAX_UNDER_WAY} queries are under way")]
    Busy,
    /// No server has answered.
    #[error("no DNS server of the host answers: {0}")]
    Silent(String),
}

/// The host's DNS servers.
#[derive(Debug)]
pub(super) struct Upstreams {
    servers: RwLock<Vec<SocketAddr>>,
    /// The server that answered last is asked first.
    preferred: AtomicUsize,
    under_way: Semaphore,
    of_host: Mutex<BTreeMap<Vec<u8>, usize>>,
    failures: Mutex<BTreeMap<SocketAddr, u64>>,
}

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            servers: RwLock::default(),
            preferred: AtomicUsize::new(0),
            under_way: Semaphore::new(MAX_UNDER_WAY),
            of_host: Mutex::default(),
            failures: Mutex::default(),
        }
    }
}

impl Upstreams {
    /// Asks these from now on.
    pub(super) fn set(&self, servers: Vec<SocketAddr>) {
        let mut known = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        if *known != servers {
            *known = servers;
            self.preferred.store(0, Ordering::Relaxed);
        }
    }

    /// Who is asked.
    pub(super) fn get(&self) -> Vec<SocketAddr> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        servers.clone()
    }

    /// How often each server, also former ones, was asked and did not answer.
    pub(super) fn failures(&self) -> BTreeMap<SocketAddr, u64> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands a query on and returns the answer, both as they are but for the message's number.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        transport: Transport,
        of_host: bool,
    ) -> Result<Vec<u8>, UpstreamError> {
        let _permit = self
            .under_way
            .try_acquire()
            .map_err(|_| UpstreamError::Busy)?;
        let question = question_of(query).unwrap_or_default().to_ascii_lowercase();
        let _same = match of_host {
            true => Some(self.enter(&question).ok_or(UpstreamError::Loop)?),
            false => None,
        };
        let servers = self.get();
        if servers.is_empty() {
            return Err(UpstreamError::NoServers);
        }
        let first = self.preferred.load(Ordering::Relaxed);
        let mut refusal = None;
        let mut reason = String::new();
        for turn in 0..servers.len() * ROUNDS {
            let index = (first + turn) % servers.len();
            let server = servers[index];
            let answer = match transport {
                Transport::Udp => timeout(TRY, over_udp(server, query, &question)).await,
                Transport::Tcp => timeout(TRY, over_tcp(server, query, &question)).await,
            };
            match answer {
                Ok(Ok(answer)) if is_answer(&answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                // Another server may know better; if none does, this is what they say.
                Ok(Ok(answer)) => {
                    refusal = Some(answer);
                }
                Ok(Err(error)) => reason = format!("{server}: {error}"),
                Err(_) => reason = format!("{server} is silent for {} ms", TRY.as_millis()),
            }
            self.note_failure(server);
            if refusal.is_some() && turn + 1 >= servers.len() {
                break;
            }
        }
        refusal.ok_or(UpstreamError::Silent(reason))
    }

    fn note_failure(&self, server: SocketAddr) {
        let failures = self.failures.lock();
        let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
        // Servers come and go with what the host is told, a few in its life.
        *failures.entry(server).or_default() += 1;
    }

    /// Takes note that this host asks; `None` when it asks this too often.
    fn enter(&self, question: &[u8]) -> Option<Same<'_>> {
        let mut all = self.of_host.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(question.to_owned()).or_default();
        if *count >= MAX_SAME {
            return None;
        }
        *count += 1;
        Some(Same {
            upstreams: self,
            question: question.to_owned(),
        })
    }
}

/// A question of this host's that is under way.
struct Same<'a> {
    upstreams: &'a Upstreams,
    question: Vec<u8>,
}

impl Drop for Same<'_> {
    fn drop(&mut self) {
        let all = self.upstreams.of_host.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.question);
            }
        }
    }
}

/// Whether a server has answered, and not only said that it cannot or does not want to.
fn is_answer(message: &[u8]) -> bool {
    let code = message[3] & 0x0f;
    ![
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::NotImp,
    ]
    .iter()
    .any(|refusal| refusal.low() == code)
}

/// Whether a message answers the query with this number and question.
fn belongs(answer: &[u8], number: [u8; 2], question: &[u8]) -> bool {
    answer.len() >= HEADER
        && answer[..2] == number
        && answer[2] & 0x80 != 0
        // Servers that do not understand a query leave its question out.
        && question_of(answer).is_none_or(|theirs| theirs.eq_ignore_ascii_case(question))
}

/// Looks at what came from a server as an answer, for [`super::fuzz`].
#[cfg(any(test, fuzzing))]
pub(super) fn check(answer: &[u8], query: &[u8]) {
    let question = question_of(query).unwrap_or_default();
    let number = query.first_chunk().copied().unwrap_or_default();
    if belongs(answer, number, question) {
        let _ = is_answer(answer);
    }
}

fn renumbered(query: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let number: [u8; 2] = rand::random();
    let mut query = query.to_owned();
    query[..2].copy_from_slice(&number);
    (query, number)
}

async fn over_udp(server: SocketAddr, query: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each query makes forged answers hopeless.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (renumbered, number) = renumbered(query);
    socket.send(&renumbered).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if belongs(&buffer[..length], number, question) {
            buffer.truncate(length);
            buffer[..2].copy_from_slice(&query[..2]);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (renumbered, number) = renumbered(query);
    write_message(&mut stream, &renumbered).await?;
    let mut answer = read_message(&mut stream).await?;
    if !belongs(&answer, number, question) {
        let text = "expected the answer to the query, got something else";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    answer[..2].copy_from_slice(&query[..2]);
    Ok(answer)
}

/// Reads one message with its length (RFC 1035, section 4.2.2).
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message with its length.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

/// The servers of a configuration, without `own`, where this server listens.
pub(super) fn servers(resolv_conf: &str, own: Option<SocketAddr>) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // Like glibc, which ignores what is no address.
    let addresses = lines.filter_map(|word| word.parse::<IpAddr>().ok());
    addresses
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .filter(|server| Some(*server) != own)
        .take(MAX_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.` of type A with this number.
    fn query(number: u8) -> Vec<u8> {
        let mut query = vec![0, number, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend([1, b'a', 0, 0, 1, 0, 1]);
        query
    }

    /// A server that answers each datagram with what `answer` makes of it.
    async fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&answer(&buffer[..length]), from).await;
            }
        });
        address
    }

    fn with_code(query: &[u8], code: u8) -> Vec<u8> {
        let mut answer = query.to_owned();
        answer[2] |= 0x80;
        answer[3] = code;
        answer
    }

    #[test]
    fn servers_are_those_of_the_configuration_but_for_this_one() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 172.17.0.1\n\
                    nameserver\t192.0.2.1\nnameserver fd00::1\nnameserver nonsense\n\
                    nameserver 192.0.2.2\nnameserver 192.0.2.3\noptions edns0\n";
        let own = "172.17.0.1:53".parse().ok();
        let expected = ["192.0.2.1:53", "[fd00::1]:53", "192.0.2.2:53"];
        assert_eq!(servers(text, own), expected.map(|s| s.parse().unwrap()));
        assert!(servers("", None).is_empty());
    }

    #[tokio::test]
    async fn an_answer_is_handed_on_byte_for_byte_with_the_query_s_number() {
        let upstreams = Upstreams::default();
        let echo = server(|query| [&with_code(query, 3)[..], b"and more"].concat()).await;
        upstreams.set(vec![echo]);
        let answer = upstreams.ask(&query(7), Transport::Udp, false).await;
        let expected = [&with_code(&query(7), 3)[..], b"and more"].concat();
        assert_eq!(answer.unwrap(), expected);
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_fails_and_then_first() {
        let upstreams = Upstreams::default();
        let broken = server(|query| with_code(query, 2)).await;
        let forger = server(|query| {
            let mut forged = with_code(query, 0);
            forged[HEADER + 1] = b'b';
            forged
        })
        .await;
        let good = server(|query| with_code(query, 0)).await;
        upstreams.set(vec![broken, forger, good]);
        let answer = upstreams.ask(&query(1), Transport::Udp, false).await;
        assert_eq!(answer.unwrap(), with_code(&query(1), 0));
        assert_eq!(upstreams.preferred.load(Ordering::Relaxed), 2);
        assert_eq!(upstreams.failures(), [(broken, 1), (forger, 1)].into());
        upstreams.set(vec![broken]);
        let answer = upstreams.ask(&query(1), Transport::Udp, false).await;
        assert_eq!(answer.unwrap(), with_code(&query(1), 2));
    }

    #[tokio::test]
    async fn without_servers_and_in_a_loop_the_answer_is_a_failure_at_once() {
        let upstreams = Upstreams::default();
        let none = upstreams.ask(&query(1), Transport::Udp, true).await;
        assert!(matches!(none, Err(UpstreamError::NoServers)));
        let question = question_of(&query(1)).unwrap().to_owned();
        let held: Vec<_> = (0..MAX_SAME).map(|_| upstreams.enter(&question)).collect();
        assert!(held.iter().all(Option::is_some));
        let looping = upstreams.ask(&query(2), Transport::Udp, true).await;
        assert!(matches!(looping, Err(UpstreamError::Loop)));
        drop(held);
        assert!(upstreams.of_host.lock().unwrap().is_empty());
    }
}
