//! Messages of a session on their way over TCP: packed, encrypted, cut and put together again.
//!
//! A message is preceded by its length (four bytes, big endian); the stream of messages is cut
//! into Noise messages, each preceded by its own (two bytes). So many small messages share one
//! Noise message, and a large one spreads over two. Order, loss and replay are noticed by Noise,
//! whose nonces count.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use snow::TransportState;
use thiserror::Error;

use super::message::MAX_MESSAGE;

/// Largest Noise message with its tag (Noise specification, section 3).
const MAX_NOISE: usize = 65535;

/// Authentication tag of a Noise message.
const TAG_LEN: usize = 16;

/// Noise messages under one key, in each direction. Far below what the cipher bears: it bounds
/// what a stolen key opens.
const REKEY_EVERY: u64 = 1 << 14;

/// What cannot be framed, or is no frame.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub(super) enum FrameError {
    /// A message is larger than any that is sent.
    #[error("expected at most {MAX_MESSAGE} bytes in a message, got {0}")]
    TooLarge(usize),
    /// A Noise message has less than a tag.
    #[error("expected at least {TAG_LEN} bytes in a frame, got {0}")]
    TooShort(usize),
    /// What came was not sealed by the other side, or not as the next.
    #[error("cannot open a frame: {0}")]
    Noise(#[from] snow::Error),
}

/// Splits the keys of a session into its two directions.
pub(super) fn split(transport: TransportState, surplus: &[u8]) -> (Sealer, Opener) {
    let transport = Arc::new(Mutex::new(transport));
    let sealer = Sealer {
        transport: Arc::clone(&transport),
        plain: BytesMut::new(),
        sealed: 0,
    };
    let opener = Opener {
        transport,
        cipher: BytesMut::from(surplus),
        plain: BytesMut::new(),
        opened: 0,
    };
    (sealer, opener)
}

/// The outbound direction of a session.
pub(super) struct Sealer {
    transport: Arc<Mutex<TransportState>>,
    plain: BytesMut,
    sealed: u64,
}

impl Sealer {
    /// Adds a message to those that are sealed next.
    ///
    /// # Errors
    ///
    /// When it is larger than [`MAX_MESSAGE`].
    pub(super) fn push(&mut self, message: &[u8]) -> Result<(), FrameError> {
        let len = match u32::try_from(message.len()) {
            Ok(len) if message.len() <= MAX_MESSAGE => len,
            _ => return Err(FrameError::TooLarge(message.len())),
        };
        self.plain.extend_from_slice(&len.to_be_bytes());
        self.plain.extend_from_slice(message);
        Ok(())
    }

    /// How many bytes wait to be sealed.
    pub(super) fn pending(&self) -> usize {
        self.plain.len()
    }

    /// Seals all that was added and appends it to `out`.
    ///
    /// # Errors
    ///
    /// When the session has used up its nonces.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut transport = lock(&self.transport);
        for piece in self.plain.chunks(MAX_NOISE - TAG_LEN) {
            let len = piece.len() + TAG_LEN;
            // At most MAX_NOISE, which fits.
            out.extend_from_slice(&(len as u16).to_be_bytes());
            let start = out.len();
            out.resize(start + len, 0);
            transport.write_message(piece, &mut out[start..])?;
            self.sealed += 1;
            if self.sealed.is_multiple_of(REKEY_EVERY) {
                transport.rekey_outgoing();
            }
        }
        self.plain.clear();
        Ok(())
    }
}

/// The inbound direction of a session.
pub(super) struct Opener {
    transport: Arc<Mutex<TransportState>>,
    cipher: BytesMut,
    plain: BytesMut,
    opened: u64,
}

impl Opener {
    /// Where the next bytes from the socket go.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.cipher
    }

    /// The next message, or `None` until more bytes have come.
    ///
    /// # Errors
    ///
    /// When what came is not what the other side sealed next; the session is of no use then.
    pub(super) fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if !self.open_frame()? {
                return Ok(None);
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(&len) = self.plain.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_MESSAGE {
            return Err(FrameError::TooLarge(len));
        }
        if self.plain.len() < 4 + len {
            return Ok(None);
        }
        // A copy: what is kept of a message must not keep a whole buffer alive.
        let message = Bytes::copy_from_slice(&self.plain[4..4 + len]);
        bytes::Buf::advance(&mut self.plain, 4 + len);
        Ok(Some(message))
    }

    fn open_frame(&mut self) -> Result<bool, FrameError> {
        let Some(&len) = self.cipher.first_chunk::<2>() else {
            return Ok(false);
        };
        let len = usize::from(u16::from_be_bytes(len));
        if len < TAG_LEN {
            return Err(FrameError::TooShort(len));
        }
        if self.cipher.len() < 2 + len {
            return Ok(false);
        }
        let start = self.plain.len();
        self.plain.resize(start + len, 0);
        let mut transport = lock(&self.transport);
        let plain = transport.read_message(&self.cipher[2..2 + len], &mut self.plain[start..])?;
        self.plain.truncate(start + plain);
        self.opened += 1;
        if self.opened.is_multiple_of(REKEY_EVERY) {
            transport.rekey_incoming();
        }
        bytes::Buf::advance(&mut self.cipher, 2 + len);
        Ok(true)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

/// The keys are whole at every point where a thread could die.
fn lock(transport: &Mutex<TransportState>) -> MutexGuard<'_, TransportState> {
    transport.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> (TransportState, TransportState) {
        let builder = || snow::Builder::new("Noise_NN_25519_ChaChaPoly_SHA256".parse().unwrap());
        let mut one = builder().build_initiator().unwrap();
        let mut two = builder().build_responder().unwrap();
        let (mut wire, mut payload) = ([0; 256], [0; 256]);
        let len = one.write_message(&[], &mut wire).unwrap();
        two.read_message(&wire[..len], &mut payload).unwrap();
        let len = two.write_message(&[], &mut wire).unwrap();
        one.read_message(&wire[..len], &mut payload).unwrap();
        let transport = |state: snow::HandshakeState| state.into_transport_mode().unwrap();
        (transport(one), transport(two))
    }

    fn ends() -> (Sealer, Opener) {
        let (one, two) = session();
        (split(one, &[]).0, split(two, &[]).1)
    }

    #[test]
    fn small_messages_share_one_frame() {
        let (mut sealer, _) = ends();
        let mut wire = Vec::new();
        (0..100).for_each(|_| sealer.push(b"hello").unwrap());
        sealer.seal(&mut wire).unwrap();
        assert_eq!(wire.len(), 2 + 100 * (4 + 5) + TAG_LEN);
    }

    #[test]
    fn keys_are_replaced_on_both_sides_at_once() {
        let (mut sealer, mut opener) = ends();
        let mut wire = Vec::new();
        for _ in 0..2 * REKEY_EVERY + 10 {
            wire.clear();
            sealer.push(b"x").unwrap();
            sealer.seal(&mut wire).unwrap();
            opener.buffer().extend_from_slice(&wire);
            assert_eq!(opener.next_message().unwrap().as_deref(), Some(&b"x"[..]));
        }
    }

    #[test]
    fn a_replayed_frame_is_noticed() {
        let (mut sealer, mut opener) = ends();
        let mut wire = Vec::new();
        sealer.push(b"once").unwrap();
        sealer.seal(&mut wire).unwrap();
        opener.buffer().extend_from_slice(&wire);
        assert!(opener.next_message().unwrap().is_some());
        opener.buffer().extend_from_slice(&wire);
        assert!(matches!(opener.next_message(), Err(FrameError::Noise(_))));
    }

    #[test]
    fn too_large_a_message_is_refused_where_it_is_made() {
        let (mut sealer, _) = ends();
        let message = vec![0; MAX_MESSAGE + 1];
        let error = FrameError::TooLarge(message.len());
        assert_eq!(sealer.push(&message), Err(error));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn messages_arrive_whole_and_in_order_however_the_stream_is_cut(
            sizes in prop::collection::vec(0_usize..=MAX_MESSAGE, 1..6),
            cut in 1_usize..5000,
        ) {
            let (mut sealer, mut opener) = ends();
            let mut wire = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                sealer.push(&vec![number as u8; *size]).unwrap();
                if number % 2 == 0 {
                    sealer.seal(&mut wire).unwrap();
                }
            }
            sealer.seal(&mut wire).unwrap();
            let mut arrived = Vec::new();
            for piece in wire.chunks(cut) {
                opener.buffer().extend_from_slice(piece);
                while let Some(message) = opener.next_message().unwrap() {
                    prop_assert!(message.iter().all(|byte| *byte == arrived.len() as u8));
                    arrived.push(message.len());
                }
            }
            prop_assert_eq!(arrived, sizes);
        }

        #[test]
        fn a_changed_bit_is_noticed(size in 0_usize..2000, bit: prop::sample::Index) {
            let (mut sealer, mut opener) = ends();
            let mut wire = Vec::new();
            sealer.push(&vec![7; size]).unwrap();
            sealer.seal(&mut wire).unwrap();
            let bit = bit.index(wire.len() * 8);
            wire[bit / 8] ^= 1 << (bit % 8);
            opener.buffer().extend_from_slice(&wire);
            prop_assert!(!matches!(opener.next_message(), Ok(Some(_))));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let (_, mut opener) = ends();
            opener.buffer().extend_from_slice(&bytes);
            let _ = opener.next_message();
        }
    }
}
