//! How two peers agree on the keys of a session: Noise XX with both peers' long-lived keys, and
//! the mesh's password where there is one.
//!
//! `PeerId` is the hash of the key that the peer proves to hold, so nobody between can stand in
//! for it. The messages travel over the mesh, which may lose them.

use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher as NoiseCipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use thiserror::Error;
use zeroize::Zeroizing;

use super::cipher::Cipher;
use super::seal::RawKey;
use crate::types::PeerId;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const PATTERN_WITH_PASSWORD: &str = "Noise_XXpsk3_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"weave tunnel session 1";
/// Bytes of a handshake message: three X25519 values, tags and a payload of a few bytes.
const MAX_MESSAGE: usize = 512;

/// What this peer is.
#[derive(Clone)]
pub struct Identity {
    /// The X25519 key that its name is made from.
    pub static_key: RawKey,
    /// The key made from the mesh's password, if there is one.
    pub password_key: Option<RawKey>,
    /// This peer's name.
    pub peer: PeerId,
    /// How it prefers packets to be sealed.
    pub cipher: Cipher,
}

/// Why a handshake is given up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The message is not one of ours.
    #[error("expected a handshake message, got {0} other bytes")]
    Malformed(usize),
    /// The message does not fit to the state, the keys or the password.
    #[error("handshake refused: {0}")]
    Noise(#[from] snow::Error),
    /// The key is not the one that belongs to the sender's name.
    #[error("expected the key of peer {expected}, got that of {got}")]
    WrongPeer {
        /// Who should have answered.
        expected: PeerId,
        /// Who did.
        got: PeerId,
    },
}

/// A message between the tunnels of two peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First message of Noise, with the initiator's number for the attempt.
    Begin {
        /// Which attempt.
        attempt: u32,
        /// Noise.
        noise: Vec<u8>,
    },
    /// Second message.
    Answer {
        /// Which attempt.
        attempt: u32,
        /// Noise.
        noise: Vec<u8>,
    },
    /// Third message.
    Finish {
        /// Which attempt.
        attempt: u32,
        /// Noise.
        noise: Vec<u8>,
    },
    /// The third message came.
    Done {
        /// Which attempt.
        attempt: u32,
    },
}

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising integers and byte strings into a vector cannot fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(HandshakeError::Malformed(bytes.len()));
        }
        postcard::from_bytes(bytes).map_err(|_| HandshakeError::Malformed(bytes.len()))
    }
}

/// What the peers tell each other inside the handshake.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Offer {
    /// By which number packets to the sender name the key.
    receiver: u32,
    /// Whether AES is fast there.
    aes: bool,
}

/// The outcome: keys for both directions.
pub struct Keys {
    /// How packets are sealed.
    pub cipher: Cipher,
    /// For what this peer sends.
    pub send: RawKey,
    /// For what it receives.
    pub receive: RawKey,
    /// By which number packets to the other peer name the key.
    pub remote_index: u32,
}

/// One handshake of one side.
pub struct Handshake {
    noise: HandshakeState,
    offer: Offer,
    remote: PeerId,
}

impl Handshake {
    /// Begins one; returns the first message of Noise as well.
    ///
    /// # Errors
    /// When Noise refuses the keys.
    pub fn initiate(
        identity: &Identity,
        remote: PeerId,
        local_index: u32,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let prologue = prologue(identity.peer, remote);
        let noise = with_builder(identity, &prologue, rng, |builder| {
            builder.build_initiator()
        })?;
        let mut handshake = Self::new(identity, noise, remote, local_index);
        let first = handshake.write(&[])?;
        Ok((handshake, first))
    }

    /// Answers the first message; returns the second.
    ///
    /// # Errors
    /// When Noise refuses the message.
    pub fn respond(
        identity: &Identity,
        remote: PeerId,
        local_index: u32,
        first: &[u8],
        rng: &mut ChaCha20Rng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let prologue = prologue(remote, identity.peer);
        let noise = with_builder(identity, &prologue, rng, |builder| {
            builder.build_responder()
        })?;
        let mut handshake = Self::new(identity, noise, remote, local_index);
        handshake.read(first)?;
        let offer = handshake.encode_offer();
        let second = handshake.write(&offer)?;
        Ok((handshake, second))
    }

    /// Takes the second message; returns the third and the keys.
    ///
    /// # Errors
    /// When it does not prove to be the peer's.
    pub fn finish(mut self, second: &[u8]) -> Result<(Vec<u8>, Keys), HandshakeError> {
        let offer = self.read(second)?;
        self.check_remote()?;
        let own = self.encode_offer();
        let third = self.write(&own)?;
        Ok((third, self.keys(&offer, true)?))
    }

    /// Takes the third message; returns the keys.
    ///
    /// # Errors
    /// When it does not prove to be the peer's.
    pub fn complete(mut self, third: &[u8]) -> Result<Keys, HandshakeError> {
        let offer = self.read(third)?;
        self.check_remote()?;
        self.keys(&offer, false)
    }

    fn new(identity: &Identity, noise: HandshakeState, remote: PeerId, receiver: u32) -> Self {
        Self {
            noise,
            offer: Offer {
                receiver,
                aes: identity.cipher == Cipher::Aes256Gcm,
            },
            remote,
        }
    }

    fn encode_offer(&self) -> Vec<u8> {
        // Serialising two integers into a vector cannot fail.
        postcard::to_allocvec(&self.offer).unwrap_or_default()
    }

    fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut message = vec![0; MAX_MESSAGE];
        let len = self.noise.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![0; MAX_MESSAGE];
        let len = self.noise.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    fn check_remote(&self) -> Result<(), HandshakeError> {
        let key = self.noise.get_remote_static();
        let key: &[u8; 32] = key
            .and_then(|key| key.try_into().ok())
            .ok_or(HandshakeError::Malformed(0))?;
        let got = PeerId::of_public_key(key);
        if got != self.remote {
            return Err(HandshakeError::WrongPeer {
                expected: self.remote,
                got,
            });
        }
        Ok(())
    }

    fn keys(mut self, offer: &[u8], initiator: bool) -> Result<Keys, HandshakeError> {
        let theirs: Offer =
            postcard::from_bytes(offer).map_err(|_| HandshakeError::Malformed(offer.len()))?;
        let (forth, back) = self.noise.dangerously_get_raw_split();
        let (forth, back) = (Zeroizing::new(forth), Zeroizing::new(back));
        let (send, receive) = if initiator {
            (forth, back)
        } else {
            (back, forth)
        };
        let cipher = if self.offer.aes && theirs.aes {
            Cipher::Aes256Gcm
        } else {
            Cipher::ChaCha20Poly1305
        };
        Ok(Keys {
            cipher,
            send,
            receive,
            remote_index: theirs.receiver,
        })
    }
}

fn prologue(initiator: PeerId, responder: PeerId) -> Vec<u8> {
    [PROLOGUE, initiator.as_bytes(), responder.as_bytes()].concat()
}

fn with_builder(
    identity: &Identity,
    prologue: &[u8],
    rng: &mut ChaCha20Rng,
    build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, HandshakeError> {
    let pattern = match identity.password_key {
        Some(_) => PATTERN_WITH_PASSWORD,
        None => PATTERN,
    };
    let params: NoiseParams = pattern.parse()?;
    let resolver = Resolver {
        seed: Zeroizing::new(rng.random()),
    };
    let mut builder = Builder::with_resolver(params, Box::new(resolver))
        .local_private_key(&identity.static_key[..])?
        .prologue(prologue)?;
    if let Some(key) = &identity.password_key {
        builder = builder.psk(3, key)?;
    }
    Ok(build(builder)?)
}

/// Noise's primitives, with randomness from the generator that was handed in.
struct Resolver {
    seed: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        use rand::SeedableRng;
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn NoiseCipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    pub(in super::super) fn identity(seed: u8, password: Option<[u8; 32]>) -> Identity {
        let secret = x25519_dalek::StaticSecret::from([seed; 32]);
        let public = x25519_dalek::PublicKey::from(&secret);
        Identity {
            static_key: Zeroizing::new([seed; 32]),
            password_key: password.map(Zeroizing::new),
            peer: PeerId::of_public_key(public.as_bytes()),
            cipher: Cipher::Aes256Gcm,
        }
    }

    fn shake(
        one: &Identity,
        two: &Identity,
        expected: PeerId,
    ) -> Result<(Keys, Keys), HandshakeError> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (initiator, first) = Handshake::initiate(one, expected, 11, &mut rng)?;
        let (responder, second) = Handshake::respond(two, one.peer, 22, &first, &mut rng)?;
        let (third, keys_one) = initiator.finish(&second)?;
        Ok((keys_one, responder.complete(&third)?))
    }

    #[test]
    fn both_sides_have_the_same_keys_crosswise() {
        let (one, two) = (identity(1, Some([9; 32])), identity(2, Some([9; 32])));
        let (a, b) = shake(&one, &two, two.peer).unwrap();
        assert_eq!((&a.send, &a.receive), (&b.receive, &b.send));
        assert_ne!(a.send, a.receive);
        assert_eq!((a.remote_index, b.remote_index), (22, 11));
        assert_eq!(a.cipher, Cipher::Aes256Gcm);
    }

    #[test]
    fn one_side_without_aes_makes_both_use_chacha() {
        let (one, mut two) = (identity(1, None), identity(2, None));
        two.cipher = Cipher::ChaCha20Poly1305;
        let (a, b) = shake(&one, &two, two.peer).unwrap();
        assert_eq!((a.cipher, b.cipher), (two.cipher, two.cipher));
    }

    #[test]
    fn passwords_must_agree() {
        let one = identity(1, Some([9; 32]));
        for password in [None, Some([8; 32])] {
            let two = identity(2, password);
            assert!(shake(&one, &two, two.peer).is_err());
        }
    }

    #[test]
    fn nobody_can_answer_for_another() {
        let (one, two) = (identity(1, None), identity(2, None));
        let other = identity(3, None).peer;
        assert!(shake(&one, &two, other).is_err());
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes: Vec<u8>) {
            let _ = Message::decode(&bytes);
            let mut rng = ChaCha20Rng::seed_from_u64(1);
            let one = identity(1, None);
            let (two, _) = Handshake::initiate(&one, one.peer, 1, &mut rng).unwrap();
            let _ = two.finish(&bytes);
            let _ = Handshake::respond(&one, one.peer, 1, &bytes, &mut rng);
        }
    }
}
