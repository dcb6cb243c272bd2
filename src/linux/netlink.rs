//! Requests to the kernel's routing subsystem (rtnetlink(7)), and its answers.
//!
//! Blocking on purpose: the kernel works inside `send`, and removing a device takes it tens of
//! milliseconds there, which no worker of the async runtime should spend.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use thiserror::Error;

use super::netns::NetNs;

/// How long the kernel may take for one answer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of requests sent at once: their answers must fit into the socket's receive buffer
/// (`net.core.rmem_default`, 208 KiB).
const BATCH: usize = 8 * 1024;

/// The largest answer: the kernel fills at most 32 KiB per message of a dump
/// (`NLMSG_GOODSIZE`, linux/netlink.h).
const ANSWER: usize = 64 * 1024;

/// `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel's own words on an error (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// A dump that changed while it was read is read again this often.
const DUMP_TRIES: usize = 5;

/// Why a request failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{}{}", .errno.desc(), if .message.is_empty() { String::new() } else { format!(" ({})", .message) })]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its own words, where it has any.
        message: String,
    },
    /// The kernel did not answer in time, or the socket failed.
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    /// The answer is not what it should be.
    #[error("netlink: expected {expected}, got something else")]
    Malformed {
        /// What would have been right.
        expected: &'static str,
    },
}

impl NetlinkError {
    /// Whether the kernel gave this reason.
    pub fn is(&self, reason: Errno) -> bool {
        matches!(self, Self::Refused { errno, .. } if *errno == reason)
    }
}

impl From<Errno> for NetlinkError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A result whose error is one the kernel, or the way to it, gave.
pub type Result<T> = std::result::Result<T, NetlinkError>;

/// One request with its flags beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
pub type Request = (RouteNetlinkMessage, u16);

/// A socket to the kernel, bound to one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Netlink {
    /// Opens a socket in this namespace.
    pub fn open(namespace: &NetNs) -> Result<Self> {
        let socket = namespace.run(|| {
            socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::NetlinkRoute,
            )
        })??;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::new(DEADLINE.as_secs() as i64, 0),
        )?;
        // Old kernels lack these (4.12, 4.20): errors are then terser and dumps unfiltered.
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let _ = enable(&socket, option);
        }
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER].into(),
        })
    }

    /// Sends one request and returns what it is answered, beyond the acknowledgement.
    pub fn request(&mut self, request: Request) -> Result<Vec<RouteNetlinkMessage>> {
        let answers = self.batch(vec![request])?;
        answers
            .into_iter()
            .next()
            .ok_or(NetlinkError::Malformed {
                expected: "one answer",
            })
            .flatten()
    }

    /// Sends many requests with few system calls; they are done in order, and a refused one stops
    /// none of the others. Each has its own result.
    pub fn batch(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<Vec<RouteNetlinkMessage>>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut bytes = Vec::with_capacity(BATCH);
            let mut sent = 0;
            while bytes.len() < BATCH
                && let Some((message, flags)) = requests.next()
            {
                self.append(&mut bytes, message, flags | NLM_F_ACK);
                sent += 1;
            }
            self.send(&bytes)?;
            let first = self.sequence.wrapping_sub(sent - 1);
            for offset in 0..sent {
                results.push(self.answer(first.wrapping_add(offset))?);
            }
        }
        Ok(results)
    }

    /// Asks for everything of a kind.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            let mut bytes = Vec::new();
            self.append(&mut bytes, message.clone(), NLM_F_DUMP);
            self.send(&bytes)?;
            let mut interrupted = false;
            let answers = self.collect(self.sequence, &mut interrupted)??;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Malformed {
            expected: "a dump that no change interrupts",
        })
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn answer(&mut self, sequence: u32) -> Result<Result<Vec<RouteNetlinkMessage>>> {
        self.collect(sequence, &mut false)
    }

    /// Reads until the request of this number is acknowledged, refused or done. Answers to earlier
    /// requests, which somebody gave up waiting for, are skipped.
    fn collect(
        &mut self,
        sequence: u32,
        interrupted: &mut bool,
    ) -> Result<Result<Vec<RouteNetlinkMessage>>> {
        let mut answers = Vec::new();
        loop {
            let length = self.receive()?;
            let mut rest = &self.buffer[..length];
            while let Some((message, next)) = split_message(rest) {
                rest = next;
                let field = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
                let (kind, flags) = (field(4), field(6));
                let number = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
                if number != sequence {
                    continue;
                }
                *interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_ERROR => return Ok(verdict(message, flags).map(|()| answers)),
                    NLMSG_DONE => {
                        return Ok(verdict(message, NLM_F_CAPPED).map(|()| answers));
                    }
                    _ => match NetlinkMessage::deserialize(message).map(|m| m.payload) {
                        Ok(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                        Ok(_) => {}
                        // An exotic device of somebody else must not hide ours.
                        Err(error) => tracing::debug!(%error, "skipped a netlink message"),
                    },
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let text = format!("no answer within {} s", DEADLINE.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn enable(socket: &OwnedFd, option: libc::c_int) -> nix::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call; the kernel only
    // reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// The first message of a datagram, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length < HEADER || length > bytes.len() {
        return None;
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((&bytes[..length], &bytes[next..]))
}

/// What an `NLMSG_ERROR` or `NLMSG_DONE` says: zero is success.
fn verdict(message: &[u8], flags: u16) -> Result<()> {
    let code = message
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    Err(NetlinkError::Refused {
        errno: Errno::from_raw(code.wrapping_neg()),
        message: extended_message(message, flags).unwrap_or_default(),
    })
}

/// The text behind the copy of the request (linux/netlink.h, `enum nlmsgerr_attrs`).
fn extended_message(message: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = message.get(HEADER + 4..)?;
    let copied = match flags & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(request.get(..4)?.try_into().ok()?) as usize,
        _ => HEADER,
    };
    let mut rest = request.get(copied.next_multiple_of(4)..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_own_words_are_found_behind_the_request() {
        let mut message = vec![0; HEADER];
        message.extend((-17_i32).to_ne_bytes());
        message.extend([0; HEADER]);
        message.extend(7_u16.to_ne_bytes());
        message.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        message.extend(b"no\0\0");
        let error = verdict(&message, NLM_F_CAPPED | NLM_F_ACK_TLVS).unwrap_err();
        assert!(error.is(Errno::EEXIST));
        assert_eq!(error.to_string(), "File exists (no)");
    }

    #[test]
    fn truncated_answers_neither_panic_nor_loop() {
        assert!(split_message(&[0; 16]).is_none());
        assert!(split_message(&[255; 20]).is_none());
        assert!(verdict(&[0; HEADER], NLM_F_ACK_TLVS).is_ok());
        let short = [vec![0; HEADER], (-1_i32).to_ne_bytes().to_vec()].concat();
        assert!(verdict(&short, NLM_F_ACK_TLVS).is_err());
    }
}
