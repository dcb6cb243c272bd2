//! Where clients are let in.

use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::relay::relay;
use super::rewrite::Rewriter;
use super::tls::Tls;
use super::{ListenerStatus, ProxyConfig, ProxyStatus, Refusal};
use crate::config::{Paths, ProxyAddress, TlsFiles, TlsSource};
use crate::docker::daemon_tls;
use crate::docker::socket_file::SocketFile;

/// How many clients there may be at once; others wait until they are let in.
const MAX_CONNECTIONS: usize = 400;

/// How many clients of all listeners may have yet to agree on TLS.
const MAX_HANDSHAKES: usize = 100;

/// How long a connection may be idle, and how long where many are.
const PATIENCE: Duration = Duration::from_secs(300);
const IMPATIENCE: Duration = Duration::from_secs(1);

/// How long a listener that could not be made, or failed, waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// How long a client may take until TLS is agreed on, where few clients are.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// After how long without a word the kernel asks whether a client's host is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What TLS begins with: a record of a handshake (RFC 8446, section 5.1).
const TLS_RECORD: u8 = 22;

/// Why one is not made.
const EXPOSED: &str = "whoever reaches it would be root on this host: listen on 127.0.0.1, let in \
                       only clients with certificates (--tlsverify), or say --proxy-insecure";

/// All listeners.
#[derive(Debug)]
pub(super) struct Listeners {
    listen: Vec<ProxyAddress>,
    paths: Paths,
    insecure: bool,
    tls: TlsSource,
    permits: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// One for each address; `None` while they are not wanted.
    states: Mutex<Option<Vec<ListenerStatus>>>,
}

impl Listeners {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        Self {
            listen: config.listen.clone(),
            paths: config.paths.clone(),
            insecure: config.insecure,
            tls: config.tls.clone(),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            states: Mutex::default(),
        }
    }

    /// How it goes; `None` while they are not wanted.
    pub(super) fn status(&self) -> Option<ProxyStatus> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        Some(ProxyStatus {
            listeners: states.clone()?,
            connections: MAX_CONNECTIONS - self.permits.available_permits(),
            ..ProxyStatus::default()
        })
    }

    /// Listens while that is wanted.
    pub(super) async fn serve(&self, rewriter: Arc<Rewriter>, mut wanted: watch::Receiver<bool>) {
        loop {
            let is_wanted = *wanted.borrow_and_update();
            self.begin(is_wanted);
            let everywhere = async {
                if is_wanted {
                    let listen = self.listen.iter().enumerate();
                    join_all(listen.map(|(index, at)| self.listen(index, at, &rewriter))).await;
                }
                pending::<()>().await;
            };
            tokio::select! {
                () = everywhere => {}
                // What is dropped then takes the connections with it.
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }

    fn begin(&self, is_wanted: bool) {
        let state = |address: &ProxyAddress| ListenerStatus {
            address: address.clone(),
            error: Some("not yet".to_owned()),
            tls: false,
            stale: None,
        };
        let states = is_wanted.then(|| self.listen.iter().map(state).collect());
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }

    fn note(&self, index: usize, error: Option<String>, tls: Option<&Tls>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = states.as_mut().and_then(|states| states.get_mut(index)) else {
            return;
        };
        state.tls = tls.is_some();
        state.stale = tls.and_then(Tls::stale);
        if state.error == error {
            return;
        }
        let address = &state.address;
        match &error {
            Some(error) => tracing::error!(error, %address, "Docker's API is not served"),
            None => tracing::info!(%address, "Docker's API is served"),
        }
        state.error = error;
    }

    /// Lets clients in at one address, for ever.
    async fn listen(&self, index: usize, address: &ProxyAddress, rewriter: &Arc<Rewriter>) {
        let mut clients = JoinSet::new();
        loop {
            let bound = self.bind(address).await;
            let (door, _file) = match bound {
                Ok(bound) => bound,
                Err(error) => {
                    self.note(index, Some(error), None);
                    sleep(RETRY).await;
                    continue;
                }
            };
            self.note(index, None, door.tls());
            loop {
                while clients.try_join_next().is_some() {}
                let client = match door.accept().await {
                    Ok(client) => client,
                    Err(error) => {
                        self.note(index, Some(error.to_string()), door.tls());
                        sleep(RETRY).await;
                        continue;
                    }
                };
                self.note(index, None, door.tls());
                // The others wait with the kernel. The semaphores are never closed. Who has yet to
                // agree on TLS keeps nobody from being served.
                let guests = match client.agrees_at_once() {
                    true => &self.permits,
                    false => &self.handshakes,
                };
                let Ok(permit) = Arc::clone(guests).acquire_owned().await else {
                    return;
                };
                let rewriter = Arc::clone(rewriter);
                let permits = Arc::clone(&self.permits);
                let handshakes = Arc::clone(&self.handshakes);
                clients.spawn(async move {
                    let patience = || match permits.available_permits() < MAX_CONNECTIONS / 2 {
                        true => IMPATIENCE,
                        false => PATIENCE,
                    };
                    let served = async {
                        if client.agrees_at_once() {
                            let _permit = permit;
                            return relay(client.agree().await?, &rewriter, patience).await;
                        }
                        let deadline = match handshakes.available_permits() < MAX_HANDSHAKES / 2 {
                            true => IMPATIENCE,
                            false => HANDSHAKE,
                        };
                        let client = timeout(deadline, client.agree()).await??;
                        let _guest = Arc::clone(&permits).acquire_owned().await;
                        drop(permit);
                        relay(client, &rewriter, patience).await
                    };
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "a client of Docker's API went away");
                    }
                });
            }
        }
    }

    async fn bind(&self, address: &ProxyAddress) -> Result<(Door, Option<SocketFile>), String> {
        match address {
            ProxyAddress::Unix(path) => {
                let path = self.paths.of_operator(path);
                let path = path.ok_or("expected a socket below /run or /var/lib")?;
                let engine = self.paths.docker_socket();
                let bound = SocketFile::bind(path, |new| open_up(new, &engine));
                let (listener, file) = bound.map_err(|error| error.to_string())?;
                Ok((Door::Unix(listener), Some(file)))
            }
            ProxyAddress::Tcp(address) => {
                let tls = self.tls_files()?;
                let tls = tls
                    .map(|files| Tls::new(files, self.paths.clone()))
                    .transpose()?;
                let verifies = tls.as_ref().is_some_and(Tls::verifies);
                if !address.ip().is_loopback() && !self.insecure && !verifies {
                    return Err(EXPOSED.to_owned());
                }
                let bound = TcpListener::bind(address).await;
                bound
                    .map(|listener| (Door::Tcp(listener, tls), None))
                    .map_err(|error| error.to_string())
            }
        }
    }

    fn tls_files(&self) -> Result<Option<TlsFiles>, String> {
        match &self.tls {
            TlsSource::Off => Ok(None),
            TlsSource::Given(files) => files.clone().map(Some),
            // `weave launch` finds out for a container.
            TlsSource::Docker if self.paths.is_of_host() => daemon_tls::detect(&self.paths),
            TlsSource::Docker => Ok(None),
        }
    }
}

/// Who may talk to the Engine may talk to us.
fn open_up(socket: &Path, engine: &Path) -> io::Result<()> {
    if let Ok(like) = fs::metadata(engine) {
        chown(socket, Some(like.uid()), Some(like.gid()))?;
        fs::set_permissions(socket, fs::Permissions::from_mode(like.mode() & 0o777))?;
    }
    Ok(())
}

/// What listens.
enum Door {
    Unix(UnixListener),
    Tcp(TcpListener, Option<Tls>),
}

impl Door {
    fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, tls) => tls.as_ref(),
        }
    }

    async fn accept(&self) -> io::Result<Visitor> {
        Ok(match self {
            Self::Unix(listener) => Visitor::Unix(listener.accept().await?.0),
            Self::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                tune(&stream)?;
                Visitor::Tcp(stream, tls.as_ref().map(Tls::acceptor))
            }
        })
    }
}

/// Who has come, and what has to be agreed on first.
enum Visitor {
    Unix(UnixStream),
    Tcp(TcpStream, Option<TlsAcceptor>),
}

/// Small messages leave at once; a host that vanished while nothing was said is noticed by the kernel.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

trait Client: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Client for T {}

impl Visitor {
    fn agrees_at_once(&self) -> bool {
        !matches!(self, Self::Tcp(_, Some(_)))
    }

    async fn agree(self) -> io::Result<Pin<Box<dyn Client>>> {
        match self {
            Self::Unix(stream) => Ok(Box::pin(stream)),
            Self::Tcp(stream, None) => Ok(Box::pin(stream)),
            Self::Tcp(mut stream, Some(acceptor)) => {
                let mut first = [0];
                if stream.peek(&mut first).await? == 1 && first[0] != TLS_RECORD {
                    let text = "expected TLS here: see `weave env`, or `docker --tlsverify`";
                    let refusal = Refusal::new(400, text);
                    stream.write_all(&refusal.response()).await?;
                    stream.shutdown().await?;
                    return Err(io::Error::other(text));
                }
                Ok(Box::pin(acceptor.accept(stream).await?))
            }
        }
    }
}
