//! Sealing and opening packets under the keys of one session.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thiserror::Error;
use zeroize::Zeroizing;

use super::cipher::{Cipher, CipherKey};
use super::replay::{Accepted, ReplayWindow};
use super::wire::{HEADER, Header, OVERHEAD, TAG};
use crate::types::PeerId;

/// Packets under one key: 2^34 of 1.4 kB are 2^41 blocks of AES, of which distinguishing the cipher
/// from chance would take some 2^64. At ten million packets a second they last half an hour; keys
/// are replaced every two minutes, and in any case after half of them.
pub const MAX_PACKETS: u64 = 1 << 34;

/// Why a packet is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It was seen before, or is too old to tell.
    #[error("replayed or too old")]
    Replayed,
    /// It was not sealed with this key, or changed on its way.
    #[error("not authentic")]
    Forged,
}

/// The key for one direction, as raw bytes.
pub type RawKey = Zeroizing<[u8; 32]>;

/// Seals what goes to a peer.
pub struct SendKey {
    key: CipherKey,
    receiver: u32,
    counter: AtomicU64,
    cipher: Cipher,
}

impl SendKey {
    /// A key that nothing has been sealed with.
    pub fn new(cipher: Cipher, key: &RawKey, receiver: u32) -> Self {
        Self {
            key: CipherKey::new(cipher, key),
            receiver,
            counter: AtomicU64::new(0),
            cipher,
        }
    }

    /// How packets are sealed.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// How many packets have been sealed.
    pub fn used(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Takes consecutive counters; the first of them, or `None` when the key is used up.
    pub fn reserve(&self, packets: u64) -> Option<u64> {
        // Even if all threads of a machine overshot at once, nothing near u64::MAX is reached.
        let first = self.counter.fetch_add(packets, Ordering::Relaxed);
        (first < MAX_PACKETS).then_some(first)
    }

    /// Seals a packet in its place: writes the header before and the tag after the body that
    /// lies between them.
    pub fn seal(&self, counter: u64, packet: &mut [u8]) {
        let header = Header {
            receiver: self.receiver,
            counter,
        }
        .encode();
        let Some((head, rest)) = packet.split_first_chunk_mut::<HEADER>() else {
            return;
        };
        let Some((body, tail)) = rest.split_last_chunk_mut::<TAG>() else {
            return;
        };
        *head = header;
        self.key.seal(nonce(counter), &header, body, tail);
    }
}

impl fmt::Debug for SendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendKey({}, {:08x})", self.cipher, self.receiver)
    }
}

/// Opens what comes from a peer.
pub struct ReceiveKey {
    key: CipherKey,
    peer: PeerId,
    index: u32,
    used: AtomicBool,
    window: Mutex<ReplayWindow>,
}

impl ReceiveKey {
    /// A key that nothing has been opened with.
    pub fn new(cipher: Cipher, key: &RawKey, peer: PeerId, index: u32) -> Self {
        Self {
            key: CipherKey::new(cipher, key),
            peer,
            index,
            used: AtomicBool::new(false),
            window: Mutex::new(ReplayWindow::new()),
        }
    }

    /// Who seals with it.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// By which number packets name it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Notes that it was used; returns whether that was the first time.
    pub fn first_use(&self) -> bool {
        !self.used.load(Ordering::Relaxed) && !self.used.swap(true, Ordering::Relaxed)
    }

    /// The highest counter of what was opened, plus one; zero when nothing was.
    pub fn opened(&self) -> u64 {
        self.lock().next()
    }

    /// Opens a packet in its place. Returns its body, and whether it is the newest so far.
    ///
    /// # Errors
    /// When it was seen before or is not authentic; nothing has changed then, but the packet's
    /// bytes are lost.
    pub fn open<'a>(&self, packet: &'a mut [u8]) -> Result<(&'a mut [u8], bool), OpenError> {
        if packet.len() < OVERHEAD {
            return Err(OpenError::Forged);
        }
        let (header, sealed) = packet.split_at_mut(HEADER);
        let counter = header
            .last_chunk()
            .copied()
            .map_or(u64::MAX, u64::from_be_bytes);
        let mut window = self.lock();
        if !window.is_new(counter) {
            return Err(OpenError::Replayed);
        }
        let body = self
            .key
            .open(nonce(counter), header, sealed)
            .ok_or(OpenError::Forged)?;
        match window.accept(counter) {
            Accepted::Latest => Ok((body, true)),
            Accepted::Late => Ok((body, false)),
            Accepted::Replayed => Err(OpenError::Replayed),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ReplayWindow> {
        self.window
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for ReceiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveKey({:?}, {:08x})", self.peer, self.index)
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(cipher: Cipher) -> (SendKey, ReceiveKey) {
        let raw = Zeroizing::new([7; 32]);
        let peer = PeerId::from_bytes([1; 16]);
        (
            SendKey::new(cipher, &raw, 99),
            ReceiveKey::new(cipher, &raw, peer, 99),
        )
    }

    fn seal(key: &SendKey, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER];
        packet.extend(body);
        packet.resize(packet.len() + TAG, 0);
        key.seal(key.reserve(1).unwrap(), &mut packet);
        packet
    }

    #[test]
    fn a_packet_is_opened_once() {
        let (send, receive) = keys(Cipher::Aes256Gcm);
        let packet = seal(&send, b"sixteen bytes...");
        assert_eq!(
            receive.open(&mut packet.clone()).unwrap().0,
            b"sixteen bytes..."
        );
        assert_eq!(receive.open(&mut packet.clone()), Err(OpenError::Replayed));
    }

    #[test]
    fn a_used_up_key_seals_nothing() {
        let (send, _) = keys(Cipher::Aes256Gcm);
        send.counter.store(MAX_PACKETS, Ordering::Relaxed);
        assert_eq!(send.reserve(1), None);
    }

    proptest! {
        #[test]
        fn bodies_survive_and_do_not_show(
            body in prop::collection::vec(any::<u8>(), 16..2000), aes: bool,
        ) {
            let cipher = if aes { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
            let (send, receive) = keys(cipher);
            let mut packet = seal(&send, &body);
            prop_assert!(!packet.windows(16).any(|seen| body.windows(16).any(|part| part == seen)));
            prop_assert_eq!(&receive.open(&mut packet).unwrap().0[..], &body[..]);
        }

        #[test]
        fn changed_packets_are_refused_and_do_no_harm(
            body in prop::collection::vec(any::<u8>(), 16..200), at: prop::sample::Index, bit in 0..8,
        ) {
            let (send, receive) = keys(Cipher::Aes256Gcm);
            let packet = seal(&send, &body);
            let mut flipped = packet.clone();
            let at = at.index(packet.len());
            flipped[at] ^= 1u8 << bit;
            prop_assert!(receive.open(&mut flipped).is_err());
            for len in 0..packet.len() {
                prop_assert!(receive.open(&mut packet[..len].to_vec()).is_err());
            }
            prop_assert!(receive.open(&mut packet.clone()).is_ok());
        }
    }
}
