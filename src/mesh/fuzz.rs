//! What takes bytes from the network here, for [`crate::fuzz`].

use std::sync::Arc;

use super::credentials::{Credentials, Details};
use super::framing::split;
use super::handshake::{Handshake, Role};
use super::identity::Identity;
use super::message::Message;
use super::records::{LinkInfo, PeerInfo};

/// A connection of somebody who can send but not compute: the first byte says which side this one
/// is, the next in which pieces the rest comes.
pub fn handshake(bytes: &[u8]) {
    let Some((&[role, piece], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let identity = Identity::generate();
    let details = Details {
        nickname: "host".to_owned(),
        version: "3.0.0".to_owned(),
        instance: identity.instance(),
        epoch: identity.epoch(),
        port: 6783,
        features: 0,
    };
    let credentials = Credentials {
        identity,
        password: None,
        details,
    };
    let role = if role & 1 == 0 {
        Role::Initiator
    } else {
        Role::Responder
    };
    let mut handshake = Handshake::new(role, Arc::new(credentials));
    for piece in rest.chunks(usize::from(piece).max(1)) {
        if handshake.handle_bytes(piece).is_err() {
            break;
        }
        let _ = handshake.poll_transmit();
    }
    assert!(!handshake.is_done());
}

/// What a peer says once a session is there, and what the others pass on of it.
pub fn message(bytes: &[u8]) {
    if let Ok(Some(message)) = Message::decode(bytes) {
        let again = Message::decode(&message.encode());
        assert_eq!(again.ok().flatten(), Some(message));
    }
    let _ = (
        PeerInfo::decode(bytes),
        LinkInfo::decode(bytes),
        Details::decode(bytes),
    );
    frames(bytes);
}

/// A stream that claims to be frames of a session.
fn frames(bytes: &[u8]) {
    let Some(transport) = session() else {
        return;
    };
    let (_, mut opener) = split(transport, &[]);
    opener.buffer().extend_from_slice(bytes);
    assert!(!matches!(opener.next_message(), Ok(Some(_))));
}

fn session() -> Option<snow::TransportState> {
    let builder = || {
        Some(snow::Builder::new(
            "Noise_NN_25519_ChaChaPoly_SHA256".parse().ok()?,
        ))
    };
    let mut one = builder()?.build_initiator().ok()?;
    let mut two = builder()?.build_responder().ok()?;
    let (mut wire, mut payload) = ([0; 256], [0; 256]);
    let len = one.write_message(&[], &mut wire).ok()?;
    two.read_message(&wire[..len], &mut payload).ok()?;
    let len = two.write_message(&[], &mut wire).ok()?;
    one.read_message(&wire[..len], &mut payload).ok()?;
    one.into_transport_mode().ok()
}
