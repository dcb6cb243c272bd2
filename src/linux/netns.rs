//! Network namespaces: made, kept alive, entered.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// The namespace a thread is in. Unlike `/proc/self`, this is right in every thread.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// An open network namespace; it lives at least as long as this handle.
#[derive(Debug, Clone)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

/// Whether a namespace outlives the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persistence {
    /// It is held by a mount.
    Mounted(PathBuf),
    /// It and all its devices are gone when the daemon ends, for this reason.
    Lost(String),
}

impl NetNs {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Ok(Self::from_file(File::open(OF_THIS_THREAD)?))
    }

    /// A new namespace that only this handle keeps alive.
    pub fn anonymous() -> io::Result<Self> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::current()
        })?
    }

    /// The namespace whose file is at this path.
    ///
    /// # Errors
    /// When there is no such file, or it is not a network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let namespace = Self::from_file(File::open(path)?);
        // Only entering tells a namespace from any other file.
        namespace.run(|| ())?;
        Ok(namespace)
    }

    /// The namespace of a container, as Docker names it (`SandboxKey`, a path below `/var/run` of
    /// the host), where the host's `/run` is seen at `run_dir`.
    pub fn open_sandbox(run_dir: &Path, key: &Path) -> io::Result<Self> {
        Self::open(sandbox_path(run_dir, key))
    }

    /// Whether Docker has mounted a container's namespace, as
    /// [`open_sandbox`](Self::open_sandbox) finds it, by now.
    pub fn is_sandbox(run_dir: &Path, key: &Path) -> bool {
        // All namespaces are files of one file system, which holds nothing else.
        let device = |path: &Path| fs::metadata(path).map(|file| file.dev());
        match device(&sandbox_path(run_dir, key)) {
            Ok(found) => device(Path::new(OF_THIS_THREAD)).is_ok_and(|nsfs| nsfs == found),
            Err(_) => false,
        }
    }

    /// The namespace `name` kept by a mount at `<run_dir>/netns/<name>`, where `ip netns` shows
    /// it; it is made if it is not there. Where no mount can be made, it is kept by this handle
    /// alone.
    pub fn persistent(run_dir: &Path, name: &str) -> io::Result<(Self, Persistence)> {
        let path = persistent_path(run_dir, name);
        if let Ok(found) = Self::open(&path) {
            let persistence = persistence(run_dir, path);
            return Ok((found, persistence));
        }
        let (namespace, mounted) = on_own_thread(|| -> io::Result<_> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok((Self::current()?, mount_here(&path)))
        })??;
        let persistence = match mounted {
            Ok(()) => persistence(run_dir, path),
            Err(error) => {
                Persistence::Lost(format!("cannot mount it at {}: {error}", path.display()))
            }
        };
        Ok((namespace, persistence))
    }

    /// Ends the mount that [`persistent`](Self::persistent) made; one that is not there is as good
    /// as ended. The namespace goes with its last handle.
    pub fn forget(run_dir: &Path, name: &str) -> io::Result<()> {
        let path = persistent_path(run_dir, name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `f` inside the namespace, on a thread of its own that ends with it: the caller's
    /// thread never changes its namespace. Sockets that `f` opens stay in the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            setns(&*self.fd, CloneFlags::CLONE_NEWNET)?;
            Ok(f())
        })?
    }

    fn from_file(file: File) -> Self {
        Self {
            fd: Arc::new(file.into()),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for NetNs {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)?
            .join()
            .map_err(|_| io::Error::other("the thread inside the namespace panicked"))
    })
}

fn persistent_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join("netns").join(name)
}

fn sandbox_path(run_dir: &Path, key: &Path) -> PathBuf {
    ["/var/run", "/run"]
        .iter()
        .find_map(|host| key.strip_prefix(host).ok())
        .map_or_else(|| key.to_owned(), |below| run_dir.join(below))
}

fn mount_here(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // What is in the way is no namespace: a file left when its mount ended with a reboot.
    File::create(path)?;
    let none: Option<&str> = None;
    mount(Some(OF_THIS_THREAD), path, none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// In the host's own mount namespace every mount stays. In the plugin's it stays only if it
/// reached the host, which needs a shared mount below it.
fn persistence(run_dir: &Path, path: PathBuf) -> Persistence {
    let in_host = run_dir == Path::new("/run");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if in_host || path.parent().is_some_and(|dir| is_shared(&table, dir)) {
        return Persistence::Mounted(path);
    }
    Persistence::Lost(format!(
        "{} is not on a shared mount; `mount --make-shared /run` on the host makes it one",
        run_dir.display()
    ))
}

/// Whether what is mounted at `path` reaches the host: the mount that holds it is shared, and not
/// with copies of its own below one of the host's, from which it receives and to which it gives
/// nothing (proc(5), `/proc/pid/mountinfo`, fields 5 and 7).
fn is_shared(mountinfo: &str, path: &Path) -> bool {
    mountinfo
        .lines()
        .filter_map(|line| {
            let point = Path::new(line.split(' ').nth(4)?);
            let optional = || line.split(' ').skip(6).take_while(|field| *field != "-");
            let shared = optional().any(|field| field.starts_with("shared:"))
                && !optional().any(|field| field.starts_with("master:"));
            path.starts_with(point)
                .then(|| (point.components().count(), shared))
        })
        // Of several mounts on one point the last covers the others.
        .max_by_key(|(depth, _)| *depth)
        .is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a test in a network namespace of its own; not at all where that takes more rights.
    pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
        if nix::unistd::geteuid().is_root() {
            NetNs::anonymous().unwrap().run(test).unwrap();
        }
    }

    #[test]
    fn sandboxes_are_found_where_the_host_s_run_is_mounted() {
        let of = |key: &str| sandbox_path(Path::new("/host/run"), Path::new(key));
        let expected = Path::new("/host/run/docker/netns/1f2e");
        assert_eq!(of("/var/run/docker/netns/1f2e"), expected);
        assert_eq!(of("/run/docker/netns/1f2e"), expected);
        assert_eq!(of("/proc/12/ns/net"), Path::new("/proc/12/ns/net"));
    }

    #[test]
    fn the_innermost_mount_decides_whether_a_path_is_shared() {
        let table = "22 1 0:1 / / rw - ext4 /dev/vda rw\n\
                     23 22 0:2 / /host/run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
                     24 23 0:2 / /host/run/lock rw - tmpfs tmpfs rw\n";
        assert!(is_shared(table, Path::new("/host/run/netns")));
        assert!(!is_shared(table, Path::new("/host/run/lock")));
        assert!(!is_shared(table, Path::new("/host/runaway")));
    }

    #[test]
    fn a_mount_that_only_receives_from_the_host_is_not_shared_with_it() {
        let table = "22 1 0:1 / / rw - ext4 /dev/vda rw\n\
                     23 22 0:2 / /host/run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw\n";
        assert!(!is_shared(table, Path::new("/host/run/netns")));
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        assert!(NetNs::open("/etc/hostname").is_err());
        let is_sandbox = |path: &str| NetNs::is_sandbox(Path::new("/run"), Path::new(path));
        assert!(!is_sandbox("/etc/hostname"));
        assert!(!is_sandbox("/nonexistent"));
        assert!(is_sandbox("/proc/self/ns/net"));
    }
}
