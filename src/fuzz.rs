//! Everything that takes bytes from the network, for machines to try to break: `fuzz/` runs these
//! under libFuzzer, the tests below replay what it found and what is valid.
//!
//! Whoever can send to a port, or is a peer, reaches these functions. None may panic, loop or take
//! memory beyond what the bytes are worth; where bytes are understood, what they mean survives
//! being written again.

use std::io::IoSlice;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use crate::datapath::tunnel::coalesce::{Coalescer, FrameSink};
use crate::datapath::tunnel::fragment::Reassembler;
use crate::datapath::tunnel::frame::{Layout, complete_checksum, verify_checksum};
use crate::datapath::tunnel::handshake::{Identity, Message as TunnelMessage};
use crate::datapath::tunnel::segment::{MAX_HEADERS, Plan};
use crate::datapath::tunnel::session::Sessions;
use crate::datapath::tunnel::too_big;
use crate::datapath::tunnel::wire::{BODY_HEADER, BodyHeader, BodyKind, Outer, Probe, Record};
use crate::datapath::tunnel::{cipher::Cipher, seal::ReceiveKey};
use crate::datapath::vxlan_probe;
use crate::dns::fuzz as dns;
use crate::ipam::wire as ipam;
use crate::linux::tap::VnetHeader;
use crate::mesh::fuzz as mesh;
use crate::network::fuzz as network;
use crate::types::PeerId;

/// Takes any bytes; panics where something is wrong.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 12] = [
    ("tunnel_datagram", tunnel_datagram),
    ("tunnel_bodies", tunnel_bodies),
    ("tunnel_frame", tunnel_frame),
    ("tunnel_fragments", tunnel_fragments),
    ("tunnel_handshake", tunnel_handshake),
    ("vxlan_probe", vxlan_probe),
    ("mesh_handshake", mesh::handshake),
    ("mesh_message", mesh::message),
    ("ipam_message", ipam_message),
    ("network_record", network::record),
    ("dns_message", dns::message),
    ("dns_record", dns::record),
];

/// A datagram from anybody, up to the point where it proves not to be authentic.
pub fn tunnel_datagram(datagram: &[u8]) {
    match Outer::decode(datagram) {
        Some(Outer::Sealed(header)) => {
            assert!(datagram.starts_with(&header.encode()[..4]));
            let key = Zeroizing::new([7; 32]);
            let key = ReceiveKey::new(Cipher::Aes256Gcm, &key, PeerId::from_bytes([1; 16]), 1);
            assert!(key.open(&mut datagram.to_vec()).is_err());
        }
        Some(Outer::Relayed(header)) => assert!(datagram.starts_with(&header.encode())),
        None => {}
    }
}

/// What a peer sealed: bodies one after the other, each after two bytes with its length.
pub fn tunnel_bodies(bytes: &[u8]) {
    let mut sink = Sink::default();
    let mut coalescer = Coalescer::new();
    let (mut rest, mut counter) = (bytes, 0);
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (body, after) = after.split_at(len);
        rest = after;
        counter += 1;
        let Some(header) = BodyHeader::decode(body) else {
            continue;
        };
        assert_eq!(header.encode(), body[..BODY_HEADER]);
        let body = &body[BODY_HEADER..];
        match header.kind {
            BodyKind::Probe | BodyKind::ProbeReply => {
                if let Some(probe) = Probe::decode(body) {
                    assert_eq!(Probe::decode(&probe.encode()), Some(probe));
                }
            }
            BodyKind::Fragment => {}
            _ => coalescer.push(1, counter, &header, body, &mut sink),
        }
        if let Some((record, frame, _)) = Record::split(body) {
            assert_eq!(usize::from(record.len), frame.len());
        }
    }
    coalescer.flush(&mut sink);
    // What is delivered came in; only headers are repeated, once for each frame.
    assert!(sink.bytes <= bytes.len() + sink.frames * (MAX_HEADERS + 10));
}

/// A frame with its offload header: from a container, or opened and about to be cut again.
pub fn tunnel_frame(bytes: &[u8]) {
    let Some((vnet, rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((&[high, low], frame)) = rest.split_first_chunk() else {
        return;
    };
    let Some(vnet) = VnetHeader::decode(vnet) else {
        return;
    };
    let capacity = usize::from(u16::from_be_bytes([high, low]));
    if let Some(layout) = Layout::parse(frame) {
        assert!(layout.l3 <= layout.l4 && layout.l4 <= frame.len());
        let _ = (layout.payload(frame), layout.end(frame));
        let _ = verify_checksum(frame, &layout);
    }
    let start = usize::from(vnet.csum_start);
    complete_checksum(&mut frame.to_vec(), start, vnet.csum_offset.into());
    let _ = too_big::answer(frame, too_big::inner_mtu(capacity, frame));
    let plan = Plan::new(frame, &vnet, capacity);
    if let Plan::Segments(segments) | Plan::DatagramsTooLarge(segments) = plan {
        let mut out = vec![0; frame.len()];
        let mut payload = 0;
        // A frame of 64 KiB cut into single bytes would take a second each.
        for index in 0..segments.count().min(200) {
            let len = segments.len(index);
            assert!(len <= capacity || matches!(plan, Plan::DatagramsTooLarge(_)));
            let _ = segments.header(index, 1);
            segments.write_frame(frame, index, &mut out[..len]);
            payload += len;
        }
        assert!(payload >= segments.count().min(200));
    }
}

/// Fragments one after the other: index, count, two bytes with the length, the piece.
pub fn tunnel_fragments(bytes: &[u8]) {
    let mut reassembler = Reassembler::default();
    let mut rest = bytes;
    let mut counter = 0u64;
    while let Some((&[index, count, high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (piece, after) = after.split_at(len);
        rest = after;
        counter += u64::from(count & 1);
        let name = (1, counter.wrapping_sub(index.into()));
        if let Some(frame) = reassembler.push(name, index, count, piece) {
            assert!(frame.len() <= bytes.len());
        }
    }
}

/// A message from a peer about the keys of a session.
pub fn tunnel_handshake(bytes: &[u8]) {
    if let Ok(message) = TunnelMessage::decode(bytes) {
        let again = TunnelMessage::decode(&message.encode());
        assert_eq!(again.ok(), Some(message));
    }
    let identity = Identity {
        static_key: Zeroizing::new([5; 32]),
        password_key: None,
        peer: PeerId::from_bytes([2; 16]),
        cipher: Cipher::Aes256Gcm,
    };
    let mut sessions = Sessions::new(identity, ChaCha20Rng::seed_from_u64(1));
    let (now, peer) = (Instant::now(), PeerId::from_bytes([3; 16]));
    sessions.want(peer, now);
    // Nobody has keys with a peer whose key is not that of its name.
    let _ = sessions.handle_message(peer, bytes, now);
    assert!(sessions.established_at(peer).is_none());
}

/// A probe by way of VXLAN.
pub fn vxlan_probe(bytes: &[u8]) {
    if let Some(message) = vxlan_probe::Message::decode(bytes) {
        let again = vxlan_probe::Message::decode(&message.encode());
        assert_eq!(again, Some(message));
    }
}

/// What a peer sends and publishes about addresses.
pub fn ipam_message(bytes: &[u8]) {
    if let Some(message) = ipam::decode::<ipam::Message>(bytes) {
        let again = ipam::decode::<ipam::Message>(&ipam::encode(&message));
        assert_eq!(again, Some(message));
    }
    let _ = ipam::decode::<ipam::BirthRecord>(bytes);
    let mut assembly = ipam::Assembly::default();
    if let Some(part) = assembly.take(&ipam::part_key(0), Some(bytes)) {
        assert!(!ipam::split(&part).is_empty());
    }
}

#[derive(Default)]
struct Sink {
    frames: usize,
    bytes: usize,
}

impl FrameSink for Sink {
    fn takes_udp(&self) -> bool {
        true
    }

    fn deliver(&mut self, _vni: u32, pieces: &[IoSlice<'_>]) {
        self.frames += 1;
        self.bytes += pieces.iter().map(|piece| piece.len()).sum::<usize>();
    }

    fn malformed(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use rand::RngExt;

    use super::*;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let entries = fs::read_dir(directory.join(name)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn nothing_in_the_corpora_breaks_anything() {
        for (name, target) in TARGETS {
            let inputs = corpus(name);
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                target(&input);
            }
        }
    }

    /// For as long as `FUZZ_SECONDS` (10) says for each target: `cargo test --release --lib fuzz
    /// -- --ignored --nocapture`. The seed is printed and can be set with `FUZZ_SEED`.
    #[test]
    #[ignore = "takes as long as it is told to"]
    fn changed_inputs_break_nothing() {
        let setting = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| text.parse().unwrap())
        };
        let seconds = setting("FUZZ_SECONDS", 10);
        let seed = setting("FUZZ_SEED", rand::random());
        println!("FUZZ_SEED={seed}");
        for (name, target) in TARGETS {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let mut inputs = corpus(name);
            let begun = Instant::now();
            let mut runs = 0u64;
            while begun.elapsed() < Duration::from_secs(seconds) {
                for _ in 0..256 {
                    let at = rng.random_range(0..inputs.len());
                    let other = rng.random_range(0..inputs.len());
                    let input = changed(&inputs[at], &inputs[other], &mut rng);
                    target(&input);
                    runs += 1;
                    // Changes pile up, on few inputs at a time.
                    if rng.random_range(0..64) == 0 && input.len() < 4096 {
                        if inputs.len() < 256 {
                            inputs.push(input);
                        } else {
                            inputs[at] = input;
                        }
                    }
                }
            }
            println!("{name}: {runs} executions");
        }
    }

    fn changed(input: &[u8], other: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
        let mut changed = input.to_vec();
        for _ in 0..rng.random_range(1..6) {
            let len = changed.len();
            let at = rng.random_range(0..=len);
            match rng.random_range(0..7) {
                0 if at < len => changed[at] ^= 1 << rng.random_range(0..8),
                1 if at < len => changed[at] = rng.random(),
                2 if at < len => changed[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                3 => changed.truncate(at),
                4 => changed.insert(at, rng.random()),
                5 => {
                    let from = rng.random_range(0..=other.len());
                    let to = rng.random_range(from..=other.len());
                    changed.splice(at..at, other[from..to].iter().copied());
                }
                _ if at < len => {
                    changed.remove(at);
                }
                _ => {}
            }
        }
        changed
    }
}
