//! HTTP/1.1 messages, as far as one has to understand them to know where each ends (RFC 9112).

use std::str;

use bytes::{Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};
use thiserror::Error;

/// The largest head, in bytes: credentials for many registries have some ten thousand.
pub(super) const MAX_HEAD: usize = 256 << 10;

/// How many headers a head may have: clients send a dozen.
const MAX_HEADERS: usize = 200;

/// How long the lines may be between and after chunks, all together for one chunk.
const MAX_CHUNK_LINE: usize = 16 << 10;

/// What is no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("expected HTTP/1.1: {0}")]
    Syntax(httparse::Error),
    #[error("expected a head of at most {MAX_HEAD} bytes with at most {MAX_HEADERS} headers")]
    TooLarge,
    #[error("expected one number of bytes as length, or chunks, got {0}")]
    Length(String),
    #[error("expected the size of a chunk in hexadecimal digits, and its end where that says")]
    Chunk,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) body: Body,
    /// Whether the client waits to be told before it sends the body.
    pub(super) expects_continue: bool,
    /// As it came, with the empty line at its end.
    pub(super) raw: Bytes,
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Body,
    /// Whether the connection ends with it.
    pub(super) closes: bool,
    /// As it came, with the empty line at its end.
    pub(super) raw: Bytes,
}

impl Request {
    /// Takes one off the buffer; `None` until it is complete.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(buffer) {
            Ok(Status::Complete(length)) => length,
            other => return incomplete(other, buffer.len()),
        };
        let fields = Fields::of(request.headers)?;
        let body = match (fields.chunked, fields.length) {
            (true, _) => Body::Chunked(Chunks::default()),
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        let mut taken = Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            body,
            expects_continue: fields.expects_continue,
            raw: Bytes::new(),
        };
        taken.raw = buffer.split_to(length).freeze();
        Ok(Some(taken))
    }
}

impl Response {
    /// Takes one off the buffer; `None` until it is complete. Responses to `HEAD` have no body.
    pub(super) fn take(buffer: &mut BytesMut, of_head: bool) -> Result<Option<Self>, Malformed> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(buffer) {
            Ok(Status::Complete(length)) => length,
            other => return incomplete(other, buffer.len()),
        };
        let fields = Fields::of(response.headers)?;
        let status = response.code.unwrap_or_default();
        let body = match (fields.chunked, fields.length) {
            _ if of_head || matches!(status, 100..=199 | 204 | 304) => Body::Length(0),
            (true, _) => Body::Chunked(Chunks::default()),
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::UntilClose,
        };
        let mut taken = Self {
            status,
            body,
            closes: fields.closes || response.version == Some(0),
            raw: Bytes::new(),
        };
        taken.raw = buffer.split_to(length).freeze();
        Ok(Some(taken))
    }
}

fn incomplete<T>(
    parsed: Result<Status<usize>, httparse::Error>,
    have: usize,
) -> Result<Option<T>, Malformed> {
    match parsed {
        Ok(_) if have < MAX_HEAD => Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Err(Malformed::TooLarge),
        Err(error) => Err(Malformed::Syntax(error)),
    }
}

/// A head with another body: the same lines but for those that say how long the body is.
pub(super) fn with_body(head: &[u8], body: &[u8]) -> Vec<u8> {
    const OF_THE_BODY: [&[u8]; 4] = [
        b"content-length",
        b"transfer-encoding",
        b"trailer",
        b"expect",
    ];
    let mut message = Vec::with_capacity(head.len() + body.len() + 32);
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or(line);
        if !OF_THE_BODY.iter().any(|of| name.eq_ignore_ascii_case(of)) {
            message.extend_from_slice(line);
        }
    }
    message.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    message.extend_from_slice(body);
    message
}

/// What the headers say of the message as a whole.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    closes: bool,
    expects_continue: bool,
}

impl Fields {
    fn of(headers: &[Header<'_>]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        for header in headers {
            let value = header.value.trim_ascii();
            let text = || String::from_utf8_lossy(value).into_owned();
            if header.name.eq_ignore_ascii_case("content-length") {
                let number = str::from_utf8(value).ok();
                let digits = number.filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                let length = digits.and_then(|text| text.parse::<u64>().ok());
                let length = length.ok_or_else(|| Malformed::Length(text()))?;
                if fields.length.is_some_and(|other| other != length) {
                    return Err(Malformed::Length(text()));
                }
                fields.length = Some(length);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if fields.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::Length(text()));
                }
                fields.chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                fields.closes |= words.any(|word| word.eq_ignore_ascii_case(b"close"));
            } else if header.name.eq_ignore_ascii_case("expect") {
                fields.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
            }
        }
        match (fields.chunked, fields.length) {
            // Two peers that disagree on which one counts see different messages (section 6.3).
            (true, Some(length)) => Err(Malformed::Length(format!("chunks and {length}"))),
            _ => Ok(fields),
        }
    }
}

/// Where a message is in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunks),
    /// It ends with the connection, which nobody asks anything more of.
    UntilClose,
}

impl Body {
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == ChunkState::Done,
            Self::UntilClose => false,
        }
    }

    /// Goes on to the end of the body or of the input, whichever comes first. Returns how many
    /// bytes that are, and tells of their payload.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let part = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                payload(&input[..part]);
                *left -= part as u64;
                Ok(part)
            }
            Self::Chunked(chunks) => chunks.advance(input, payload),
            Self::UntilClose => {
                payload(input);
                Ok(input.len())
            }
        }
    }
}

/// Where a message is in its chunks (section 7.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    state: ChunkState,
    /// Bytes of lines since the last data.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// In the digits, of which there were so many.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the digits.
    Extension {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// At the line's end behind the data.
    DataEnd,
    /// In the lines behind the last chunk; `empty` while there is nothing on this one.
    Trailer {
        empty: bool,
    },
    Done,
}

impl Default for ChunkState {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

impl Chunks {
    fn advance(
        &mut self,
        input: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < input.len() && self.state != ChunkState::Done {
            if let ChunkState::Data { left } = self.state {
                let rest = &input[at..];
                let part = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                payload(&rest[..part]);
                at += part;
                self.line = 0;
                self.state = match left - part as u64 {
                    0 => ChunkState::DataEnd,
                    left => ChunkState::Data { left },
                };
                continue;
            }
            self.line += 1;
            if self.line > MAX_CHUNK_LINE {
                return Err(Malformed::Chunk);
            }
            self.state = self.state.after(input[at])?;
            at += 1;
        }
        Ok(at)
    }
}

impl ChunkState {
    /// Behind one byte that is no data.
    fn after(self, byte: u8) -> Result<Self, Malformed> {
        let begun = |size| match size {
            0 => Self::Trailer { empty: true },
            left => Self::Data { left },
        };
        Ok(match (self, byte) {
            (Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // Sixteen digits fill the number.
                let digit = char::from(byte).to_digit(16).filter(|_| digits < 16);
                let digit = digit.ok_or(Malformed::Chunk)?;
                Self::Size {
                    size: (size << 4) | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Malformed::Chunk),
            (Self::Size { size, .. } | Self::Extension { size }, b'\n') => begun(size),
            (Self::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Extension { size }, _) => Self::Extension { size },
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::default(),
            (Self::Trailer { empty: true }, b'\n') => Self::Done,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
            (Self::Trailer { empty }, b'\r') => Self::Trailer { empty },
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            (Self::Size { .. } | Self::DataEnd | Self::Data { .. } | Self::Done, _) => {
                return Err(Malformed::Chunk);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> Result<Option<Request>, Malformed> {
        Request::take(&mut BytesMut::from(text))
    }

    #[test]
    fn requests_are_told_apart_by_how_they_end() {
        let body = |text: &str| request(text).unwrap().unwrap().body;
        assert_eq!(body("GET /x HTTP/1.1\r\nHost: d\r\n\r\n"), Body::Length(0));
        let length = "POST /x HTTP/1.1\r\ncontent-length: 12\r\n\r\n";
        assert_eq!(body(length), Body::Length(12));
        let chunked = "POST /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert!(matches!(body(chunked), Body::Chunked(_)));
        assert_eq!(request("GET /x HTTP/1.1\r\nHost"), Ok(None));
    }

    #[test]
    fn what_two_sides_could_see_differently_is_refused() {
        for headers in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let text = format!("POST /x HTTP/1.1\r\n{headers}\r\n\r\n");
            let error = request(&text).unwrap_err();
            assert!(matches!(error, Malformed::Length(_)), "{headers}: {error}");
        }
        let many = "A: b\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(request(&many), Err(Malformed::TooLarge));
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD));
        assert_eq!(request(&long), Err(Malformed::TooLarge));
        let error = request("hello\r\n\r\n").unwrap_err();
        assert!(matches!(error, Malformed::Syntax(_)), "{error}");
    }

    #[test]
    fn responses_without_a_length_end_with_the_connection() {
        let response = |text: &str, of_head| {
            let mut buffer = BytesMut::from(text);
            Response::take(&mut buffer, of_head).unwrap().unwrap()
        };
        let raw = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n";
        assert_eq!(response(raw, false).body, Body::UntilClose);
        assert!(response(raw, true).body.is_done());
        assert!(
            response("HTTP/1.1 204 No Content\r\n\r\n", false)
                .body
                .is_done()
        );
        let closes = "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n";
        assert!(response(closes, false).closes);
    }

    #[test]
    fn a_body_is_replaced_and_all_else_stays() {
        let head = b"POST /x HTTP/1.1\r\nHost: d\r\nX-A: 1\r\ntransfer-encoding: chunked\r\n\
                     Expect: 100-continue\r\n\r\n";
        let message = String::from_utf8(with_body(head, b"{}")).unwrap();
        let expected = "POST /x HTTP/1.1\r\nHost: d\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(message, expected);
    }

    /// The payload, and what is left of the input, when it comes in pieces of so many bytes.
    fn read(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let mut body = Body::Chunked(Chunks::default());
        let (mut payload, mut at) = (Vec::new(), 0);
        while at < input.len() && !body.is_done() {
            let end = input.len().min(at + piece);
            let taken = body.advance(&input[at..end], |data| payload.extend_from_slice(data))?;
            assert!(taken > 0);
            at += taken;
        }
        Ok((payload, at, body.is_done()))
    }

    #[test]
    fn chunks_end_with_their_trailers() {
        let text = b"5;x=\"y\"\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1";
        let (payload, end, done) = read(text, text.len()).unwrap();
        assert_eq!((payload.as_slice(), done), (&b"hello world"[..], true));
        assert_eq!(&text[end..], b"GET / HTTP/1.1");
        for wrong in ["x\r\n", "\r\n", "5\r\nhelloX", "11112222333344445\r\n"] {
            assert_eq!(read(wrong.as_bytes(), 1), Err(Malformed::Chunk), "{wrong}");
        }
        let endless = format!("1;{}", "x".repeat(MAX_CHUNK_LINE));
        assert_eq!(read(endless.as_bytes(), 100), Err(Malformed::Chunk));
    }

    proptest! {
        #[test]
        fn chunks_are_the_same_however_they_come(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            piece in 1usize..50,
            after in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let end = text.len();
            text.extend_from_slice(&after);
            prop_assert_eq!(read(&text, piece), Ok((parts.concat(), end, true)));
        }

        #[test]
        fn no_bytes_make_it_panic(input: Vec<u8>, piece in 1usize..9) {
            let _ = read(&input, piece);
            let _ = Request::take(&mut BytesMut::from(input.as_slice()));
            let _ = Response::take(&mut BytesMut::from(input.as_slice()), false);
        }
    }
}
