//! Peers from a file that operators and their tools write: `peers` in the directory of the state,
//! one on each line, `#` before remarks.

use std::io;
use std::path::Path;
use std::thread;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;

use crate::config::PeerAddress;
use crate::control::{Warning, Warnings};
use crate::mesh::Mesh;
use crate::store::Store;

/// The name of the file, and of these peers among the targets.
const NAME: &str = "peers";
const SOURCE: &str = "file";

/// The largest file that is read.
const MAX_SIZE: u64 = 1 << 20;

const WARNING: &str = "peers file";

/// Tells the mesh, for ever, which peers the file names.
pub(super) async fn watch(store: Store, mesh: Mesh, warnings: Warnings) {
    let file = store.dir().join(NAME);
    let warn = |error: io::Error| {
        let what = format!("the peers of {} are not known: {error}", file.display());
        let remedy = "write one peer on each line, as host[:port]; those named before stay";
        warnings.set(WARNING, Warning::new(what, remedy));
    };
    let (tell, mut changes) = mpsc::channel(1);
    let opened = Store::open(store.dir()).map_err(io::Error::other);
    if let Err(error) = opened.and_then(|store| watch_directory(store.dir(), tell)) {
        return warn(error);
    }
    loop {
        match read(&file) {
            Ok(peers) => {
                warnings.clear(WARNING);
                mesh.set_targets(SOURCE, peers);
            }
            Err(error) => warn(error),
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Tells of each change of the file. The directory is watched: a file that is replaced is another
/// one. The thread ends with the process.
fn watch_directory(dir: &Path, tell: mpsc::Sender<()>) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(dir, changes)?;
    let look = move || {
        while let Ok(events) = inotify.read_events() {
            let is_ours = events
                .iter()
                .any(|e| e.name.as_deref() == Some(NAME.as_ref()));
            if is_ours && tell.blocking_send(()).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("peers-file".to_owned())
        .spawn(look)?;
    Ok(())
}

fn read(file: &Path) -> io::Result<Vec<String>> {
    let text = match std::fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(metadata) if metadata.len() > MAX_SIZE => {
            return Err(io::Error::other(format!(
                "expected {MAX_SIZE} bytes at most"
            )));
        }
        _ => std::fs::read_to_string(file)?,
    };
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let words = lines.flat_map(str::split_whitespace);
    words
        .map(|word| match word.parse::<PeerAddress>() {
            Ok(peer) => Ok(peer.to_string()),
            Err(error) => Err(io::Error::other(error.to_string())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_and_empty_lines_are_no_peers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(NAME);
        assert_eq!(read(&file).unwrap(), Vec::<String>::new());
        std::fs::write(&file, "# ours\nhost2 host3:7\n\n[fd00::1]:7 # far\n").unwrap();
        assert_eq!(read(&file).unwrap(), ["host2", "host3:7", "[fd00::1]:7"]);
        std::fs::write(&file, "host2\nh:x\n").unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("h:x"), "{error}");
    }
}
