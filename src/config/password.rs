//! The password: from a setting or a file, never silently absent.

use std::fmt;
use std::path::Path;

use super::file::read_small;
use super::sources::Problems;
use super::{Paths, Settings, catalogue};
use crate::types::Secret;

/// Largest password file, in bytes.
const MAX_PASSWORD: u64 = 4096;

/// Where the password comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PasswordState {
    /// None is wanted.
    #[default]
    NotSet,
    /// It is the setting's.
    Set,
    /// It was read from the file.
    FromFile,
    /// One was wanted and is not known: in its place is a random one, so nobody connects.
    Lost,
}

impl fmt::Display for PasswordState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSet => "not set",
            Self::Set => "set",
            Self::FromFile => "set, from the file",
            Self::Lost => "one that nobody knows, so that no peer connects",
        })
    }
}

impl Settings {
    /// Reads the password file, which wins over the setting.
    pub(super) fn resolve_password(&mut self, paths: &Paths, problems: &mut Problems) {
        if self.password.is_some() {
            self.password_state = PasswordState::Set;
        }
        if let Some(file) = &self.password_file {
            match read(file, paths) {
                Ok(password) => {
                    self.password = Some(password);
                    self.password_state = PasswordState::FromFile;
                }
                Err(reason) => {
                    let name = catalogue::by_key(catalogue::PASSWORD_FILE)
                        .map_or_else(String::new, catalogue::Setting::name);
                    let value = file.display().to_string();
                    problems.lose_password(&name, Some(&value), &reason);
                }
            }
        }
        if problems.password_lost {
            let nobody_knows: [u8; 32] = rand::random();
            let text = nobody_knows.iter().map(|byte| format!("{byte:02x}"));
            self.password = Some(Secret::new(text.collect::<String>()));
            self.password_state = PasswordState::Lost;
        }
    }
}

fn read(file: &Path, paths: &Paths) -> Result<Secret, String> {
    let path = paths.of_operator(file).ok_or(
        "the plugin sees only files below /var/lib and /run of the host; put it into \
         /var/lib/weave",
    )?;
    let text = String::from_utf8(read_small(&path, MAX_PASSWORD)?);
    let text = text.map_err(|error| format!("it cannot be read: {error}"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    match password.is_empty() {
        true => Err("it is empty".to_owned()),
        false => Ok(Secret::new(password)),
    }
}
