//! Packet filtering and address translation in tables of our own: the kernel's nf_tables over
//! netlink (`linux/netfilter/nf_tables.h`), so that no `nft` program is needed.
//!
//! A [`Batch`] is applied whole or not at all. Chains and maps of other programs are never
//! touched.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use thiserror::Error;

use super::nfnetlink::{
    Attributes, FLAG_REQUEST, RECEIVE_BUFFER, acknowledge, error_number, message, messages, number,
    open,
};

/// Why the kernel did not take a batch. Nothing of it is in force.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NftError {
    /// There is no netlink socket for nf_tables here.
    #[error("cannot talk to nf_tables: {0}")]
    Socket(#[source] io::Error),
    /// One message was refused.
    #[error("nf_tables refuses {what}: {source}")]
    Refused {
        /// Which one.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NftError {
    /// Whether the kernel lacks what was asked for.
    pub fn is_unsupported(&self) -> bool {
        let (Self::Socket(error) | Self::Refused { source: error, .. }) = self;
        matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)
        )
    }
}

/// The address family of a table (`NFPROTO_*` in `linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4 = 2,
    /// IPv6.
    Ipv6 = 10,
    /// Both.
    Inet = 1,
}

/// What a base chain does (`NFTA_CHAIN_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Accepts or drops.
    Filter,
    /// Translates addresses.
    Nat,
}

/// Where in a packet's way a base chain stands (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// On the way to this host's sockets.
    Input = 1,
    /// On the way through this host.
    Forward = 2,
    /// From this host's sockets.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// Priority of destination translation (`NF_IP_PRI_NAT_DST`).
pub const PRIORITY_DESTINATION_NAT: i32 = -100;
/// Priority of filtering (`NF_IP_PRI_FILTER`).
pub const PRIORITY_FILTER: i32 = 0;
/// Priority of source translation (`NF_IP_PRI_NAT_SRC`).
pub const PRIORITY_SOURCE_NAT: i32 = 100;

/// The type of a set's keys, with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A number, as generators make them.
    Number,
    /// The name of an interface.
    Interface,
}

/// What becomes of a packet, or where it is judged next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It ends here.
    Drop,
    /// The chain that called this one goes on.
    Return,
    /// That chain judges it, and this one if that does not.
    Jump(String),
    /// That chain judges it.
    Goto(String),
}

/// What a map's keys stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// An address.
    Address(IpAddr),
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key, in the byte order of the wire (numbers from generators: of the machine).
    pub key: Vec<u8>,
    /// What it stands for; `None` in a set.
    pub data: Option<Data>,
}

/// One step of a rule; a step that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Loads bytes of the network header.
    NetworkHeader {
        /// From where.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// Loads bytes of the transport header.
    TransportHeader {
        /// From where.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// Loads the transport protocol's number.
    Protocol,
    /// Loads the name of the interface that the packet came from.
    InputInterface,
    /// Loads the name of the interface that the packet goes to.
    OutputInterface,
    /// Keeps the bits of what was loaded that the mask has.
    Mask(Vec<u8>),
    /// Goes on when what was loaded is this.
    Equals(Vec<u8>),
    /// Goes on when what was loaded is something else.
    Differs(Vec<u8>),
    /// Goes on when what was loaded is in the set, or is not.
    InSet {
        /// Which set.
        set: String,
        /// Whether it must be absent.
        inverted: bool,
    },
    /// Judges by what the map says of what was loaded.
    VerdictOf(String),
    /// Replaces what was loaded by what the map says of it.
    Translate(String),
    /// Loads a random number below this.
    Random(u32),
    /// Sends the packet to the address that was loaded.
    DestinationNat(Family),
    /// Gives the packet the address of the interface that it leaves by.
    Masquerade,
    /// Counts packets and bytes.
    Count,
    /// Judges.
    Verdict(Verdict),
}

/// Changes that come into force together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    messages: Vec<(Vec<u8>, String)>,
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;

const FLAG_CREATE: u16 = libc::NLM_F_CREATE as u16;
const FLAG_APPEND: u16 = libc::NLM_F_APPEND as u16;

/// The register that every step loads to and looks at: one is enough, since steps follow one
/// another (`NFT_REG_1`).
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const SET_IS_MAP: u32 = 8;
/// Tells `nft list` that the keys have the byte order of the machine: type 0
/// (`NFTNL_UDATA_SET_KEYBYTEORDER` of libnftnl), 4 bytes, the number 1.
const MACHINE_BYTE_ORDER: [u8; 6] = if cfg!(target_endian = "little") {
    [0, 4, 1, 0, 0, 0]
} else {
    [0, 4, 0, 0, 0, 1]
};
/// `NFT_DATA_VERDICT`.
const VERDICT_DATA: u32 = 0xffff_ff00;

impl Batch {
    /// Nothing to change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many bytes the kernel is sent.
    pub fn size(&self) -> usize {
        self.messages.iter().map(|(message, _)| message.len()).sum()
    }

    /// Makes a table; one that is there stays as it is.
    pub fn add_table(&mut self, family: Family, table: &str) {
        let body = Attributes::new().text(1, table);
        self.push(
            NEW_TABLE,
            FLAG_CREATE,
            family,
            body,
            format!("table {table}"),
        );
    }

    /// Removes a table with all that is in it. It must be there: see [`Batch::replace_table`].
    pub fn delete_table(&mut self, family: Family, table: &str) {
        let body = Attributes::new().text(1, table);
        let what = format!("the removal of table {table}");
        self.push(DELETE_TABLE, 0, family, body, what);
    }

    /// Makes a table that is empty, whether there was one before or not.
    pub fn replace_table(&mut self, family: Family, table: &str) {
        self.add_table(family, table);
        self.delete_table(family, table);
        self.add_table(family, table);
    }

    /// Makes a chain that others jump to; one that is there stays as it is.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &str) {
        let body = Attributes::new().text(1, table).text(3, chain);
        self.push(
            NEW_CHAIN,
            FLAG_CREATE,
            family,
            body,
            format!("chain {chain}"),
        );
    }

    /// Makes a chain that packets come to by themselves, accepting what it does not judge.
    pub fn add_base_chain(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        kind: ChainKind,
        hook: Hook,
        priority: i32,
    ) {
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let place = Attributes::new()
            .number(1, hook as u32)
            .number(2, priority as u32);
        let body = Attributes::new()
            .text(1, table)
            .text(3, chain)
            .nested(4, &place)
            .number(5, libc::NF_ACCEPT as u32)
            .text(7, kind);
        self.push(
            NEW_CHAIN,
            FLAG_CREATE,
            family,
            body,
            format!("chain {chain}"),
        );
    }

    /// Removes a chain and its rules; nothing may jump to it any more.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.flush_chain(family, table, chain);
        let body = Attributes::new().text(1, table).text(3, chain);
        let what = format!("the removal of chain {chain}");
        self.push(DELETE_CHAIN, 0, family, body, what);
    }

    /// Removes the rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        let body = Attributes::new().text(1, table).text(2, chain);
        let what = format!("the flush of chain {chain}");
        self.push(DELETE_RULE, 0, family, body, what);
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, family: Family, table: &str, chain: &str, steps: &[Step]) {
        let list = steps.iter().fold(Attributes::new(), |list, step| {
            list.nested(1, &step.encode())
        });
        let body = Attributes::new()
            .text(1, table)
            .text(2, chain)
            .nested(4, &list);
        let what = format!("a rule of chain {chain}");
        self.push(NEW_RULE, FLAG_CREATE | FLAG_APPEND, family, body, what);
    }

    /// Makes a set of keys; one that is there stays as it is.
    pub fn add_set(&mut self, family: Family, table: &str, set: &str, key: KeyType) {
        let body = self.set(table, set, key).number(3, 0);
        self.push(NEW_SET, FLAG_CREATE, family, body, format!("set {set}"));
    }

    /// Makes a map from keys to verdicts; one that is there stays as it is.
    pub fn add_verdict_map(&mut self, family: Family, table: &str, map: &str, key: KeyType) {
        let body = self
            .set(table, map, key)
            .number(3, SET_IS_MAP)
            .number(6, VERDICT_DATA)
            .number(7, 16);
        self.push(NEW_SET, FLAG_CREATE, family, body, format!("map {map}"));
    }

    /// Makes a map from numbers to IPv4 addresses; one that is there stays as it is.
    pub fn add_address_map(&mut self, table: &str, map: &str) {
        let (kind, length) = KeyType::Ipv4.encode();
        let body = self
            .set(table, map, KeyType::Number)
            .number(3, SET_IS_MAP)
            .number(6, kind)
            .number(7, length)
            .bytes(13, &MACHINE_BYTE_ORDER);
        let what = format!("map {map}");
        self.push(NEW_SET, FLAG_CREATE, Family::Ipv4, body, what);
    }

    /// Removes a set or map; no rule may look into it any more.
    pub fn delete_set(&mut self, family: Family, table: &str, set: &str) {
        let body = Attributes::new().text(1, table).text(2, set);
        let what = format!("the removal of {set}");
        self.push(DELETE_SET, 0, family, body, what);
    }

    /// Adds elements to a set or map.
    pub fn add_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENTS, family, table, set, elements);
    }

    /// Removes elements, which must be there, from a set or map.
    pub fn delete_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
    ) {
        self.elements(DELETE_ELEMENTS, family, table, set, elements);
    }

    /// Brings the changes into force in the namespace of the calling thread.
    ///
    /// # Errors
    /// Names what the kernel refused; nothing is changed then.
    pub fn apply(&self) -> Result<(), NftError> {
        let Some(last) = self.messages.len().checked_sub(1) else {
            return Ok(());
        };
        let socket = open().map_err(|error| NftError::Socket(error.into()))?;
        let mut bytes = envelope(BATCH_BEGIN, 0);
        for (index, (message, _)) in self.messages.iter().enumerate() {
            let mut message = message.clone();
            // Sequence numbers tell which message an answer is about.
            number(&mut message, index as u32 + 1);
            if index == last {
                acknowledge(&mut message);
            }
            bytes.extend(message);
        }
        bytes.extend(envelope(BATCH_END, self.messages.len() as u32 + 1));
        let length = bytes.len();
        if setsockopt(&socket, sockopt::SndBufForce, &(2 * length)).is_err() {
            // Without the privilege the default has to do, and does for all but large batches.
            let _ = setsockopt(&socket, sockopt::SndBuf, &(2 * length));
        }
        send(socket.as_raw_fd(), &bytes, MsgFlags::empty())
            .map_err(|error| NftError::Socket(error.into()))?;
        self.await_answer(&socket)
    }

    /// The first refusal, which voids the rest, comes before the answer to the last message.
    fn await_answer(&self, socket: &OwnedFd) -> Result<(), NftError> {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .map_err(|error| NftError::Socket(error.into()))?;
            let mut answers = messages(&buffer[..length]);
            let Some((_, sequence, body)) =
                answers.find(|(kind, ..)| *kind == libc::NLMSG_ERROR as u16)
            else {
                continue;
            };
            let code = error_number(body);
            if code == 0 {
                return Ok(());
            }
            let index = (sequence as usize).wrapping_sub(1);
            let what = self.messages.get(index).map(|(_, what)| what.clone());
            return Err(NftError::Refused {
                what: what.unwrap_or_else(|| "the batch".to_owned()),
                source: io::Error::from_raw_os_error(code),
            });
        }
    }

    fn set(&self, table: &str, set: &str, key: KeyType) -> Attributes {
        let (kind, length) = key.encode();
        Attributes::new()
            .text(1, table)
            .text(2, set)
            .number(4, kind)
            .number(5, length)
            // Identifies the set to rules of the same batch.
            .number(10, self.messages.len() as u32 + 1)
    }

    fn elements(
        &mut self,
        message: u16,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
    ) {
        let flags = match message {
            NEW_ELEMENTS => FLAG_CREATE,
            _ => 0,
        };
        // One attribute has 16 bits for its length: large sets take several messages.
        for part in elements.chunks(500) {
            let list = part
                .iter()
                .fold(Attributes::new(), |list, e| list.nested(1, &e.encode()));
            let body = Attributes::new()
                .text(1, table)
                .text(2, set)
                .nested(3, &list);
            self.push(message, flags, family, body, format!("elements of {set}"));
        }
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, body: Attributes, what: String) {
        let flags = FLAG_REQUEST | flags;
        let message = message((SUBSYSTEM << 8) | kind, flags, family as u8, 0, &body.0);
        self.messages.push((message, what));
    }
}

impl Element {
    /// An IPv4 address in a set.
    pub fn ipv4(address: Ipv4Addr) -> Self {
        Self {
            key: address.octets().to_vec(),
            data: None,
        }
    }

    /// A number, as [`Step::Random`] makes it, that stands for something.
    pub fn number(number: u32, data: Data) -> Self {
        Self {
            key: number.to_ne_bytes().to_vec(),
            data: Some(data),
        }
    }

    /// The same element, standing for something.
    pub fn to(mut self, data: Data) -> Self {
        self.data = Some(data);
        self
    }

    fn encode(&self) -> Attributes {
        let element = Attributes::new().nested(1, &value(&self.key));
        match &self.data {
            None => element,
            Some(Data::Verdict(verdict)) => element.nested(2, &verdict.encode()),
            Some(Data::Address(IpAddr::V4(ip))) => element.nested(2, &value(&ip.octets())),
            Some(Data::Address(IpAddr::V6(ip))) => element.nested(2, &value(&ip.octets())),
        }
    }
}

impl KeyType {
    /// The type that `nft list` shows (its own numbering; the kernel keeps it unread) and the
    /// length in bytes.
    const fn encode(self) -> (u32, u32) {
        match self {
            Self::Ipv4 => (7, 4),
            Self::Ipv6 => (8, 16),
            Self::Number => (4, 4),
            Self::Interface => (41, 16),
        }
    }
}

impl Verdict {
    fn encode(&self) -> Attributes {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3_i32, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        let verdict = Attributes::new().number(1, code as u32);
        let verdict = match chain {
            Some(chain) => verdict.text(2, chain),
            None => verdict,
        };
        Attributes::new().nested(2, &verdict)
    }
}

impl Step {
    fn encode(&self) -> Attributes {
        let load = Attributes::new().number(1, REGISTER);
        match self {
            Self::NetworkHeader { offset, length } => payload(1, *offset, *length),
            Self::TransportHeader { offset, length } => payload(2, *offset, *length),
            Self::Protocol => expression("meta", &load.number(2, 16)),
            Self::InputInterface => expression("meta", &load.number(2, 6)),
            Self::OutputInterface => expression("meta", &load.number(2, 7)),
            Self::Mask(mask) => {
                let body = Attributes::new()
                    .number(1, REGISTER)
                    .number(2, REGISTER)
                    .number(3, mask.len() as u32)
                    .nested(4, &value(mask))
                    .nested(5, &value(&vec![0; mask.len()]));
                expression("bitwise", &body)
            }
            Self::Equals(data) => compare(0, data),
            Self::Differs(data) => compare(1, data),
            Self::InSet { set, inverted } => {
                let body = Attributes::new().text(1, set).number(2, REGISTER);
                expression("lookup", &body.number(5, u32::from(*inverted)))
            }
            Self::VerdictOf(map) => lookup(map, VERDICT_REGISTER),
            Self::Translate(map) => lookup(map, REGISTER),
            Self::Random(below) => expression("numgen", &load.number(2, *below).number(3, 1)),
            Self::DestinationNat(family) => {
                let body = Attributes::new()
                    .number(1, 1)
                    .number(2, *family as u32)
                    .number(3, REGISTER);
                expression("nat", &body)
            }
            Self::Masquerade => expression("masq", &Attributes::new()),
            Self::Count => expression("counter", &Attributes::new()),
            Self::Verdict(verdict) => {
                let body = Attributes::new().number(1, VERDICT_REGISTER);
                expression("immediate", &body.nested(2, &verdict.encode()))
            }
        }
    }
}

fn payload(base: u32, offset: u32, length: u32) -> Attributes {
    let body = Attributes::new()
        .number(1, REGISTER)
        .number(2, base)
        .number(3, offset)
        .number(4, length);
    expression("payload", &body)
}

fn compare(operation: u32, data: &[u8]) -> Attributes {
    let body = Attributes::new().number(1, REGISTER).number(2, operation);
    expression("cmp", &body.nested(3, &value(data)))
}

fn lookup(map: &str, destination: u32) -> Attributes {
    let body = Attributes::new()
        .text(1, map)
        .number(2, REGISTER)
        .number(3, destination);
    expression("lookup", &body)
}

fn expression(name: &str, body: &Attributes) -> Attributes {
    Attributes::new().text(1, name).nested(2, body)
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

/// The begin and end of a batch name the subsystem.
fn envelope(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = message(kind, FLAG_REQUEST, 0, SUBSYSTEM, &[]);
    number(&mut bytes, sequence);
    bytes
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::linux::netns::tests::in_namespace;

    #[test]
    fn the_kernel_takes_a_balancer_and_shows_it() {
        in_namespace(|| {
            let mut batch = Batch::new();
            batch.replace_table(Family::Ipv4, "weave");
            batch.add_verdict_map(Family::Ipv4, "weave", "services", KeyType::Ipv4);
            batch.add_chain(Family::Ipv4, "weave", "web");
            batch.add_address_map("weave", "tasks");
            let task = |n, last| Element::number(n, Data::Address([10, 0, 0, last].into()));
            batch.add_elements(Family::Ipv4, "weave", "tasks", &[task(0, 3), task(1, 4)]);
            let balance = [
                Step::Random(2),
                Step::Translate("tasks".to_owned()),
                Step::DestinationNat(Family::Ipv4),
            ];
            batch.add_rule(Family::Ipv4, "weave", "web", &balance);
            let vip = Element::ipv4([10, 0, 0, 2].into());
            let web = Data::Verdict(Verdict::Goto("web".to_owned()));
            batch.add_elements(Family::Ipv4, "weave", "services", &[vip.to(web)]);
            batch.add_base_chain(
                Family::Ipv4,
                "weave",
                "out",
                ChainKind::Nat,
                Hook::Output,
                PRIORITY_DESTINATION_NAT,
            );
            let destination = Step::NetworkHeader {
                offset: 16,
                length: 4,
            };
            let dispatch = [destination, Step::VerdictOf("services".to_owned())];
            batch.add_rule(Family::Ipv4, "weave", "out", &dispatch);
            batch.apply().unwrap();

            let shown = nft_list();
            for text in [
                "10.0.0.2 : goto web",
                "0 : 10.0.0.3",
                "dnat to numgen random mod 2 map @tasks",
                "type nat hook output",
            ] {
                assert!(shown.contains(text), "{shown}");
            }
        });
    }

    #[test]
    fn what_is_refused_is_named_and_changes_nothing() {
        in_namespace(|| {
            let mut batch = Batch::new();
            batch.add_table(Family::Ipv4, "weave");
            batch.delete_chain(Family::Ipv4, "weave", "missing");
            let error = batch.apply().unwrap_err();
            assert!(error.to_string().contains("missing"), "{error}");
            assert!(!nft_list().contains("weave"));
        });
    }

    #[test]
    fn many_elements_fit() {
        in_namespace(|| {
            let mut batch = Batch::new();
            batch.add_table(Family::Ipv4, "weave");
            batch.add_set(Family::Ipv4, "weave", "peers", KeyType::Ipv4);
            let elements: Vec<_> = (0..2000_u32)
                .map(|n| Element::ipv4((0x0a00_0000 + n).into()))
                .collect();
            batch.add_elements(Family::Ipv4, "weave", "peers", &elements);
            batch.apply().unwrap();
            let mut batch = Batch::new();
            batch.delete_elements(Family::Ipv4, "weave", "peers", &elements);
            batch.delete_table(Family::Ipv4, "weave");
            batch.apply().unwrap();
        });
    }

    fn nft_list() -> String {
        let output = Command::new("nft").args(["list", "ruleset"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}
