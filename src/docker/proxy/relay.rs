//! One client's connection: requests pass one after the other to a connection to the Engine that
//! is this client's own.

use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

use super::Refusal;
use super::message::{Body, Malformed, Request, Response, with_body};
use super::rewrite::{Change, Rewriter};

/// How much is read at once, and how much of what a client sends too early is kept, in bytes.
const PIECE: usize = 64 << 10;

/// How long a head may take once it has begun.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long the body of a request that is rewritten may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The largest body of a request that is rewritten; docker's own have some kilobytes.
const MAX_BODY: usize = 4 << 20;

/// The largest body of a response that is rewritten.
const MAX_ANSWER: usize = 32 << 20;

/// How long the Engine may take to accept.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How often it is looked whether an idle connection has had its time.
const LOOK: Duration = Duration::from_secs(1);

/// How long what a refused client still sends is read, so that it gets to read its answer.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one client for as long as it is polled, or until either side has had enough. A
/// connection on which nothing is asked ends after `patience`, which may change with time.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    rewriter: &Rewriter,
    patience: impl Fn() -> Duration,
) -> io::Result<()> {
    let (reader, mut to_client) = tokio::io::split(client);
    let mut client = Source::new(reader);
    let mut engine = None;
    loop {
        let request = match next_request(&mut client, engine.as_mut(), &patience).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(Fault::Refused(refusal)) => {
                return refuse(&mut client, &mut to_client, &refusal).await;
            }
            Err(Fault::Broken(error)) => return Err(error),
        };
        let done = serve(&mut client, &mut to_client, &mut engine, rewriter, request).await;
        match done {
            Ok(After::Request) => {}
            Ok(After::End) => return to_client.shutdown().await,
            Err(Fault::Refused(refusal)) => {
                return refuse(&mut client, &mut to_client, &refusal).await;
            }
            Err(Fault::Broken(error)) => return Err(error),
        }
    }
}

/// Where bytes come from, with those that were read and not yet taken.
#[derive(Debug)]
struct Source<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Source<R> {
    fn new(reader: R) -> Self {
        let buffer = BytesMut::new();
        Self { reader, buffer }
    }

    /// Reads more; false at the end. Dropping the future loses nothing.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(PIECE);
        match self.reader.read_buf(&mut self.buffer).await {
            // TLS whose connection ends without a word of it: Python's clients end their input so.
            // Messages say themselves how long they are.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => Ok(read? > 0),
        }
    }
}

/// The connection to the Engine.
type Upstream = (Source<OwnedReadHalf>, OwnedWriteHalf);

/// What ends a connection.
#[derive(Debug)]
enum Fault {
    /// The client is told.
    Refused(Refusal),
    /// There is nobody to tell.
    Broken(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn bad_request(error: &Malformed) -> Refusal {
    let status = match error {
        Malformed::TooLarge => 431,
        _ => 400,
    };
    Refusal::new(status, error.to_string())
}

fn bad_gateway(reason: impl std::fmt::Display) -> Refusal {
    Refusal::new(502, format!("docker does not answer: {reason}"))
}

/// The next request; `None` when either side has ended the connection, or nothing came in time.
async fn next_request<R: AsyncRead + Unpin>(
    client: &mut Source<R>,
    engine: Option<&mut Upstream>,
    patience: &impl Fn() -> Duration,
) -> Result<Option<Request>, Fault> {
    let ended = async {
        match engine {
            // It has nothing to say unasked.
            Some((source, _)) => drop(source.fill().await),
            None => pending().await,
        }
    };
    let idle = async {
        let begin = Instant::now();
        while client.buffer.is_empty() {
            match timeout(LOOK, client.fill()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(false),
                Ok(Err(error)) => return Err(error),
                Err(_) if begin.elapsed() >= patience() => return Ok(false),
                Err(_) => {}
            }
        }
        Ok(true)
    };
    tokio::select! {
        more = idle => if !more? { return Ok(None) },
        () = ended => return Ok(None),
    }
    let late = || Refusal::new(408, format!("expected the whole head within {HEAD_TIME:?}"));
    let head = timeout(HEAD_TIME, request_head(client)).await;
    head.unwrap_or_else(|_| Err(late().into()))
}

async fn request_head<R: AsyncRead + Unpin>(
    client: &mut Source<R>,
) -> Result<Option<Request>, Fault> {
    loop {
        let request = Request::take(&mut client.buffer).map_err(|error| bad_request(&error))?;
        if request.is_some() || !client.fill().await? {
            return Ok(request);
        }
    }
}

/// What is to be done once a request has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Wait for the next one.
    Request,
    /// End the connection.
    End,
}

async fn serve<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    client: &mut Source<R>,
    to_client: &mut W,
    engine: &mut Option<Upstream>,
    rewriter: &Rewriter,
    request: Request,
) -> Result<After, Fault> {
    let is_head = request.method == "HEAD";
    let mut change = rewriter.change_of(&request);
    let (mut first, mut body) = (request.raw, request.body);
    if matches!(change, Change::Create | Change::Start(_)) {
        if request.expects_continue {
            to_client
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
            to_client.flush().await?;
        }
        let payload = whole(client, body, MAX_BODY);
        let late = || Refusal::new(408, format!("expected the body within {BODY_TIME:?}"));
        let payload = timeout(BODY_TIME, payload).await.map_err(|_| late())??;
        let (payload, then) = match change {
            Change::Start(name) => (rewriter.start(&name, payload).await?, Change::Nothing),
            _ => rewriter.create(&request.target, payload).await?,
        };
        first = with_body(&first, &payload).into();
        body = Body::Length(0);
        change = then;
    }
    let (engine, to_engine) = match engine {
        Some(upstream) => upstream,
        None => engine.insert(connect(rewriter.engine_socket()).await?),
    };
    let sent = AtomicBool::new(false);
    let upload = upload(client, to_engine, first, body, &sent);
    let download = download(engine, to_client, rewriter, change, is_head);
    let then = tokio::select! {
        then = download => then?,
        error = upload => return Err(error.into()),
    };
    match then {
        Then::Next if sent.load(Relaxed) => Ok(After::Request),
        Then::Next | Then::End => Ok(After::End),
        Then::Stream => {
            stream(client, to_client, engine, to_engine).await?;
            Ok(After::End)
        }
    }
}

async fn connect(socket: &Path) -> Result<Upstream, Refusal> {
    let connected = timeout(CONNECT_TIME, UnixStream::connect(socket)).await;
    let stream = connected
        .map_err(|_| bad_gateway(format_args!("not connected within {CONNECT_TIME:?}")))?
        .map_err(|error| bad_gateway(format_args!("{}: {error}", socket.display())))?;
    let (reader, writer) = stream.into_split();
    Ok((Source::new(reader), writer))
}

/// The payload of a whole body.
async fn whole<R: AsyncRead + Unpin>(
    from: &mut Source<R>,
    mut body: Body,
    limit: usize,
) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::new();
    loop {
        let buffer = &mut from.buffer;
        let taken = body.advance(buffer, |data| payload.extend_from_slice(data));
        let taken = taken.map_err(|error| bad_request(&error))?;
        drop(buffer.split_to(taken));
        if payload.len() > limit {
            let text = format!("expected a body of at most {limit} bytes");
            return Err(Refusal::new(413, text).into());
        }
        if body.is_done() {
            return Ok(payload);
        }
        if !from.fill().await? {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Sends a request, then passes on that the client has no more to say. What it says too early is
/// kept, within bounds. Ends only when the client is gone.
async fn upload<R: AsyncRead + Unpin>(
    client: &mut Source<R>,
    to_engine: &mut OwnedWriteHalf,
    first: Bytes,
    body: Body,
    sent: &AtomicBool,
) -> io::Error {
    match send(client, to_engine, &first, body).await {
        Ok(()) => sent.store(true, Relaxed),
        Err(Unsent::Client(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let _ = to_engine.shutdown().await;
            return pending().await;
        }
        Err(Unsent::Client(error)) => return error,
        // An Engine that has read enough may have answered all the same.
        Err(Unsent::Engine) => return pending().await,
    }
    while client.buffer.len() < PIECE {
        match client.fill().await {
            Ok(true) => {}
            Ok(false) => {
                // What came too early has to go first.
                if client.buffer.is_empty() {
                    let _ = to_engine.shutdown().await;
                }
                break;
            }
            Err(error) => return error,
        }
    }
    pending().await
}

/// Whose fault it is that a request was not sent whole.
enum Unsent {
    Client(io::Error),
    Engine,
}

async fn send<R: AsyncRead + Unpin>(
    client: &mut Source<R>,
    to_engine: &mut OwnedWriteHalf,
    first: &[u8],
    mut body: Body,
) -> Result<(), Unsent> {
    let mut piece = BytesMut::from(first);
    loop {
        // Chunks that make no sense are the Engine's to refuse: they end the request there too.
        let taken = body.advance(&client.buffer, |_| ());
        let taken = taken.map_err(|error| Unsent::Client(io::Error::other(error)))?;
        piece = joined(piece, client.buffer.split_to(taken));
        let sent = to_engine.write_all(&piece).await;
        sent.map_err(|_| Unsent::Engine)?;
        piece = BytesMut::new();
        if body.is_done() {
            return Ok(());
        }
        match client.fill().await {
            Ok(true) => {}
            Ok(false) => return Err(Unsent::Client(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(Unsent::Client(error)),
        }
    }
}

/// A head and what there is of its body as one piece: small messages are one write.
fn joined(mut head: BytesMut, body: BytesMut) -> BytesMut {
    if head.is_empty() {
        return body;
    }
    head.extend_from_slice(&body);
    head
}

/// What a response leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    End,
    /// From here on both sides say what they want.
    Stream,
}

/// Passes the response on, changed where that is asked for.
async fn download<W: AsyncWrite + Unpin>(
    engine: &mut Source<OwnedReadHalf>,
    to_client: &mut W,
    rewriter: &Rewriter,
    change: Change,
    is_head: bool,
) -> Result<Then, Fault> {
    let response = loop {
        let response = response_head(engine, is_head).await?;
        if !matches!(response.status, 100 | 102..=199) {
            break response;
        }
        to_client.write_all(&response.raw).await?;
        to_client.flush().await?;
    };
    if !matches!(change, Change::Nothing) && !matches!(response.body, Body::UntilClose) {
        let payload = whole(engine, response.body, MAX_ANSWER).await?;
        let changed = rewriter.answer(change, response.status, payload).await?;
        to_client
            .write_all(&with_body(&response.raw, &changed))
            .await?;
        to_client.flush().await?;
        return Ok(if response.closes {
            Then::End
        } else {
            Then::Next
        });
    }
    let mut body = response.body;
    if response.status == 101 || body == Body::UntilClose {
        to_client.write_all(&response.raw).await?;
        to_client.flush().await?;
        return Ok(Then::Stream);
    }
    let mut piece = BytesMut::from(&response.raw[..]);
    loop {
        let taken = body.advance(&engine.buffer, |_| ());
        let taken = taken.map_err(io::Error::other)?;
        piece = joined(piece, engine.buffer.split_to(taken));
        to_client.write_all(&piece).await?;
        to_client.flush().await?;
        piece = BytesMut::new();
        if body.is_done() {
            return Ok(if response.closes {
                Then::End
            } else {
                Then::Next
            });
        }
        if !engine.fill().await? {
            // The client finds out in the same way.
            return Ok(Then::End);
        }
    }
}

async fn response_head(
    engine: &mut Source<OwnedReadHalf>,
    is_head: bool,
) -> Result<Response, Fault> {
    loop {
        match Response::take(&mut engine.buffer, is_head) {
            Ok(Some(response)) => return Ok(response),
            Ok(None) => {}
            Err(error) => return Err(bad_gateway(error).into()),
        }
        match engine.fill().await {
            Ok(true) => {}
            Ok(false) => return Err(bad_gateway("it ended the connection").into()),
            Err(error) => return Err(bad_gateway(error).into()),
        }
    }
}

/// Passes everything on both ways. Each has its own end: a client that has no more to say may
/// still listen.
async fn stream<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    client: &mut Source<R>,
    to_client: &mut W,
    engine: &mut Source<OwnedReadHalf>,
    to_engine: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let up = async {
        // An Engine that takes nothing any more may still have something to say.
        let _ = pump(client, to_engine).await;
        Ok::<(), io::Error>(())
    };
    let down = pump(engine, to_client);
    tokio::try_join!(up, down).map(drop)
}

async fn pump<R: AsyncRead + Unpin>(
    from: &mut Source<R>,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        if !from.buffer.is_empty() {
            to.write_all_buf(&mut from.buffer).await?;
            to.flush().await?;
        }
        if !from.fill().await? {
            return to.shutdown().await;
        }
    }
}

/// Tells the client what is wrong, and ends the connection.
async fn refuse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    client: &mut Source<R>,
    to_client: &mut W,
    refusal: &Refusal,
) -> io::Result<()> {
    tracing::debug!(%refusal, "a client of Docker's API was refused");
    let farewell = async {
        to_client.write_all(&refusal.response()).await?;
        to_client.shutdown().await?;
        loop {
            client.buffer.clear();
            if !client.fill().await? {
                return Ok::<(), io::Error>(());
            }
        }
    };
    timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}
