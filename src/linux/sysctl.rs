//! Kernel settings of a network namespace.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::netns::NetNs;

/// Writes `value` to the setting `name` (a path below `/proc/sys`) as the namespace sees it.
///
/// Docker mounts `/proc/sys` read-only in plugins; with `CAP_SYS_ADMIN` it can be made writable
/// for a moment, in a mount namespace that nobody else sees.
///
/// # Errors
/// When the kernel has no such setting, or it may not be written.
pub fn set(namespace: &NetNs, name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    namespace.run(|| match fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            make_writable()?;
            fs::write(&path, value)
        }
        result => result,
    })?
}

fn make_writable() -> io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let rewritable = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount(none, "/proc/sys", none, rewritable, none)?;
    Ok(())
}
