//! Answers, written as they go over the wire (RFC 1035, section 4).
//!
//! They are written behind one another into one buffer: nothing is allocated for an answer.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::HEADER;
use super::request::{AskedEdns, question_of};
use crate::types::DnsName;

/// The class of the Internet.
const CLASS_IN: u16 = 1;

/// A name that is the question's: it begins right after the header.
const OF_QUESTION: [u8; 2] = [0xc0, HEADER as u8];

/// Bits of the header's third byte.
const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;

/// A bit of the header's fourth byte.
const RECURSION_AVAILABLE: u8 = 0x80;

/// The root name, type, size, flags and length of EDNS (RFC 6891, section 6.1.2).
const EDNS_SIZE: usize = 11;

/// What a record of an answer says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data<'a> {
    Address(IpAddr),
    Name(&'a DnsName),
}

/// One answer that is being written.
pub(super) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    end: usize,
    answers: u16,
}

impl<'a> Reply<'a> {
    /// Begins an answer to a query, behind what the buffer holds: of at most `limit` bytes, with
    /// room for `edns`. The question is that of the query, as it came.
    pub(super) fn begin(
        out: &'a mut Vec<u8>,
        query: &[u8],
        question: &[u8],
        limit: u16,
        edns: Option<AskedEdns>,
    ) -> Self {
        let start = out.len();
        let desired = query[2] & RECURSION_DESIRED;
        out.extend_from_slice(&query[..2]);
        out.extend_from_slice(&[RESPONSE | AUTHORITATIVE | desired, RECURSION_AVAILABLE]);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(question);
        let room = usize::from(limit) - edns.map_or(0, |_| EDNS_SIZE);
        Self {
            out,
            start,
            end: start + room,
            answers: 0,
        }
    }

    /// Adds a record about the question's name, if there is room for it; says whether.
    pub(super) fn push(&mut self, ttl: u32, data: Data<'_>) -> bool {
        let before = self.out.len();
        let (kind, length) = match data {
            Data::Address(IpAddr::V4(_)) => (RecordType::A, 4),
            Data::Address(IpAddr::V6(_)) => (RecordType::AAAA, 16),
            // A byte of length before each label, and the root.
            Data::Name(name) => (RecordType::PTR, name.as_str().len() + 2),
        };
        self.out.extend_from_slice(&OF_QUESTION);
        self.number(u16::from(kind));
        self.number(CLASS_IN);
        self.out.extend_from_slice(&ttl.to_be_bytes());
        // Names have at most 253 characters.
        self.number(length as u16);
        match data {
            Data::Address(IpAddr::V4(address)) => self.out.extend_from_slice(&address.octets()),
            Data::Address(IpAddr::V6(address)) => self.out.extend_from_slice(&address.octets()),
            Data::Name(name) => {
                for label in name.labels() {
                    // Labels have at most 63 characters.
                    self.out.push(label.len() as u8);
                    self.out.extend_from_slice(label.as_bytes());
                }
                self.out.push(0);
            }
        }
        let fits = self.out.len() <= self.end;
        match fits {
            true => self.answers += 1,
            false => self.out.truncate(before),
        }
        fits
    }

    /// Says that more would have been there.
    pub(super) fn truncated(&mut self) {
        self.out[self.start + 2] |= TRUNCATED;
    }

    /// Ends the answer with this code, and with `ours` where the asker uses EDNS.
    pub(super) fn finish(self, code: ResponseCode, edns: Option<AskedEdns>, our_payload: u16) {
        let [high, low] = self.answers.to_be_bytes();
        self.out[self.start + 3] |= code.low();
        self.out[self.start + 6] = high;
        self.out[self.start + 7] = low;
        let Some(asked) = edns else {
            return;
        };
        self.out[self.start + 11] = 1;
        self.out.push(0);
        self.out
            .extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
        self.out.extend_from_slice(&our_payload.to_be_bytes());
        let dnssec_ok = if asked.dnssec_ok { 0x80 } else { 0 };
        self.out
            .extend_from_slice(&[code.high(), 0, dnssec_ok, 0, 0, 0]);
    }

    fn number(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }
}

/// An answer with this code to a query that may not be understood beyond its header.
pub(in crate::dns) fn error_reply(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&query[..2]);
    // The operation and whether recursion is desired are the query's.
    reply[2] = 0x80 | (query[2] & 0x79);
    reply[3] = 0x80 | code.low();
    let Some(question) = question_of(query) else {
        return reply;
    };
    reply[5] = 1;
    reply.extend_from_slice(question);
    reply
}
