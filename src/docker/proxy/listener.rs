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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::relay::relay;
use super::rewrite::Rewriter;
use super::{ListenerStatus, ProxyConfig, ProxyStatus};
use crate::config::{Paths, ProxyAddress};
use crate::docker::socket_file::SocketFile;

/// How many clients there may be at once; others wait until they are let in.
const MAX_CONNECTIONS: usize = 400;

/// How long a connection may be idle, and how long where many are.
const PATIENCE: Duration = Duration::from_secs(300);
const IMPATIENCE: Duration = Duration::from_secs(1);

/// How long a listener that could not be made, or failed, waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// Why one is not made.
const EXPOSED: &str = "whoever reaches it would be root on this host: listen on 127.0.0.1, or say \
                       --proxy-insecure";

/// All listeners.
#[derive(Debug)]
pub(super) struct Listeners {
    listen: Vec<ProxyAddress>,
    paths: Paths,
    insecure: bool,
    permits: Arc<Semaphore>,
    /// One for each address; `None` while they are not wanted.
    states: Mutex<Option<Vec<ListenerStatus>>>,
}

impl Listeners {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        Self {
            listen: config.listen.clone(),
            paths: config.paths.clone(),
            insecure: config.insecure,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
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
        };
        let states = is_wanted.then(|| self.listen.iter().map(state).collect());
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = states;
    }

    fn note(&self, index: usize, error: Option<String>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = states.as_mut().and_then(|states| states.get_mut(index)) else {
            return;
        };
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
            self.note(index, bound.as_ref().err().cloned());
            let Ok((door, _file)) = bound else {
                sleep(RETRY).await;
                continue;
            };
            loop {
                while clients.try_join_next().is_some() {}
                let client = match door.accept().await {
                    Ok(client) => client,
                    Err(error) => {
                        self.note(index, Some(error.to_string()));
                        sleep(RETRY).await;
                        continue;
                    }
                };
                self.note(index, None);
                // The others wait with the kernel. The semaphore is never closed.
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                    return;
                };
                let rewriter = Arc::clone(rewriter);
                let permits = Arc::clone(&self.permits);
                clients.spawn(async move {
                    let patience = || match permits.available_permits() < MAX_CONNECTIONS / 2 {
                        true => IMPATIENCE,
                        false => PATIENCE,
                    };
                    if let Err(error) = relay(client, &rewriter, patience).await {
                        tracing::debug!(%error, "a client of Docker's API went away");
                    }
                    drop(permit);
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
                if !address.ip().is_loopback() && !self.insecure {
                    return Err(EXPOSED.to_owned());
                }
                let bound = TcpListener::bind(address).await;
                bound
                    .map(|listener| (Door::Tcp(listener), None))
                    .map_err(|error| error.to_string())
            }
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
    Tcp(TcpListener),
}

trait Client: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Client for T {}

impl Door {
    async fn accept(&self) -> io::Result<Pin<Box<dyn Client>>> {
        Ok(match self {
            Self::Unix(listener) => Box::pin(listener.accept().await?.0),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::pin(stream)
            }
        })
    }
}
