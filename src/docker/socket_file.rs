//! Sockets in the file system that replace what a dead process left, and never a living one's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::UnixListener;

/// Why the socket could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another plugin, or another instance of this one, answers there.
    #[error("another process already answers on {path}", path = .0.display())]
    InUse(PathBuf),
    /// There is a file that is not a socket.
    #[error("{path} is in the way: expected a socket or nothing", path = .0.display())]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("cannot make socket {path}: {source}", path = path.display())]
    Io {
        /// Which socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket's name in the file system.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Listens at this path. A socket there that nobody answers on is replaced. Until `open_up` has
    /// run on it, it is for root alone.
    pub(super) fn bind(
        path: PathBuf,
        open_up: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(UnixListener, Self), SocketError> {
        make_way(&path)?;
        match listen(&path, open_up) {
            Ok((listener, inode)) => Ok((listener, Self { path, inode })),
            Err(source) => Err(SocketError::Io { path, source }),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own in this place.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes sure that no living socket is replaced, nor anything that is not a socket.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match is_answered(path) {
        Ok(true) => Err(SocketError::InUse(path.to_owned())),
        Ok(false) => Ok(()),
        Err(source) => Err(SocketError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether somebody listens. Does not block, as connecting would where the queue is full.
fn is_answered(path: &Path) -> io::Result<bool> {
    let socket = socket2::Socket::new(
        socket2::Domain::UNIX,
        socket2::Type::STREAM.nonblocking(),
        None,
    )?;
    match socket.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        },
    }
}

/// Binds beside the path and renames: what stands at the path is never open to others, and a stale
/// socket is replaced.
fn listen(
    path: &Path,
    open_up: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<(UnixListener, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // Not `.sock`: the Engine takes every file of that name for a plugin.
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    open_up(&new)?;
    let inode = fs::symlink_metadata(&new)?.ino();
    fs::rename(&new, path)?;
    Ok((listener, inode))
}
