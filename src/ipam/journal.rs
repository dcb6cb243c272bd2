//! The allocator's durable state: a snapshot, and a journal of what has changed since.
//!
//! Entries are appended and synced in batches, so that many requests share one sync. A torn entry
//! at the end is one that was never acknowledged, and is cut off. Snapshot and journal are tied by
//! a number, so whichever moment the power goes, one pair of them is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::state::{Entry, State};
use super::wire;

/// A journal longer than this, and than four times its snapshot, is folded into a new snapshot.
const FOLD: u64 = 4 << 20;

/// The longest entry that is believed: a state of some hundred thousand addresses.
const MAX_ENTRY: usize = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    journal: u64,
    state: State,
}

/// The files.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    number: u64,
    file: File,
    length: u64,
    snapshot_length: u64,
    torn: bool,
}

impl Journal {
    /// Opens what is in the directory, which is made if need be, or begins with this state.
    pub fn open(dir: &Path, begin: impl FnOnce() -> State) -> io::Result<(Self, State)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let snapshot = match fs::read(dir.join("ipam.snapshot")) {
            Ok(bytes) => Some(read_snapshot(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let fresh = snapshot.is_none();
        let (number, state) = match snapshot {
            Some(snapshot) => (snapshot.journal, snapshot.state),
            None => (0, begin()),
        };
        let mut journal = Self {
            dir: dir.to_owned(),
            number,
            file: open_file(&journal_path(dir, number))?,
            length: 0,
            snapshot_length: 0,
            torn: false,
        };
        if fresh {
            journal.fold(&state)?;
        }
        let state = journal.replay(state)?;
        Ok((journal, state))
    }

    /// Writes entries in their form (see [`encode`]) and returns when they are on the disk. After
    /// an error none of them is there.
    pub fn append(&mut self, entries: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        let written = self
            .file
            .write_all(entries)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += entries.len() as u64;
        Ok(())
    }

    /// Whether it is time to [`Journal::fold`].
    pub fn is_long(&self) -> bool {
        self.length > FOLD.max(4 * self.snapshot_length)
    }

    /// Puts the journal's changes into a new snapshot, and begins a new journal. The state must be
    /// what all appended entries make.
    pub fn fold(&mut self, state: &State) -> io::Result<()> {
        let next = self.number + 1;
        let path = journal_path(&self.dir, next);
        let file = open_file(&path)?;
        file.set_len(0)?;
        file.sync_all()?;
        let snapshot = Snapshot {
            journal: next,
            state: state.clone(),
        };
        let body = wire::encode(&snapshot);
        let mut bytes = checksum(&body).to_vec();
        bytes.extend_from_slice(&body);
        let new = self.dir.join("ipam.snapshot.new");
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        fs::rename(&new, self.dir.join("ipam.snapshot"))?;
        File::open(&self.dir)?.sync_all()?;
        // From here on the new pair counts; the old journal is only litter.
        let _ = fs::remove_file(journal_path(&self.dir, self.number));
        self.number = next;
        self.file = file;
        self.torn = false;
        self.length = 0;
        self.snapshot_length = bytes.len() as u64;
        Ok(())
    }

    /// Reads the state back as it is on the disk.
    pub fn reload(&mut self) -> io::Result<State> {
        let bytes = fs::read(self.dir.join("ipam.snapshot"))?;
        let snapshot = read_snapshot(&bytes)?;
        self.replay(snapshot.state)
    }

    fn replay(&mut self, mut state: State) -> io::Result<State> {
        let bytes = fs::read(journal_path(&self.dir, self.number))?;
        let mut rest = &bytes[..];
        while let Some((entry, after)) = read_entry(rest) {
            state.apply(&entry);
            rest = after;
        }
        self.length = (bytes.len() - rest.len()) as u64;
        if !rest.is_empty() {
            self.file.set_len(self.length)?;
        }
        self.snapshot_length = fs::metadata(self.dir.join("ipam.snapshot")).map_or(0, |m| m.len());
        Ok(state)
    }
}

/// Appends the form of an entry: its length, a checksum, itself.
pub fn encode(entry: &Entry, to: &mut Vec<u8>) {
    let body = wire::encode(entry);
    to.extend_from_slice(&(body.len() as u32).to_be_bytes());
    to.extend_from_slice(&checksum(&body));
    to.extend_from_slice(&body);
}

fn read_entry(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_ENTRY {
        return None;
    }
    let (body, rest) = rest.split_at_checked(length)?;
    if checksum(body) != *sum {
        return None;
    }
    Some((wire::decode(body)?, rest))
}

fn read_snapshot(bytes: &[u8]) -> io::Result<Snapshot> {
    let malformed = || {
        let text = "ipam.snapshot does not hold what this version expects";
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let (sum, body) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    if checksum(body) != *sum {
        return Err(malformed());
    }
    wire::decode(body).ok_or_else(malformed)
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn journal_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("ipam.journal.{number}"))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::AddressSpace;
    use crate::ipam::range::Range;
    use crate::ipam::ring::Lineage;
    use crate::ipam::space::Holder;
    use crate::ipam::state::Born;

    fn begin() -> State {
        State::new("10.0.0.0/16".parse().unwrap(), 7)
    }

    fn entries() -> Vec<Entry> {
        let universe: ipnet::IpNet = "10.0.0.0/16".parse().unwrap();
        let all = Range::of_net(&universe);
        let born = Entry::Born(Born {
            lineage: Lineage(1),
            total: 1,
            slots: [0].into(),
            settled: true,
        });
        let holder = Holder::Docker(AddressSpace::Local);
        let allocate = |n| Entry::Allocate((universe, all.first + n), all, holder.clone());
        std::iter::once(born).chain((1..50).map(allocate)).collect()
    }

    #[test]
    fn what_survives_is_a_prefix_of_what_was_written() {
        let mut bytes = Vec::new();
        let mut states = vec![begin()];
        let mut ends = vec![0];
        for entry in entries() {
            encode(&entry, &mut bytes);
            let mut state = states[states.len() - 1].clone();
            state.apply(&entry);
            states.push(state);
            ends.push(bytes.len());
        }
        for cut in (0..=bytes.len()).step_by(7) {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, _) = Journal::open(dir.path(), begin).unwrap();
            journal.append(&bytes).unwrap();
            journal.file.set_len(cut as u64).unwrap();
            let (mut journal, found) = Journal::open(dir.path(), begin).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(found, states[whole]);
            journal.append(&bytes[ends[whole]..]).unwrap();
            assert_eq!(&journal.reload().unwrap(), states.last().unwrap());
        }
    }

    #[test]
    fn folding_keeps_the_state_and_shortens_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(dir.path(), begin).unwrap();
        let mut state = found;
        for entry in entries() {
            let mut bytes = Vec::new();
            encode(&entry, &mut bytes);
            state.apply(&entry);
            journal.append(&bytes).unwrap();
        }
        journal.fold(&state).unwrap();
        assert_eq!(journal.length, 0);
        let (_, found) = Journal::open(dir.path(), begin).unwrap();
        assert_eq!(found, state);
    }

    #[test]
    fn a_malformed_snapshot_is_reported_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::open(dir.path(), begin).unwrap());
        let path = dir.path().join("ipam.snapshot");
        fs::write(&path, b"something else").unwrap();
        let error = Journal::open(dir.path(), begin).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(fs::read(&path).unwrap(), b"something else");
    }
}
