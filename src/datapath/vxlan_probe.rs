//! Probes through VXLAN itself: frames between the hosts' ends of a VXLAN device that no segment
//! uses ([`PROBE_VNI`](super::transport::PROBE_VNI)).
//!
//! They take the way that frames would take, so that whatever stops frames stops them. They are
//! not authenticated: who can forge them can move traffic between the transports, and no more;
//! where a password forbids VXLAN, nobody asks them.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::tunnel::probe::Prober;
use crate::types::PeerId;

/// The first bytes of each probe.
const MAGIC: [u8; 4] = *b"wvxp";
/// How long a command may have to wait.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long probes that began anew may take to be answered: twice as long as a round.
const BEGIN: Duration = Duration::from_secs(2);
/// Bytes of the largest probe: Ethernet's jumbo frames.
const LARGEST: u16 = 9216;

/// What carries probes to peers and from them.
pub trait Wire: Send + 'static {
    /// Sends a probe to a peer. The first [`Message::LEN`] bytes are a message, the rest padding.
    ///
    /// # Errors
    /// `EMSGSIZE` when this host's own device does not take that much.
    fn send(&mut self, to: PeerId, probe: &[u8]) -> io::Result<()>;

    /// Waits for a probe, up to this long; returns its length and whose it is.
    ///
    /// # Errors
    /// When none came.
    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<(usize, PeerId)>;
}

/// A probe or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Which probe.
    pub seq: u64,
    /// Whether it is the answer.
    pub answer: bool,
}

impl Message {
    /// Bytes of a message.
    pub const LEN: usize = 16;

    /// The message's bytes, without padding.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = u8::from(self.answer);
        bytes[8..].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    /// Reads a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
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
    Set(PeerId, u16),
    Remove(PeerId),
}

/// The running probes; they stop when dropped.
pub struct VxlanProbes {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl VxlanProbes {
    /// Probes over this wire. `output` is told each change, and must not wait.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(
        wire: impl Wire,
        output: impl Fn(PeerId, Finding) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, queue) = channel();
        let state = State {
            wire,
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

    /// Probes a peer, from the beginning, with up to `size` bytes: as many as the largest frame of
    /// a container has.
    pub fn set_peer(&self, peer: PeerId, size: u16) {
        self.command(Command::Set(peer, size));
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

struct State<W> {
    wire: W,
    peers: BTreeMap<PeerId, Peer>,
    started: u64,
    output: Box<dyn Fn(PeerId, Finding) + Send>,
}

struct Peer {
    prober: Prober,
    told: Finding,
    /// Until when the probes have not said enough to take back what was told.
    hold: Instant,
}

impl<W: Wire> State<W> {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut buffer = vec![0; usize::from(LARGEST)];
        loop {
            loop {
                match commands.try_recv() {
                    Ok(command) => self.handle_command(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let patience = self.work(&mut buffer);
            match self.wire.receive(&mut buffer, patience) {
                Ok((len, from)) => self.handle_probe(&buffer[..len], from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The device may have gone down; it must not keep a processor busy.
                Err(_) => thread::sleep(PATIENCE),
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Set(peer, size) => {
                let before = self.peers.get(&peer);
                self.started += 1;
                let told = before.map_or_else(Finding::default, |before| before.told);
                let size = size.min(LARGEST);
                let now = Instant::now();
                let state = Peer {
                    prober: Prober::new(self.started << 32, size, now),
                    told,
                    hold: now + BEGIN,
                };
                self.peers.insert(peer, state);
            }
            Command::Remove(peer) => drop(self.peers.remove(&peer)),
        }
    }

    fn handle_probe(&mut self, probe: &[u8], from: PeerId) {
        let Some(message) = Message::decode(probe) else {
            return;
        };
        if !message.answer {
            let answer = Message {
                answer: true,
                ..message
            };
            let _ = self.wire.send(from, &answer.encode());
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
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
                datagram[..Message::LEN].copy_from_slice(&message.encode());
                let sent = self.wire.send(*id, datagram);
                let too_large = Some(nix::libc::EMSGSIZE);
                if sent.is_err_and(|error| error.raw_os_error() == too_large) {
                    peer.prober.handle_too_large(request.seq, now);
                }
            }
            let finding = Finding {
                answered_since: peer.prober.alive_since(),
                full_size: peer.prober.full_size(),
            };
            if finding.full_size || now >= peer.hold {
                peer.hold = now;
            }
            if finding != peer.told && now >= peer.hold {
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
    use proptest::prelude::*;

    use super::*;

    /// One end of a wire between two peers.
    struct End {
        peer: PeerId,
        to: Sender<Vec<u8>>,
        from: Receiver<Vec<u8>>,
    }

    impl Wire for End {
        fn send(&mut self, _: PeerId, probe: &[u8]) -> io::Result<()> {
            let gone = |_| io::ErrorKind::NotConnected.into();
            self.to.send(probe.to_vec()).map_err(gone)
        }

        fn receive(
            &mut self,
            buffer: &mut [u8],
            patience: Duration,
        ) -> io::Result<(usize, PeerId)> {
            let probe = self.from.recv_timeout(patience);
            let probe = probe.map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
            buffer[..probe.len()].copy_from_slice(&probe);
            Ok((probe.len(), self.peer))
        }
    }

    #[test]
    fn what_gets_through_is_found_and_its_end_is_noticed() {
        let (one, two) = (PeerId::from_bytes([1; 16]), PeerId::from_bytes([2; 16]));
        let ((to_one, at_one), (to_two, at_two)) = (channel(), channel());
        let end = |peer, to, from| End { peer, to, from };
        let (found, findings) = channel();
        let answering = VxlanProbes::start(end(one, to_one, at_two), |_, _| {}).unwrap();
        let report = move |_, finding| {
            let _ = found.send(finding);
        };
        let probing = VxlanProbes::start(end(two, to_two, at_one), report).unwrap();
        probing.set_peer(two, 1402);
        let patience = Duration::from_secs(60);
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
