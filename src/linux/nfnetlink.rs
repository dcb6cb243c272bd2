//! Messages to the kernel's netfilter subsystems (`linux/netfilter/nfnetlink.h`), and its answers.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// How long the kernel may take to answer; it answers within the call as a rule.
const DEADLINE_SECONDS: i64 = 5;

/// The room for the kernel's answers: refusals of messages, some with texts; a dump comes in parts
/// of 32 KiB at most.
pub(super) const RECEIVE_BUFFER: usize = 64 * 1024;

pub(super) const FLAG_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(super) const FLAG_ACK: u16 = libc::NLM_F_ACK as u16;

/// A socket in the namespace of the calling thread.
pub(super) fn open() -> nix::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let deadline = TimeVal::new(DEADLINE_SECONDS, 0);
    setsockopt(&socket, sockopt::ReceiveTimeout, &deadline)?;
    // All messages of a large batch may be refused before the first answer is read.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(4 * 1024 * 1024));
    Ok(socket)
}

/// `struct nlmsghdr` and `struct nfgenmsg` before the attributes.
pub(super) fn message(kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    let length = 16 + 4 + body.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Puts its sequence number, which the answer repeats, into a message.
pub(super) fn number(message: &mut [u8], sequence: u32) {
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

/// Asks for an answer to a message that is not refused as well.
pub(super) fn acknowledge(message: &mut [u8]) {
    let flags = u16::from_ne_bytes([message[6], message[7]]) | FLAG_ACK;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
}

/// Type, sequence number and body of each message.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<16>()?;
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let kind = u16::from_ne_bytes([k0, k1]);
        Some((kind, u32::from_ne_bytes([s0, s1, s2, s3]), body))
    })
}

/// The error number that an answer (`struct nlmsgerr`) tells; 0 when there was none.
pub(super) fn error_number(body: &[u8]) -> i32 {
    let code = body.first_chunk::<4>();
    code.map_or(0, |bytes| i32::from_ne_bytes(*bytes).saturating_neg())
}

/// Netlink attributes: length and type (16 bits each), content, padding to 4 bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, content: &[u8]) -> Self {
        let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(libc::NLA_F_NESTED as u16 | kind, &inner.0)
    }
}

/// Type and content of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let kind = u16::from_ne_bytes([k0, k1]) & libc::NLA_TYPE_MASK as u16;
        Some((kind, content))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let inner = Attributes::new().text(1, "ab");
        assert_eq!(inner.0, [7, 0, 1, 0, b'a', b'b', 0, 0]);
        let outer = Attributes::new().nested(4, &inner);
        assert_eq!(outer.0[..4], [12, 0, 4, 0x80]);
        let read: Vec<_> = attributes(&outer.0).collect();
        assert_eq!(read, [(4, &inner.0[..])]);
        assert_eq!(
            attributes(read[0].1).collect::<Vec<_>>(),
            [(1, &b"ab\0"[..])]
        );
    }

    #[test]
    fn answers_that_are_cut_off_are_left_out() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        let whole = message(2, 0, 0, 0, &[0; 8]);
        assert_eq!(messages(&whole).count(), 1);
        assert_eq!(messages(&whole[..20]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_answer_makes_reading_panic(bytes: Vec<u8>) {
            messages(&bytes).count();
            attributes(&bytes).count();
            error_number(&bytes);
        }
    }
}
