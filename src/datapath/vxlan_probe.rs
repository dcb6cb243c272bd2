//! Probes through VXLAN itself: UDP datagrams between the hosts' ends of a VXLAN device that no
//! segment uses ([`PROBE_VNI`](super::transport::PROBE_VNI)).
//!
//! They take the way that frames would take, so that whatever stops frames stops them. They are
//! not authenticated: who can forge them can move traffic between the transports, and no more;
//! where a password forbids VXLAN, nobody asks them.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::tunnel::probe::Prober;
use crate::types::PeerId;

/// The first bytes of each probe.
const MAGIC: [u8; 4] = *b"wvxp";
/// Bytes of a probe without padding.
const LEN: usize = 16;
/// How long a command may have to wait.
const PATIENCE: Duration = Duration::from_millis(100);

/// A probe or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Which probe.
    pub seq: u64,
    /// Whether it is the answer.
    pub answer: bool,
}

impl Message {
    /// The message's bytes, without padding.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = u8::from(self.answer);
        bytes[8..].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    /// Reads a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        if bytes[..4] != MAGIC || bytes[4] > 1 {
            return None;
        }
        Some(Self {
            seq: u64::from_be_bytes(*bytes.last_chunk()?),
            answer: bytes[4] == 1,
        })
    }
}

/// What was found out about one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Finding {
    /// Since when probes have been answered without a break.
    pub answered_since: Option<Instant>,
    /// Whether those of full size are.
    pub full_size: bool,
}

enum Command {
    Set(PeerId, SocketAddr, u16),
    Remove(PeerId),
}

/// The running probes; they stop when dropped.
pub struct VxlanProbes {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl VxlanProbes {
    /// Probes from this socket, which is bound to this host's end of the device. `output` is
    /// told each change, and must not wait.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(
        socket: UdpSocket,
        output: impl Fn(PeerId, Finding) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, queue) = channel();
        let state = State {
            socket,
            peers: BTreeMap::new(),
            started: 0,
            output: Box::new(output),
        };
        let thread = thread::Builder::new()
            .name("weave-vxlan".to_owned())
            .spawn(move || state.run(&queue))?;
        Ok(Self {
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    /// Probes a peer, whose end of the device has this address, with up to `size` bytes of UDP
    /// payload: as many as make the largest packet of a container.
    pub fn set_peer(&self, peer: PeerId, to: SocketAddr, size: u16) {
        self.command(Command::Set(peer, to, size));
    }

    /// Probes a peer no more.
    pub fn remove_peer(&self, peer: PeerId) {
        self.command(Command::Remove(peer));
    }

    fn command(&self, command: Command) {
        // The thread ends only when the sending half is gone.
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }
}

impl Drop for VxlanProbes {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    socket: UdpSocket,
    peers: BTreeMap<PeerId, Peer>,
    started: u64,
    output: Box<dyn Fn(PeerId, Finding) + Send>,
}

struct Peer {
    to: SocketAddr,
    size: u16,
    prober: Prober,
    told: Finding,
}

impl State {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            loop {
                match commands.try_recv() {
                    Ok(command) => self.handle_command(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let patience = self.work(&mut buffer);
            // A timeout of zero would mean to wait for ever.
            let patience = patience.max(Duration::from_millis(1));
            let _ = self.socket.set_read_timeout(Some(patience));
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.handle_datagram(&buffer[..len], from);
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Set(peer, to, size) => {
                let before = self.peers.get(&peer);
                if before.is_some_and(|before| before.to == to && before.size == size) {
                    return;
                }
                self.started += 1;
                let told = before.map_or_else(Finding::default, |before| before.told);
                let prober = Prober::new(self.started << 32, size, Instant::now());
                let state = Peer {
                    to,
                    size,
                    prober,
                    told,
                };
                self.peers.insert(peer, state);
            }
            Command::Remove(peer) => drop(self.peers.remove(&peer)),
        }
    }

    fn handle_datagram(&mut self, datagram: &[u8], from: SocketAddr) {
        let Some(message) = Message::decode(datagram) else {
            return;
        };
        if !message.answer {
            let answer = Message {
                answer: true,
                ..message
            };
            let _ = self.socket.send_to(&answer.encode(), from);
            return;
        }
        let peer = self.peers.values_mut().find(|peer| peer.to == from);
        if let Some(peer) = peer {
            peer.prober.handle_answer(message.seq, Instant::now());
        }
    }

    /// Sends what is due and tells what changed; returns how long there is nothing to do.
    fn work(&mut self, buffer: &mut [u8]) -> Duration {
        let now = Instant::now();
        let mut next = now + PATIENCE;
        for (id, peer) in &mut self.peers {
            peer.prober.handle_timeout(now);
            while let Some(request) = peer.prober.poll_transmit(now) {
                let message = Message {
                    seq: request.seq,
                    answer: false,
                };
                let datagram = &mut buffer[..usize::from(request.size)];
                datagram.fill(0);
                datagram[..LEN].copy_from_slice(&message.encode());
                let sent = self.socket.send_to(datagram, peer.to);
                let too_large = Some(nix::libc::EMSGSIZE);
                if sent.is_err_and(|error| error.raw_os_error() == too_large) {
                    peer.prober.handle_too_large(request.seq, now);
                }
            }
            let finding = Finding {
                answered_since: peer.prober.alive_since(),
                full_size: peer.prober.full_size(),
            };
            if finding != peer.told {
                peer.told = finding;
                (self.output)(*id, finding);
            }
            next = next.min(peer.prober.poll_timeout().0);
        }
        next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_gets_through_is_found_and_its_end_is_noticed() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (one, two) = (bind(), bind());
        let to = two.local_addr().unwrap();
        let (found, findings) = channel();
        let answering = VxlanProbes::start(two, |_, _| {}).unwrap();
        let report = move |_, finding| {
            let _ = found.send(finding);
        };
        let probing = VxlanProbes::start(one, report).unwrap();
        probing.set_peer(PeerId::from_bytes([1; 16]), to, 1402);
        let patience = Duration::from_secs(5);
        let full = || findings.recv_timeout(patience).unwrap();
        while !full().full_size {}
        drop(answering);
        while full().answered_since.is_some() {}
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(seq: u64, answer: bool) {
            let message = Message { seq, answer };
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _ = Message::decode(&bytes);
        }
    }
}
