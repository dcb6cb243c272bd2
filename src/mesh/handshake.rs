//! How two peers get to know each other, from the first byte to a session; without IO.
//!
//! ```text
//! initiator                                     responder
//!    | preamble: magic, versions                    |
//!    |--------------------------------------------->|
//!    |                   preamble: magic, versions  |
//!    |<---------------------------------------------|
//!    | Noise XX: e                                  |
//!    |--------------------------------------------->|
//!    |                          Noise XX: e, ee, s, es
//!    |<---------------------------------------------|
//!    | Noise XX: s, se     Hello [PAKE element]     |   from Hello on, inside
//!    |--------------------------------------------->|   the Noise channel
//!    |        Hello [PAKE element]   [Confirm]      |
//!    |<---------------------------------------------|
//!    | [Confirm]  Details                           |
//!    |--------------------------------------------->|
//!    |                                     Details  |
//!    |<---------------------------------------------|
//! ```
//!
//! **A listener** sees the preambles and two ephemeral keys; everything after is encrypted with
//! what only the holders of those keys can compute, so a recorded session holds nothing to test
//! guesses of the password against.
//!
//! **An active attacker** can complete the Noise part with a key of its own, with either side or
//! with both. What it then gets is a SPAKE2 element, which is a random point: for every password
//! there is an exponent that gives this very point. To learn more it must commit to one guess in
//! its own element, and the confirmation tells it whether that one guess was right. Each further
//! guess costs another connection, which the shell counts. Relaying the elements between two
//! honest peers does not help either: the password key is bound to both static keys and to the
//! hash of the whole Noise handshake, which differ on the two sides of a man in the middle, so
//! the confirmations do not match.
//!
//! **A peer with a wrong password** gets a refusal and has seen a public key: nickname, version
//! and everything else are in `Details`, which is said only after the confirmation of the other
//! side proved right. Stretching the password (argon2id) makes guesses slow for someone who
//! stole the derived key from a running peer's memory.
//!
//! Without a password on either side the channel is encrypted against listeners, and whoever
//! reaches the port may join.

use std::fmt;
use std::sync::Arc;

use hkdf::Hkdf;
use sha2::Sha256;
use snow::{HandshakeState, TransportState};
use spake2::{Ed25519Group, Identity as PakeIdentity, Password as PakePassword, Spake2};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::credentials::{Credentials, Details, StretchedPassword};
use super::refusal::{Refusal, VersionRange};
use crate::types::PeerId;

/// The first bytes of every connection. Those of Go Weave Net are the ASCII letters `weave`.
const MAGIC: [u8; 4] = [0xd7, b'w', b'n', b'r'];
const WEAVE_NET_MAGIC: &[u8] = b"weave";

/// Magic, lowest and highest protocol version.
const PREAMBLE_LEN: usize = MAGIC.len() + 2;

/// The protocol versions that this side speaks.
const PROTOCOL: VersionRange = VersionRange { min: 1, max: 1 };

const NOISE_PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// Largest message of the handshake; the largest that is sent has some 600 bytes.
const MAX_MESSAGE: usize = 1024;

/// Authentication tag of a Noise message (Noise specification, section 5.1).
const TAG_LEN: usize = 16;

/// A SPAKE2 message: the role's letter and a compressed point.
const PAKE_LEN: usize = 33;

/// Which side of a connection this one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It dialled.
    Initiator,
    /// It was dialled.
    Responder,
}

/// What a handshake leads to.
pub(super) struct Established {
    /// Who is at the other end: derived from the key it proved to hold.
    pub(super) peer: PeerId,
    /// That key.
    pub(super) public_key: [u8; 32],
    /// What it says of itself.
    pub(super) details: Details,
    /// The protocol version that both sides speak.
    pub(super) protocol: u8,
    /// The keys of the session.
    pub(super) transport: TransportState,
    /// What came after the end of the handshake.
    pub(super) surplus: Vec<u8>,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established")
            .field("peer", &self.peer)
            .field("details", &self.details)
            .finish_non_exhaustive()
    }
}

/// One handshake: bytes of the other side go in, bytes for it come out.
///
/// Ephemeral keys come from the system's random generator; it has no other input.
pub(super) struct Handshake {
    role: Role,
    local: Arc<Credentials>,
    phase: Phase,
    channel: Option<TransportState>,
    protocol: u8,
    remote_key: [u8; 32],
    binding: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What is waited for.
enum Phase {
    Preamble,
    Noise(Box<HandshakeState>),
    Hello(Option<Spake2<Ed25519Group>>),
    Confirm([u8; 32]),
    Details,
    Done(Details),
    Refused(Refusal),
}

/// What a message inside the channel is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Refuse = 0,
    Hello = 1,
    Confirm = 2,
    Details = 3,
}

impl Handshake {
    /// Begins a handshake.
    pub(super) fn new(role: Role, local: Arc<Credentials>) -> Self {
        let mut handshake = Self {
            role,
            local,
            phase: Phase::Preamble,
            channel: None,
            protocol: 0,
            remote_key: [0; 32],
            binding: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
        };
        // The responder stays silent until it has seen who calls.
        if role == Role::Initiator {
            handshake.output.extend_from_slice(&own_preamble());
        }
        handshake
    }

    /// Takes what came from the other side, in pieces of any size.
    ///
    /// # Errors
    ///
    /// When there will be no session. What [`poll_transmit`](Self::poll_transmit) then gives
    /// tells the other side.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if let Phase::Refused(refusal) = &self.phase {
            return Err(refusal.clone());
        }
        self.input.extend_from_slice(bytes);
        self.advance().inspect_err(|refusal| {
            // The other side is told if it can be; that it cannot changes nothing.
            let _ = self.send(Tag::Refuse, &[refusal.code()]);
            self.phase = Phase::Refused(refusal.clone());
            self.input = Vec::new();
        })
    }

    /// What is to be sent now.
    pub(super) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// Whether the other side knows by now if its guess of the password was right and has not
    /// shown it: ending the connection here is what someone who guesses would do.
    pub(super) fn has_answered_guess(&self) -> bool {
        matches!(self.phase, Phase::Confirm(_))
    }

    /// Whether [`into_established`](Self::into_established) gives a session.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done(_))
    }

    /// The session, once the handshake is done.
    pub(super) fn into_established(self) -> Option<Established> {
        let (Phase::Done(details), Some(transport)) = (self.phase, self.channel) else {
            return None;
        };
        Some(Established {
            peer: PeerId::of_public_key(&self.remote_key),
            public_key: self.remote_key,
            details,
            protocol: self.protocol,
            transport,
            surplus: self.input,
        })
    }

    fn advance(&mut self) -> Result<(), Refusal> {
        loop {
            // A refusal is what remains if the next step fails.
            let interrupted = Phase::Refused(Refusal::protocol("the handshake failed"));
            self.phase = match std::mem::replace(&mut self.phase, interrupted) {
                Phase::Preamble => match self.take_preamble()? {
                    Some(theirs) => self.on_preamble(theirs)?,
                    None => return self.wait(Phase::Preamble),
                },
                Phase::Noise(noise) => match self.take_message()? {
                    Some(message) => self.on_noise(noise, &message)?,
                    None => return self.wait(Phase::Noise(noise)),
                },
                phase @ (Phase::Done(_) | Phase::Refused(_)) => return self.wait(phase),
                phase => match self.take_message()? {
                    Some(message) => {
                        let (tag, body) = self.open(&message)?;
                        self.on_message(phase, tag, &body)?
                    }
                    None => return self.wait(phase),
                },
            };
        }
    }

    fn wait(&mut self, phase: Phase) -> Result<(), Refusal> {
        self.phase = phase;
        Ok(())
    }

    /// The other side's preamble. Wrong magic is noticed at the first byte that differs: whoever
    /// speaks something else may never send as much as a preamble.
    fn take_preamble(&mut self) -> Result<Option<[u8; PREAMBLE_LEN]>, Refusal> {
        let known = self.input.len().min(MAGIC.len());
        if self.input[..known] != MAGIC[..known] {
            let weave_net = self.input.starts_with(WEAVE_NET_MAGIC);
            return Err(Refusal::protocol(if weave_net {
                "it is a peer of Weave Net 1 or 2, which cannot join this mesh"
            } else {
                "its first bytes are not those of a peer"
            }));
        }
        let Some(preamble) = self.input.first_chunk().copied() else {
            return Ok(None);
        };
        self.input.drain(..PREAMBLE_LEN);
        Ok(Some(preamble))
    }

    fn on_preamble(&mut self, theirs: [u8; PREAMBLE_LEN]) -> Result<Phase, Refusal> {
        let ours = own_preamble();
        let [.., min, max] = theirs;
        let prologue = match self.role {
            Role::Initiator => [ours, theirs].concat(),
            Role::Responder => {
                self.output.extend_from_slice(&ours);
                [theirs, ours].concat()
            }
        };
        let theirs = VersionRange { min, max };
        self.protocol = PROTOCOL.common(theirs).ok_or(Refusal::VersionMismatch {
            ours: PROTOCOL,
            theirs,
        })?;
        let mut noise = self.noise(&prologue).map_err(noise_refusal)?;
        if noise.is_my_turn() {
            self.write_noise(&mut noise)?;
        }
        Ok(Phase::Noise(Box::new(noise)))
    }

    fn noise(&self, prologue: &[u8]) -> Result<HandshakeState, snow::Error> {
        let builder = snow::Builder::new(NOISE_PATTERN.parse()?)
            .local_private_key(self.local.identity.secret_key())?
            .prologue(prologue)?;
        match self.role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        }
    }

    fn on_noise(
        &mut self,
        mut noise: Box<HandshakeState>,
        message: &[u8],
    ) -> Result<Phase, Refusal> {
        let mut payload = [0; MAX_MESSAGE];
        noise
            .read_message(message, &mut payload)
            .map_err(noise_refusal)?;
        if !noise.is_handshake_finished() {
            self.write_noise(&mut noise)?;
        }
        if !noise.is_handshake_finished() {
            return Ok(Phase::Noise(noise));
        }
        self.remote_key = noise
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
            .ok_or_else(|| Refusal::protocol("it showed no key"))?;
        self.binding = noise.get_handshake_hash().to_vec();
        self.channel = Some(noise.into_transport_mode().map_err(noise_refusal)?);
        self.greet()
    }

    fn write_noise(&mut self, noise: &mut HandshakeState) -> Result<(), Refusal> {
        let mut message = [0; MAX_MESSAGE];
        let len = noise
            .write_message(&[], &mut message)
            .map_err(noise_refusal)?;
        self.queue(&message[..len]);
        Ok(())
    }

    /// The PAKE element tells nothing to a peer that has no password, so it goes at once.
    fn greet(&mut self) -> Result<Phase, Refusal> {
        let local = Arc::clone(&self.local);
        let Some(StretchedPassword(password)) = &local.password else {
            self.send(Tag::Hello, &[])?;
            return Ok(Phase::Hello(None));
        };
        let password = PakePassword::new(password);
        let (ours, theirs) = (local.identity.public_key(), &self.remote_key);
        let (pake, element) = match self.role {
            Role::Initiator => {
                let (a, b) = (PakeIdentity::new(ours), PakeIdentity::new(theirs));
                Spake2::start_a(&password, &a, &b)
            }
            Role::Responder => {
                let (a, b) = (PakeIdentity::new(theirs), PakeIdentity::new(ours));
                Spake2::start_b(&password, &a, &b)
            }
        };
        self.send(Tag::Hello, &element)?;
        Ok(Phase::Hello(Some(pake)))
    }

    fn on_message(&mut self, phase: Phase, tag: Tag, body: &[u8]) -> Result<Phase, Refusal> {
        match (phase, tag) {
            (_, Tag::Refuse) => Err(Refusal::of_their_code(body.first())),
            (Phase::Hello(pake), Tag::Hello) => self.on_hello(pake, body),
            (Phase::Confirm(expected), Tag::Confirm) => {
                if !bool::from(expected.ct_eq(body)) {
                    return Err(Refusal::PasswordMismatch);
                }
                self.introduce()
            }
            (Phase::Details, Tag::Details) => {
                let details = Details::decode(body)?;
                if details.instance == self.local.details.instance {
                    return Err(Refusal::SelfConnection);
                }
                Ok(Phase::Done(details))
            }
            (_, tag) => Err(Refusal::protocol(format!("{tag:?} came out of turn"))),
        }
    }

    fn on_hello(
        &mut self,
        pake: Option<Spake2<Ed25519Group>>,
        element: &[u8],
    ) -> Result<Phase, Refusal> {
        match (pake, element.len()) {
            (None, 0) => self.introduce(),
            (None, PAKE_LEN) => Err(Refusal::PasswordMissingHere),
            (Some(_), 0) => Err(Refusal::PasswordMissingThere),
            (Some(pake), PAKE_LEN) => {
                let mut shared = pake
                    .finish(element)
                    .map_err(|error| Refusal::protocol(format!("bad PAKE element ({error:?})")))?;
                let schedule = Hkdf::<Sha256>::new(Some(&self.binding), &shared);
                shared.zeroize();
                let (ours, theirs) = match self.role {
                    Role::Initiator => (confirmation(&schedule, Role::Initiator)?, Role::Responder),
                    Role::Responder => (confirmation(&schedule, Role::Responder)?, Role::Initiator),
                };
                self.send(Tag::Confirm, &ours)?;
                Ok(Phase::Confirm(confirmation(&schedule, theirs)?))
            }
            (_, len) => Err(Refusal::protocol(format!(
                "expected a PAKE element of {PAKE_LEN} bytes, got {len}"
            ))),
        }
    }

    fn introduce(&mut self) -> Result<Phase, Refusal> {
        let details = self.local.details.encode()?;
        self.send(Tag::Details, &details)?;
        Ok(Phase::Details)
    }

    /// The next message without its length, or `None` until all of it is there.
    fn take_message(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(&len) = self.input.first_chunk::<2>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(len));
        if len > MAX_MESSAGE {
            return Err(Refusal::protocol(format!(
                "expected at most {MAX_MESSAGE} bytes in a message, got {len}"
            )));
        }
        if self.input.len() < 2 + len {
            return Ok(None);
        }
        let message = self.input[2..2 + len].to_vec();
        self.input.drain(..2 + len);
        Ok(Some(message))
    }

    fn open(&mut self, message: &[u8]) -> Result<(Tag, Vec<u8>), Refusal> {
        let mut plain = vec![0; MAX_MESSAGE];
        let channel = self.channel.as_mut();
        let channel = channel.ok_or_else(|| Refusal::protocol("a message came out of turn"))?;
        let len = channel
            .read_message(message, &mut plain)
            .map_err(noise_refusal)?;
        plain.truncate(len);
        let tag = match plain.first() {
            Some(0) => Tag::Refuse,
            Some(1) => Tag::Hello,
            Some(2) => Tag::Confirm,
            Some(3) => Tag::Details,
            _ => return Err(Refusal::protocol("a message of unknown type")),
        };
        plain.remove(0);
        Ok((tag, plain))
    }

    /// Before there is a channel nothing is said.
    fn send(&mut self, tag: Tag, body: &[u8]) -> Result<(), Refusal> {
        let Some(channel) = &mut self.channel else {
            return Ok(());
        };
        let plain = [&[tag as u8], body].concat();
        let mut message = vec![0; plain.len() + TAG_LEN];
        let len = channel
            .write_message(&plain, &mut message)
            .map_err(noise_refusal)?;
        self.queue(&message[..len]);
        Ok(())
    }

    fn queue(&mut self, message: &[u8]) {
        // Every message is below MAX_MESSAGE, which fits.
        let len = message.len() as u16;
        self.output.extend_from_slice(&len.to_be_bytes());
        self.output.extend_from_slice(message);
    }
}

fn own_preamble() -> [u8; PREAMBLE_LEN] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, PROTOCOL.min, PROTOCOL.max]
}

/// What proves to the other side that this one knows the password key: a value that only its
/// holders can compute, another one for each role.
fn confirmation(schedule: &Hkdf<Sha256>, role: Role) -> Result<[u8; 32], Refusal> {
    let label: &[u8] = match role {
        Role::Initiator => b"weave mesh confirmation of the initiator",
        Role::Responder => b"weave mesh confirmation of the responder",
    };
    let mut tag = [0; 32];
    schedule
        .expand(label, &mut tag)
        .map_err(|_| Refusal::protocol("the confirmation is too long"))?;
    Ok(tag)
}

fn noise_refusal(error: snow::Error) -> Refusal {
    Refusal::protocol(format!("noise: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::identity::Identity;

    const NICKNAME: &str = "nickname-of-a-peer";

    fn credentials(password: Option<u8>) -> Arc<Credentials> {
        let identity = Identity::generate();
        let details = Details {
            nickname: NICKNAME.to_owned(),
            version: "3.0.0".to_owned(),
            instance: identity.instance(),
            epoch: identity.epoch(),
            port: 6783,
            features: 5,
        };
        Arc::new(Credentials {
            identity,
            password: password.map(|byte| StretchedPassword([byte; 32])),
            details,
        })
    }

    struct Pair {
        initiator: Handshake,
        responder: Handshake,
        /// All bytes in both directions.
        wire: Vec<u8>,
    }

    impl Pair {
        fn new(initiator: Option<u8>, responder: Option<u8>) -> Self {
            Self::of(credentials(initiator), credentials(responder))
        }

        fn of(initiator: Arc<Credentials>, responder: Arc<Credentials>) -> Self {
            Self {
                initiator: Handshake::new(Role::Initiator, initiator),
                responder: Handshake::new(Role::Responder, responder),
                wire: Vec::new(),
            }
        }

        /// Carries bytes to and fro until nobody says anything more; `meddle` sees each flight.
        fn run(
            &mut self,
            mut meddle: impl FnMut(&mut Vec<u8>),
        ) -> (Result<(), Refusal>, Result<(), Refusal>) {
            let (mut one, mut two) = (Ok(()), Ok(()));
            loop {
                let mut silent = true;
                if let Some(mut bytes) = self.initiator.poll_transmit() {
                    meddle(&mut bytes);
                    self.wire.extend_from_slice(&bytes);
                    two = two.and_then(|()| self.responder.handle_bytes(&bytes));
                    silent = false;
                }
                if let Some(mut bytes) = self.responder.poll_transmit() {
                    meddle(&mut bytes);
                    self.wire.extend_from_slice(&bytes);
                    one = one.and_then(|()| self.initiator.handle_bytes(&bytes));
                    silent = false;
                }
                if silent {
                    return (one, two);
                }
            }
        }

        fn is_done(&self) -> bool {
            self.initiator.is_done() && self.responder.is_done()
        }
    }

    fn outcome(initiator: Option<u8>, responder: Option<u8>) -> (Refusal, Refusal) {
        let (one, two) = Pair::new(initiator, responder).run(|_| ());
        (one.unwrap_err(), two.unwrap_err())
    }

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn both_sides_learn_who_the_other_is_with_and_without_a_password() {
        for password in [None, Some(1)] {
            let (one, two) = (credentials(password), credentials(password));
            let mut pair = Pair::of(Arc::clone(&one), Arc::clone(&two));
            assert_eq!(pair.run(|_| ()), (Ok(()), Ok(())));
            let seen_by_one = pair.initiator.into_established().unwrap();
            let seen_by_two = pair.responder.into_established().unwrap();
            assert_eq!(seen_by_one.peer, two.identity.id());
            assert_eq!(seen_by_two.peer, one.identity.id());
            assert_eq!(seen_by_two.details, one.details);
            assert_eq!(seen_by_one.protocol, 1);
        }
    }

    #[test]
    fn the_keys_of_a_session_fit_each_other() {
        let mut pair = Pair::new(Some(1), Some(1));
        pair.run(|_| ()).0.unwrap();
        let mut one = pair.initiator.into_established().unwrap().transport;
        let mut two = pair.responder.into_established().unwrap().transport;
        let (mut wire, mut plain) = ([0; 64], [0; 64]);
        let len = one.write_message(b"hello", &mut wire).unwrap();
        let len = two.read_message(&wire[..len], &mut plain).unwrap();
        assert_eq!(&plain[..len], b"hello");
    }

    #[test]
    fn what_follows_the_handshake_is_kept_for_the_session() {
        let mut pair = Pair::new(None, None);
        pair.run(|_| ()).0.unwrap();
        pair.responder.handle_bytes(b"frame").unwrap();
        assert_eq!(pair.responder.into_established().unwrap().surplus, b"frame");
    }

    #[test]
    fn different_passwords_are_refused_on_both_sides() {
        let (one, two) = outcome(Some(1), Some(2));
        assert_eq!(
            (one, two),
            (Refusal::PasswordMismatch, Refusal::PasswordMismatch)
        );
    }

    #[test]
    fn a_password_on_one_side_is_refused_on_both() {
        let here = Refusal::PasswordMissingHere;
        let there = Refusal::PasswordMissingThere;
        assert_eq!(outcome(None, Some(1)), (here.clone(), there.clone()));
        assert_eq!(outcome(Some(1), None), (there, here));
    }

    #[test]
    fn a_refused_peer_learns_no_details() {
        for (one, two) in [(Some(1), Some(2)), (None, Some(1)), (Some(1), None)] {
            let mut pair = Pair::new(one, two);
            let _ = pair.run(|_| ());
            for handshake in [pair.initiator, pair.responder] {
                assert!(matches!(handshake.phase, Phase::Refused(_)));
                assert!(handshake.into_established().is_none());
            }
        }
    }

    #[test]
    fn a_peer_that_calls_itself_is_told_so() {
        let own = credentials(Some(1));
        let (one, two) = Pair::of(Arc::clone(&own), own).run(|_| ());
        assert_eq!(one, Err(Refusal::SelfConnection));
        assert_eq!(two, Err(Refusal::SelfConnection));
    }

    #[test]
    fn a_cloned_machine_is_not_taken_for_this_one() {
        let one = credentials(None);
        let mut clone = Credentials::clone(&one);
        clone.details.instance ^= 1;
        let mut pair = Pair::of(one, Arc::new(clone));
        pair.run(|_| ()).0.unwrap();
        assert!(pair.is_done());
    }

    #[test]
    fn versions_without_overlap_are_named_to_people() {
        let mut responder = Handshake::new(Role::Responder, credentials(None));
        let mut preamble = own_preamble().to_vec();
        (preamble[4], preamble[5]) = (2, 9);
        let refusal = responder.handle_bytes(&preamble).unwrap_err();
        assert!(matches!(refusal, Refusal::VersionMismatch { .. }));
        assert!(refusal.to_string().contains("versions 2 to 9"), "{refusal}");
        assert_eq!(responder.poll_transmit().unwrap(), own_preamble());
    }

    #[test]
    fn a_changed_version_range_is_noticed() {
        let mut pair = Pair::new(None, None);
        let mut flights = 0;
        let (one, _) = pair.run(|bytes| {
            flights += 1;
            if flights == 2 {
                bytes[5] = 200;
            }
        });
        assert!(matches!(one, Err(Refusal::ProtocolError(_))), "{one:?}");
    }

    #[test]
    fn a_peer_of_weave_net_is_recognized() {
        let mut responder = Handshake::new(Role::Responder, credentials(None));
        let refusal = responder.handle_bytes(b"weave\x01\x02").unwrap_err();
        assert!(
            refusal.to_string().contains("Weave Net 1 or 2"),
            "{refusal}"
        );
        assert_eq!(responder.poll_transmit(), None);
    }

    #[test]
    fn a_listener_sees_neither_names_nor_what_comes_of_the_password() {
        let (one, two) = (credentials(Some(9)), credentials(Some(9)));
        let mut pair = Pair::of(Arc::clone(&one), Arc::clone(&two));
        pair.run(|_| ()).0.unwrap();
        assert!(!contains(&pair.wire, NICKNAME.as_bytes()));
        assert!(!contains(&pair.wire, &[9; 8]));
        assert!(!contains(&pair.wire, one.identity.public_key()));
        assert!(!contains(&pair.wire, two.identity.public_key()));
        assert!(!contains(&pair.wire, one.identity.id().as_bytes()));
    }

    /// The Noise part with a victim, by a stranger who holds a key of its own, and what the
    /// victim says next.
    fn intrude(victim: &mut Handshake, role: Role) -> (TransportState, Vec<u8>) {
        let stranger = Handshake::new(role, credentials(None));
        let mut noise = stranger.noise(&[own_preamble(); 2].concat()).unwrap();
        let mut payload = [0; MAX_MESSAGE];
        victim.handle_bytes(&own_preamble()).unwrap();
        let mut said = victim.poll_transmit().unwrap();
        said.drain(..PREAMBLE_LEN);
        loop {
            if noise.is_my_turn() {
                let mut message = [0; MAX_MESSAGE];
                let len = noise.write_message(&[], &mut message).unwrap();
                victim.handle_bytes(&framed(&message[..len])).unwrap();
                said.extend(victim.poll_transmit().unwrap());
            } else {
                let message = take_framed(&mut said);
                noise.read_message(&message, &mut payload).unwrap();
            }
            if noise.is_handshake_finished() {
                let mut channel = noise.into_transport_mode().unwrap();
                let len = channel
                    .read_message(&take_framed(&mut said), &mut payload)
                    .unwrap();
                return (channel, payload[..len].to_vec());
            }
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u16).to_be_bytes(), message].concat()
    }

    fn take_framed(stream: &mut Vec<u8>) -> Vec<u8> {
        let len = usize::from(u16::from_be_bytes([stream[0], stream[1]]));
        stream.drain(..2 + len).skip(2).collect()
    }

    /// Says something to a victim and gives what the victim answers.
    fn say(
        channel: &mut TransportState,
        victim: &mut Handshake,
        plain: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let (mut message, mut payload) = ([0; MAX_MESSAGE], [0; MAX_MESSAGE]);
        let len = channel.write_message(plain, &mut message).unwrap();
        victim.handle_bytes(&framed(&message[..len]))?;
        let answer = take_framed(&mut victim.poll_transmit().unwrap());
        let len = channel.read_message(&answer, &mut payload).unwrap();
        Ok(payload[..len].to_vec())
    }

    #[test]
    fn a_man_in_the_middle_who_relays_the_password_exchange_is_refused() {
        let mut one = Handshake::new(Role::Initiator, credentials(Some(1)));
        let mut two = Handshake::new(Role::Responder, credentials(Some(1)));
        let (mut to_one, hello_of_one) = intrude(&mut one, Role::Responder);
        let (mut to_two, hello_of_two) = intrude(&mut two, Role::Initiator);
        let confirm_of_one = say(&mut to_one, &mut one, &hello_of_two).unwrap();
        let confirm_of_two = say(&mut to_two, &mut two, &hello_of_one).unwrap();
        assert_eq!(confirm_of_one[0], Tag::Confirm as u8);
        let mismatch = Err(Refusal::PasswordMismatch);
        assert_eq!(say(&mut to_one, &mut one, &confirm_of_two), mismatch);
        assert_eq!(say(&mut to_two, &mut two, &confirm_of_one), mismatch);
    }

    #[test]
    fn an_element_sent_back_to_its_sender_is_refused() {
        let mut victim = Handshake::new(Role::Initiator, credentials(Some(1)));
        let (mut channel, hello) = intrude(&mut victim, Role::Responder);
        let answer = say(&mut channel, &mut victim, &hello);
        assert!(
            matches!(answer, Err(Refusal::ProtocolError(_))),
            "{answer:?}"
        );
    }

    #[test]
    fn a_recorded_handshake_cannot_be_replayed() {
        let (one, two) = (credentials(Some(1)), credentials(Some(1)));
        let mut flights = Vec::new();
        Pair::of(one, Arc::clone(&two))
            .run(|bytes| flights.push(bytes.clone()))
            .0
            .unwrap();
        let mut responder = Handshake::new(Role::Responder, two);
        let refused = flights
            .iter()
            .step_by(2)
            .any(|flight| responder.handle_bytes(flight).is_err());
        assert!(refused);
        assert!(!responder.is_done());
    }

    #[test]
    fn a_long_nickname_is_cut_where_a_character_ends() {
        let mut own = Credentials::clone(&credentials(None));
        own.details.nickname = "\u{e4}".repeat(300);
        let mut pair = Pair::of(Arc::new(own), credentials(None));
        pair.run(|_| ()).0.unwrap();
        let details = pair.responder.into_established().unwrap().details;
        assert_eq!(details.nickname, "\u{e4}".repeat(127));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_bit_prevents_the_session(
            flight in 0_usize..6,
            bit: prop::sample::Index,
            password in prop::option::of(Just(1)),
        ) {
            let mut pair = Pair::new(password, password);
            let mut flights = 0;
            let _ = pair.run(|bytes| {
                if flights == flight {
                    let bit = bit.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                flights += 1;
            });
            prop_assert!(!pair.is_done());
        }

        #[test]
        fn a_cut_off_flight_prevents_the_session(flight in 0_usize..6, keep: prop::sample::Index) {
            let mut pair = Pair::new(Some(1), Some(1));
            let mut flights = 0;
            let _ = pair.run(|bytes| {
                if flights == flight {
                    bytes.truncate(keep.index(bytes.len()));
                }
                flights += 1;
            });
            prop_assert!(!pair.is_done());
        }

        #[test]
        fn pieces_of_any_size_make_a_session(size in 1_usize..40) {
            let mut pair = Pair::new(Some(1), Some(1));
            while !pair.is_done() {
                for bytes in pair.initiator.poll_transmit().unwrap_or_default().chunks(size) {
                    pair.responder.handle_bytes(bytes).unwrap();
                }
                for bytes in pair.responder.poll_transmit().unwrap_or_default().chunks(size) {
                    pair.initiator.handle_bytes(bytes).unwrap();
                }
            }
        }

        #[test]
        fn garbage_never_panics(pieces: Vec<Vec<u8>>, magic: bool, initiator: bool) {
            let role = if initiator { Role::Initiator } else { Role::Responder };
            let mut handshake = Handshake::new(role, credentials(Some(1)));
            if magic {
                handshake.handle_bytes(&own_preamble()).unwrap();
            }
            for piece in pieces {
                let _ = handshake.handle_bytes(&piece);
            }
            prop_assert!(!handshake.is_done());
            prop_assert!(handshake.input.len() <= 4096 || !magic);
        }
    }
}
