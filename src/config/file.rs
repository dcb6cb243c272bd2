//! Small files that operators name in settings.

use std::fs::File;
use std::io::{Error, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The bytes of a regular file of at most `limit` bytes; the error says what is wrong with it.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: Error| format!("it cannot be read: {error}");
    // Opening a pipe without a writer would wait for ever.
    let mut open = File::options();
    open.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = open.open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    match bytes.len() as u64 > limit {
        true => Err(format!("it has more than {limit} bytes")),
        false => Ok(bytes),
    }
}
