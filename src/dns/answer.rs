//! What a query is answered.
//!
//! Pure: the bytes of a query and who asks go in, the bytes of the answer come out, or that
//! somebody else is to be asked.

mod reply;
mod request;

use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

pub(super) use self::reply::error_reply;
use self::reply::{Data, Reply};
pub(super) use self::request::question_of;
use self::request::{Misunderstood, Request};
use super::askers::{Asker, Askers, Origin};
use super::table::{Table, tree_key};
use crate::types::DnsName;

/// The largest answer over UDP to askers that name no size (RFC 1035, section 4.2.1).
const PLAIN_UDP: u16 = 512;

/// The largest answer over UDP at all, which a bridge carries in fragments at worst.
const MOST_UDP: u16 = 4096;

/// The largest answer over TCP.
const MOST_TCP: u16 = u16::MAX;

/// The length of a message's header.
pub(super) const HEADER: usize = 12;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What is to be done about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To send the answer that was written.
    Reply(Asked, Outcome),
    /// To ask others, and to hand on what they say.
    Forward(Asked),
    /// To wait until it is known who asks.
    Wait,
    /// To keep silent.
    Ignore,
}

/// What a query asks for, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    A,
    Aaaa,
    Ptr,
    Other,
}

/// What came of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered with addresses or names.
    Found,
    /// Answered that the name has nothing of this type.
    Empty,
    /// Answered that there is no such name.
    Unknown,
    /// Answered that the query is not understood or not allowed.
    Refused,
    /// Not answered: from elsewhere, or no query at all.
    Ignored,
    /// Answered by the host's own servers.
    Forwarded,
    /// Not answered by them.
    Failed,
}

impl Asked {
    const fn of(kind: RecordType) -> Self {
        match kind {
            RecordType::A => Self::A,
            RecordType::AAAA => Self::Aaaa,
            RecordType::PTR => Self::Ptr,
            _ => Self::Other,
        }
    }
}

/// What answering works with, so that no query costs an allocation.
#[derive(Debug)]
pub(super) struct Desk {
    /// The answers, one behind the other, until whoever sends them clears it.
    pub(super) out: Vec<u8>,
    random: ChaCha8Rng,
    key: String,
    addresses: Vec<(IpAddr, bool)>,
}

impl Desk {
    /// An empty one. The seed is for the order of addresses.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self {
            out: Vec::new(),
            random: ChaCha8Rng::from_seed(seed),
            key: String::new(),
            addresses: Vec::new(),
        }
    }
}

/// All that answers are made of.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) domain: DnsName,
    pub(super) domain_key: String,
    pub(super) ttl: u32,
    pub(super) table: Table,
    pub(super) askers: Askers,
}

impl Zone {
    pub(super) fn new(domain: DnsName, ttl: u32, table: Table) -> Self {
        Self {
            domain_key: tree_key(&domain),
            domain,
            ttl,
            table,
            askers: Askers::default(),
        }
    }

    /// What is to be done about a query from this address. An answer is written behind what `desk`
    /// holds.
    pub(super) fn answer(
        &self,
        query: &[u8],
        source: IpAddr,
        transport: Transport,
        desk: &mut Desk,
    ) -> Verdict {
        let origin = self.askers.origin(source);
        if query.len() < HEADER {
            return Verdict::Ignore;
        }
        if origin == Origin::Foreign {
            return Verdict::Wait;
        }
        let request = match Request::read(query) {
            Ok(request) => request,
            Err(misunderstood) => return refuse(query, misunderstood, desk),
        };
        let question = &request.question;
        let asked = Asked::of(question.query_type);
        key_of(&question.name, &mut desk.key);
        let Some(matched) = self.matched(question, &mut desk.key) else {
            return Verdict::Forward(asked);
        };
        let asker = match origin {
            Origin::Known(asker) => asker,
            Origin::Unknown | Origin::Foreign => return Verdict::Wait,
        };
        let Some(content) = self.content(matched, question, asker, desk) else {
            return Verdict::Forward(asked);
        };
        // From here on the answer is this server's own, and all of the query must make sense.
        let (question, edns) = match request.rest() {
            Ok(rest) => rest,
            Err(misunderstood) => return refuse(query, misunderstood, desk),
        };
        let limit = match (transport, edns) {
            (Transport::Tcp, _) => MOST_TCP,
            (Transport::Udp, None) => PLAIN_UDP,
            (Transport::Udp, Some(edns)) => edns.max_payload.clamp(PLAIN_UDP, MOST_UDP),
        };
        let mut reply = Reply::begin(&mut desk.out, query, question, limit, edns);
        if edns.is_some_and(|edns| edns.version > 0) {
            reply.finish(ResponseCode::BADVERS, edns, MOST_UDP);
            return Verdict::Reply(asked, Outcome::Refused);
        }
        let order = &mut desk.random;
        let (whole, code, outcome) = match content {
            Content::Nothing => (true, ResponseCode::NXDomain, Outcome::Unknown),
            Content::Addresses if desk.addresses.is_empty() => {
                (true, ResponseCode::NoError, Outcome::Empty)
            }
            Content::Addresses => {
                desk.addresses.shuffle(order);
                desk.addresses.sort_by_key(|(_, local)| !local);
                let mut addresses = desk.addresses.iter();
                let whole = addresses.all(|(a, _)| reply.push(self.ttl, Data::Address(*a)));
                (whole, ResponseCode::NoError, Outcome::Found)
            }
            Content::Names(mut names) => {
                names.shuffle(order);
                let whole = names.iter().all(|n| reply.push(self.ttl, Data::Name(n)));
                (whole, ResponseCode::NoError, Outcome::Found)
            }
        };
        // Over TCP, what does not fit is as good as not there.
        if !whole && transport == Transport::Udp {
            reply.truncated();
        }
        reply.finish(code, edns, MOST_UDP);
        Verdict::Reply(asked, outcome)
    }

    /// What the question with this key is about, if it is this server's business.
    fn matched(&self, question: &Query, key: &mut String) -> Option<Matched> {
        if let Some(below) = key.strip_prefix(self.domain_key.as_str())
            && (below.is_empty() || below.starts_with('.'))
        {
            return Some(Matched::Name);
        }
        if question.query_type == RecordType::PTR && key.starts_with("arpa.") {
            let net = question.name.parse_arpa_name().ok()?;
            let whole = net.prefix_len() == net.max_prefix_len();
            return whole.then(|| Matched::Address(net.addr()));
        }
        // A resolver that adds no search domain is meant to find short names, too.
        if key.is_empty() || key.contains('.') {
            return None;
        }
        key.insert(0, '.');
        key.insert_str(0, &self.domain_key);
        Some(Matched::Short)
    }

    /// What is there; `None` when that is not for this server to say.
    fn content(
        &self,
        matched: Matched,
        question: &Query,
        asker: Asker<'_>,
        desk: &mut Desk,
    ) -> Option<Content<'_>> {
        if let Matched::Address(address) = matched {
            let names = self.table.names_of(address, asker)?;
            return Some(match names.is_empty() {
                true => Content::Nothing,
                false => Content::Names(names),
            });
        }
        desk.addresses.clear();
        let found = self.table.find(&desk.key, asker, &mut desk.addresses);
        if !found && matched == Matched::Short {
            return None;
        }
        // The domain itself is there without any name below it.
        if !found && desk.key != self.domain_key {
            return Some(Content::Nothing);
        }
        desk.addresses
            .retain(|(address, _)| match question.query_type {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                RecordType::ANY => true,
                _ => false,
            });
        Some(Content::Addresses)
    }
}

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matched {
    /// A name in the domain.
    Name,
    /// A name without any domain: the key is now that of the one in the domain.
    Short,
    /// The names of an address.
    Address(IpAddr),
}

enum Content<'a> {
    /// There is no such name.
    Nothing,
    /// The name is there; the desk has its addresses.
    Addresses,
    /// An address has these names.
    Names(Vec<&'a DnsName>),
}

/// Makes a name a key of the tree. What no name of ours can hold becomes something that none does.
fn key_of(name: &Name, key: &mut String) {
    key.clear();
    for label in name.iter().rev() {
        if !key.is_empty() {
            key.push('.');
        }
        match str::from_utf8(label) {
            Ok(label) if label.is_ascii() && !label.contains('.') => key.push_str(label),
            _ => key.push(char::REPLACEMENT_CHARACTER),
        }
    }
    key.make_ascii_lowercase();
}

fn refuse(query: &[u8], misunderstood: Misunderstood, desk: &mut Desk) -> Verdict {
    match misunderstood {
        Misunderstood::NoQuery => Verdict::Ignore,
        Misunderstood::Refused(code) => {
            desk.out.extend_from_slice(&error_reply(query, code));
            Verdict::Reply(Asked::Other, Outcome::Refused)
        }
    }
}

#[cfg(test)]
mod tests;
