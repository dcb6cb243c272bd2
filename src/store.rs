//! Durable state: small JSON documents that are on disk before their change is acknowledged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a document could not be read or kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused. What was stored before is still there.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The document is there and is not what it should be. It has been left untouched.
    #[error("{path} does not hold what this version expects: {source}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// A directory of documents, one file each.
///
/// Writing replaces a document whole: either the old or the new one is there, whenever the power
/// goes. Cloning gives another handle to the same directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<Path>,
    /// Held while a document is replaced: two writers would take each other's new file away.
    saving: Arc<Mutex<()>>,
}

impl Store {
    /// The directory, which is made when something is first saved there.
    pub fn at(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().into(),
            saving: Arc::default(),
        }
    }

    /// Opens the directory, making it if need be, readable for root alone.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let store = Self::at(dir);
        store.make_dir()?;
        Ok(store)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads a document, `None` when it was never written.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let path = self.path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| StoreError::Malformed { path, source })
    }

    /// Replaces a document and returns when it is on the disk.
    pub fn save<T: Serialize + ?Sized>(&self, name: &str, document: &T) -> Result<(), StoreError> {
        let path = self.path(name);
        let text = serde_json::to_vec_pretty(document).map_err(|source| StoreError::Malformed {
            path: path.clone(),
            source,
        })?;
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_dir()?;
        let new = path.with_extension("new");
        write_durably(&new, &text).map_err(io_error("write", &new))?;
        fs::rename(&new, &path).map_err(io_error("replace", &path))?;
        // The rename itself lives in the directory.
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("sync", &self.dir))
    }

    /// Removes a document; one that is not there is as good as removed.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn make_dir(&self) -> Result<(), StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io_error("make", &self.dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }
}

fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("deep/er")).unwrap();
        assert_eq!(store.load::<u32>("number").unwrap(), None);
        store.save("number", &1).unwrap();
        store.save("number", &2).unwrap();
        let again = Store::open(store.dir()).unwrap();
        assert_eq!(again.load("number").unwrap(), Some(2));
        again.remove("number").unwrap();
        again.remove("number").unwrap();
        assert_eq!(again.load::<u32>("number").unwrap(), None);
    }

    #[test]
    fn many_may_save_one_document_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::thread::scope(|threads| {
            for number in 0..8 {
                let store = store.clone();
                threads.spawn(move || (0..20).for_each(|_| store.save("number", &number).unwrap()));
            }
        });
        assert!(store.load::<u32>("number").unwrap().is_some());
    }

    #[test]
    fn a_malformed_document_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save("number", "text").unwrap();
        let error = store.load::<u32>("number").unwrap_err();
        assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
        assert_eq!(store.load("number").unwrap(), Some("text".to_owned()));
    }
}
