//! The kernel's table of flows (`linux/netfilter/nfnetlink_conntrack.h`): read, and cut short where
//! a flow goes on to an address that nobody has any more.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use super::nfnetlink::{
    Attributes, FLAG_ACK, FLAG_REQUEST, RECEIVE_BUFFER, attributes, error_number, message,
    messages, open,
};

const SUBSYSTEM: u16 = 1;
const NEW: u16 = SUBSYSTEM << 8;
const GET: u16 = (SUBSYSTEM << 8) | 1;
const DELETE: u16 = (SUBSYSTEM << 8) | 2;
const GET_STATISTICS: u16 = (SUBSYSTEM << 8) | 5;
/// `CTA_STATS_GLOBAL_ENTRIES`.
const ENTRIES: u16 = 1;

const FLAG_DUMP: u16 = libc::NLM_F_DUMP as u16;

/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, `CTA_STATUS`, `CTA_PROTOINFO`, `CTA_ID`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const ID: u16 = 12;
/// `IPS_SEEN_REPLY`.
const SEEN_REPLY: u32 = 2;
/// `TCP_CONNTRACK_SYN_SENT` and `TCP_CONNTRACK_LAST_ACK`: the states between are open as well.
const TCP_SYN_SENT: u8 = 1;
const TCP_LAST_ACK: u8 = 6;

/// Protocols whose two ends keep a connection between them, and notice when one is gone.
const CONNECTIONS: [u8; 3] = [
    libc::IPPROTO_TCP as u8,
    libc::IPPROTO_DCCP as u8,
    libc::IPPROTO_SCTP as u8,
];

/// A flow of packets and its answers, as the namespace that sent the first one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The number of its transport protocol.
    pub protocol: u8,
    /// Where its packets are sent.
    pub destination: Ipv4Addr,
    /// Where they go after translation, and answers come from.
    pub answers_from: Ipv4Addr,
    /// Whether there was an answer.
    pub answered: bool,
    /// Whether it has not been closed.
    pub open: bool,
    /// What names it to the kernel.
    original: Vec<u8>,
    id: Vec<u8>,
}

impl Flow {
    /// Whether its ends hold a connection, rather than sending each packet for itself.
    pub fn is_connection(&self) -> bool {
        CONNECTIONS.contains(&self.protocol)
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut flow = Self {
            protocol: 0,
            destination: Ipv4Addr::UNSPECIFIED,
            answers_from: Ipv4Addr::UNSPECIFIED,
            answered: false,
            open: true,
            original: Vec::new(),
            id: Vec::new(),
        };
        // The body begins with `struct nfgenmsg`.
        for (kind, content) in attributes(body.get(4..)?) {
            match kind {
                ORIGINAL => {
                    flow.destination = address(content, 2)?;
                    flow.protocol = *inner(inner(content, 2)?, 1)?.first()?;
                    flow.original = content.to_vec();
                }
                REPLY => flow.answers_from = address(content, 1)?,
                STATUS => {
                    let status = u32::from_be_bytes(*content.first_chunk()?);
                    flow.answered = status & SEEN_REPLY != 0;
                }
                PROTOCOL_STATE => {
                    let state = inner(content, 1).and_then(|tcp| inner(tcp, 1)?.first());
                    flow.open = state.is_none_or(|s| (TCP_SYN_SENT..=TCP_LAST_ACK).contains(s));
                }
                ID => flow.id = content.to_vec(),
                _ => {}
            }
        }
        (!flow.original.is_empty()).then_some(flow)
    }
}

/// All IPv4 flows of the calling thread's namespace.
///
/// # Errors
/// When the kernel does not tell them.
pub fn flows() -> io::Result<Vec<Flow>> {
    let socket = open()?;
    let mut flows = Vec::new();
    // All namespaces share one table, and walking it takes some milliseconds.
    if is_empty(&socket).is_ok_and(|empty| empty) {
        return Ok(flows);
    }
    let request = message(GET, FLAG_REQUEST | FLAG_DUMP, libc::AF_INET as u8, 0, &[]);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    read(&socket, |kind, body| {
        if kind == NEW {
            flows.extend(Flow::decode(body));
        }
    })?;
    Ok(flows)
}

/// Forgets these flows of the calling thread's namespace: the next packet of each is judged anew.
/// Those that are gone already are passed over.
///
/// # Errors
/// When the kernel refuses one; those before it are forgotten.
pub fn forget<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> io::Result<()> {
    let socket = open()?;
    for flow in flows {
        let original = Attributes(flow.original.clone());
        let body = Attributes::new()
            .nested(ORIGINAL, &original)
            .bytes(ID, &flow.id);
        let family = libc::AF_INET as u8;
        let request = message(DELETE, FLAG_REQUEST | FLAG_ACK, family, 0, &body.0);
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        match read(&socket, |_, _| ()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether the namespace has no flows at all.
fn is_empty(socket: &OwnedFd) -> io::Result<bool> {
    let request = message(GET_STATISTICS, FLAG_REQUEST | FLAG_ACK, 0, 0, &[]);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut empty = false;
    read(socket, |_, body| {
        let entries = body
            .get(4..)
            .and_then(|attributes| inner(attributes, ENTRIES));
        empty |= entries == Some(&[0; 4]);
    })?;
    Ok(empty)
}

/// Reads what the kernel answers one request until its end.
fn read(socket: &OwnedFd, mut handle: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, _, body) in messages(&buffer[..length]) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    return match error_number(body) {
                        0 => Ok(()),
                        number => Err(io::Error::from_raw_os_error(number)),
                    };
                }
                _ => handle(kind, body),
            }
        }
    }
}

/// `CTA_IP_V4_SRC` (1) or `CTA_IP_V4_DST` (2) of a tuple.
fn address(tuple: &[u8], kind: u16) -> Option<Ipv4Addr> {
    let octets = inner(inner(tuple, 1)?, kind)?.first_chunk::<4>()?;
    Some(Ipv4Addr::from(*octets))
}

fn inner(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut found = attributes(bytes).filter(|(k, _)| *k == kind);
    found.next().map(|(_, content)| content)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::linux::netns::tests::in_namespace;

    #[test]
    fn flows_are_seen_and_forgotten() {
        in_namespace(|| {
            let rules = "table ip t {
                chain c {
                    type nat hook output priority -100
                    ip daddr 127.0.0.9 dnat to 127.0.0.1
                }
            }";
            for command in [vec!["ip", "link", "set", "lo", "up"], vec!["nft", rules]] {
                let status = Command::new(command[0]).args(&command[1..]).status();
                assert!(status.unwrap().success());
            }
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            client.send_to(b"hello", ("127.0.0.9", port)).unwrap();

            let found = flows().unwrap();
            assert_eq!(found.len(), 1);
            let flow = &found[0];
            assert_eq!(flow.protocol, 17);
            assert_eq!(flow.destination, Ipv4Addr::new(127, 0, 0, 9));
            assert_eq!(flow.answers_from, Ipv4Addr::LOCALHOST);
            assert!(!flow.answered && !flow.is_connection() && flow.open);

            server
                .send_to(b"hello", client.local_addr().unwrap())
                .unwrap();
            assert!(flows().unwrap()[0].answered);
            forget(&found).unwrap();
            assert_eq!(flows().unwrap(), []);
            forget(&found).unwrap();
        });
    }

    proptest! {
        #[test]
        fn no_answer_makes_decoding_panic(body: Vec<u8>) {
            let _ = Flow::decode(&body);
        }
    }
}
