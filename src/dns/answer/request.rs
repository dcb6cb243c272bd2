//! Queries, as far as they are understood.

use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::HEADER;

/// A query with one question.
#[derive(Debug)]
pub(super) struct Request<'a> {
    bytes: &'a [u8],
    header: Header,
    pub(super) question: Query,
    /// The question as it came.
    written: &'a [u8],
}

/// Why a query is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misunderstood {
    /// It is none, and gets no answer.
    NoQuery,
    /// To be answered with this code.
    Refused(ResponseCode),
}

/// What an asker said in its EDNS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskedEdns {
    pub(super) max_payload: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

impl<'a> Request<'a> {
    /// Reads a query up to the end of its question.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Misunderstood> {
        let refused = |code| Err(Misunderstood::Refused(code));
        let mut decoder = BinDecoder::new(bytes);
        let Ok(header) = Header::read(&mut decoder) else {
            return Err(Misunderstood::NoQuery);
        };
        if header.metadata.message_type == MessageType::Response {
            return Err(Misunderstood::NoQuery);
        }
        if header.metadata.op_code != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        if header.counts.queries != 1 {
            return refused(ResponseCode::FormErr);
        }
        let Ok(question) = Query::read(&mut decoder) else {
            return refused(ResponseCode::FormErr);
        };
        if question.query_class != DNSClass::IN {
            return refused(ResponseCode::Refused);
        }
        Ok(Self {
            bytes,
            header,
            question,
            written: &bytes[HEADER..decoder.index()],
        })
    }

    /// The question as it came, where it can be part of an answer as such, and what the asker said of
    /// EDNS: all of the query makes sense.
    pub(super) fn rest(&self) -> Result<(&'a [u8], Option<AskedEdns>), Misunderstood> {
        let malformed = Misunderstood::Refused(ResponseCode::FormErr);
        if !is_whole(self.written, &self.question.name) {
            return Err(malformed);
        }
        let counts = &self.header.counts;
        if (counts.answers, counts.authorities, counts.additionals) == (0, 0, 0) {
            return Ok((self.written, None));
        }
        let message = Message::from_vec(self.bytes).map_err(|_| malformed)?;
        let edns = message.edns.map(|edns| AskedEdns {
            max_payload: edns.max_payload(),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
        });
        Ok((self.written, edns))
    }
}

/// The bytes of a query's only question, where it has one that can be read and be part of another
/// message as such.
pub(in crate::dns) fn question_of(query: &[u8]) -> Option<&[u8]> {
    let mut decoder = BinDecoder::new(query);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries != 1 {
        return None;
    }
    let question = Query::read(&mut decoder).ok()?;
    let written = query.get(HEADER..decoder.index())?;
    is_whole(written, &question.name).then_some(written)
}

/// Whether a question names all of its name: one that goes on elsewhere would say something else
/// in another message.
fn is_whole(question: &[u8], name: &Name) -> bool {
    let name: usize = name.iter().map(|label| label.len() + 1).sum();
    // The root, the type and the class.
    question.len() == name + 1 + 4
}
