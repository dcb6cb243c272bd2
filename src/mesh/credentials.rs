//! What a peer brings to a handshake: its identity, its password, and what it says of itself.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::identity::Identity;
use super::refusal::Refusal;
use crate::types::{PeerId, Secret};

/// Longest nickname and version text that are sent and taken, in bytes.
const MAX_TEXT: usize = 255;

/// The peers of a mesh share nothing but the password before they meet, so the salt is the same
/// everywhere: it keeps tables made for other applications from fitting.
const PASSWORD_SALT: &[u8] = b"weave mesh password v1";

/// What a key made from the stretched password for the tunnel is made with, so that it is no key of
/// the mesh (RFC 5869, section 3.2).
const TUNNEL_INFO: &[u8] = b"weave tunnel password v1";

/// What the tunnel's handshakes need of the mesh's.
#[derive(Clone)]
pub struct TunnelKeys {
    /// This peer.
    pub peer: PeerId,
    /// The private half of the X25519 key that its name is made from.
    pub static_key: Zeroizing<[u8; 32]>,
    /// A key made from the password, if there is one.
    pub password_key: Option<Zeroizing<[u8; 32]>>,
}

impl fmt::Debug for TunnelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelKeys")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What a peer says of itself once it knows that the other side may hear it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Details {
    /// What it calls itself: at most 255 bytes.
    pub(super) nickname: String,
    /// The version of its daemon: at most 255 bytes.
    pub(super) version: String,
    /// A number of this start of the peer: greater for a later one.
    pub(super) instance: u64,
    /// The number of this start among those of the peer.
    pub(super) epoch: u64,
    /// The TCP port on which it accepts sessions, 0 for none.
    pub(super) port: u16,
    /// What it can do beyond the protocol version, one bit each.
    pub(super) features: u64,
}

impl Details {
    /// A later version appends fields, which this one skips.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let (details, _) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|_| Refusal::protocol("its details are malformed"))?;
        if details.nickname.len() > MAX_TEXT || details.version.len() > MAX_TEXT {
            return Err(Refusal::protocol("its nickname or version is too long"));
        }
        Ok(details)
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let mut shortened = self.clone();
        truncate(&mut shortened.nickname);
        truncate(&mut shortened.version);
        postcard::to_stdvec(&shortened).map_err(|error| Refusal::protocol(error.to_string()))
    }
}

/// Cuts a text to [`MAX_TEXT`] bytes, never within a character.
fn truncate(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}

/// A password made slow to guess.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(super) struct StretchedPassword(pub(super) [u8; 32]);

impl StretchedPassword {
    /// Stretches with argon2id. Takes some 20 ms and 19 MiB, which are given back: not for the
    /// threads that run tasks.
    ///
    /// # Errors
    ///
    /// When the password is longer than 4 GiB or there is no memory.
    pub(super) fn stretch(password: &Secret) -> Result<Self, argon2::Error> {
        // OWASP Password Storage Cheat Sheet: 19 MiB, two passes, one lane.
        let params = Params::new(19 * 1024, 2, 1, Some(32))?;
        let mut key = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
            password.reveal().as_bytes(),
            PASSWORD_SALT,
            &mut key,
        )?;
        Ok(Self(key))
    }

    /// Another key, for the tunnel.
    fn for_tunnel(&self) -> Zeroizing<[u8; 32]> {
        // Random where it cannot be made: never the same as without a password.
        let mut key = Zeroizing::new(rand::random::<[u8; 32]>());
        let expanded = Hkdf::<Sha256>::new(None, &self.0).expand(TUNNEL_INFO, key.as_mut_slice());
        if expanded.is_err() {
            key = Zeroizing::new(rand::random());
        }
        key
    }

    /// One that nobody knows: what remains when the right one cannot be stretched.
    pub(super) fn unknown() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for StretchedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What this side brings to every handshake.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    /// Who this peer is.
    pub(super) identity: Identity,
    /// What it proves and wants proved.
    pub(super) password: Option<StretchedPassword>,
    /// What it says of itself afterwards.
    pub(super) details: Details,
}

impl Credentials {
    pub(super) fn tunnel_keys(&self) -> TunnelKeys {
        TunnelKeys {
            peer: self.identity.id(),
            static_key: Zeroizing::new(*self.identity.secret_key()),
            password_key: self.password.as_ref().map(StretchedPassword::for_tunnel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_depends_on_the_password_alone() {
        let stretch = |text| StretchedPassword::stretch(&Secret::new(text)).unwrap();
        assert!(stretch("one") == stretch("one"));
        assert!(stretch("one") != stretch("two"));
    }

    #[test]
    fn the_tunnels_key_depends_on_the_password_and_is_not_the_meshs() {
        let (one, two) = (StretchedPassword([1; 32]), StretchedPassword([2; 32]));
        assert_eq!(one.for_tunnel(), one.for_tunnel());
        assert_ne!(one.for_tunnel(), two.for_tunnel());
        assert_ne!(*one.for_tunnel(), one.0);
    }
}
