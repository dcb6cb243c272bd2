//! Where settings come from: text by name, not yet understood.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};

use super::catalogue::{self, Setting, Shape};
use super::words;

/// How many entries of a list are looked at.
const MAX_LIST: usize = 256;

/// How many rejections are kept.
const MAX_REJECTED: usize = 100;

/// Longest name or value shown of a rejected setting, in characters.
const MAX_SHOWN: usize = 128;

/// Who made a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Nobody.
    Default,
    /// A variable: what `docker plugin set` sets.
    Environment,
    /// The flags in `EXTRA_ARGS`.
    ExtraArgs,
    /// The command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Environment => "environment",
            Self::ExtraArgs => catalogue::EXTRA_ARGS,
            Self::CommandLine => "command line",
        })
    }
}

/// A setting that is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its name as it was written.
    pub setting: String,
    /// What it was set to; `None` where that could be a password.
    pub value: Option<String>,
    /// What is wrong with it, or what would be right.
    pub reason: String,
    /// What is in force instead.
    pub kept: Option<String>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.setting)?;
        if let Some(value) = &self.value {
            write!(f, "={value:?}")?;
        }
        write!(f, " is not obeyed: {}", self.reason)?;
        match &self.kept {
            Some(kept) => write!(f, "; in force is: {kept}"),
            None => Ok(()),
        }
    }
}

/// What went wrong while settings were read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    rejected: Vec<(Option<&'static str>, Rejected)>,
    /// Whether a password was wanted and is not known.
    pub(super) password_lost: bool,
}

impl Problems {
    /// Takes note of a setting that is not obeyed; `key` is the one whose value is kept instead.
    pub(super) fn reject(
        &mut self,
        key: Option<&'static str>,
        name: &str,
        value: Option<&str>,
        reason: impl Into<String>,
    ) {
        let secret = matches!(key, Some(catalogue::PASSWORD));
        if self.rejected.len() < MAX_REJECTED {
            let rejected = rejected(name, value.filter(|_| !secret), reason.into());
            self.rejected.push((key, rejected));
        }
    }

    /// Takes note that what was meant to protect the mesh is not known. The value is shown: it
    /// must not be the password itself.
    pub(super) fn lose_password(&mut self, name: &str, value: Option<&str>, reason: &str) {
        self.password_lost = true;
        let rejected = rejected(name, value, reason.to_owned());
        // Nothing is more pressing, and no flood of others may hide it.
        self.rejected.truncate(MAX_REJECTED - 1);
        self.rejected
            .insert(0, (Some(catalogue::PASSWORD), rejected));
    }

    /// All rejections, with what is kept instead as `in_force` tells it.
    pub(super) fn finish(self, in_force: impl Fn(&'static str) -> Option<String>) -> Vec<Rejected> {
        let kept = |(key, mut rejected): (Option<&'static str>, Rejected)| {
            rejected.kept = key.and_then(&in_force);
            rejected
        };
        self.rejected.into_iter().map(kept).collect()
    }
}

fn rejected(name: &str, value: Option<&str>, reason: String) -> Rejected {
    Rejected {
        setting: shown(name),
        value: value.map(shown),
        reason,
        kept: None,
    }
}

fn shown(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(MAX_SHOWN)
        .collect()
}

/// What one source says, by key.
#[derive(Debug)]
pub(super) struct Layer {
    source: Source,
    values: BTreeMap<&'static str, Given>,
}

#[derive(Debug)]
struct Given {
    name: String,
    text: Text,
}

#[derive(Debug)]
enum Text {
    One(String),
    List(Vec<String>),
}

impl Layer {
    /// What the environment says, and what the flags in its `EXTRA_ARGS` say.
    pub(super) fn of_environment(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        problems: &mut Problems,
    ) -> [Self; 2] {
        let mut layer = Self::empty(Source::Environment);
        let mut extra = Self::empty(Source::ExtraArgs);
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let setting = catalogue::by_variable(name);
            let extra_args = name == catalogue::EXTRA_ARGS;
            if setting.is_none() && !extra_args {
                reject_variable(name, problems);
                continue;
            }
            let Ok(value) = value.into_string() else {
                let reason = "it is not UTF-8 text";
                // Flags that cannot be read may have named a password.
                match setting {
                    Some(setting) if !protects(setting) => {
                        problems.reject(Some(setting.key), name, None, reason);
                    }
                    _ => problems.lose_password(name, None, reason),
                }
                continue;
            };
            match setting {
                Some(setting) if value.is_empty() && !setting.empty_is_a_value => {}
                Some(setting) => layer.set(setting, name.to_owned(), value, problems),
                None => {
                    let (words, open_quote) = words::split(&value);
                    if open_quote {
                        problems.reject(None, name, None, "a quote in it is never closed");
                    }
                    extra = Self::of_flags(Source::ExtraArgs, &words, problems);
                }
            }
        }
        [layer, extra]
    }

    /// What flags say; words without a flag are peers.
    pub(super) fn of_flags(source: Source, words: &[String], problems: &mut Problems) -> Self {
        let mut layer = Self::empty(source);
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                layer.add_peers(word, problems);
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if flag.is_empty() {
                words
                    .by_ref()
                    .for_each(|word| layer.add_peers(word, problems));
                break;
            }
            let (flag, joined) = match flag.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (flag, None),
            };
            let Some(setting) = catalogue::by_flag(flag) else {
                let takes_value = reject_flag(flag, problems);
                if joined.is_none() {
                    words.next_if(|next| takes_value.unwrap_or(!next.starts_with('-')));
                }
                continue;
            };
            let name = catalogue::dashed(flag);
            let value = match setting.shape {
                Shape::Switch => Some(joined.unwrap_or_else(|| "true".to_owned())),
                _ => joined.or_else(|| words.next().cloned()),
            };
            match value {
                Some(value) => layer.set(setting, name, value, problems),
                None if protects(setting) => {
                    problems.lose_password(&name, None, "a value is missing after it");
                }
                None => {
                    let reason = "a value is missing after it";
                    problems.reject(Some(setting.key), &name, None, reason);
                }
            }
        }
        layer
    }

    /// The source of what this layer says.
    pub(super) const fn source(&self) -> Source {
        self.source
    }

    /// Which settings this layer makes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// Takes the value at this path (a key, and an index into a list) out and rejects it.
    /// Returns whether there was one.
    pub(super) fn reject(
        &mut self,
        path: &[String],
        reason: &str,
        problems: &mut Problems,
    ) -> bool {
        let Some(setting) = path.first().and_then(|key| catalogue::by_key(key)) else {
            return false;
        };
        let index = path.get(1).and_then(|index| index.parse::<usize>().ok());
        let Some(given) = self.values.get_mut(setting.key) else {
            return false;
        };
        match (&mut given.text, index) {
            (Text::List(list), Some(index)) if index < list.len() => {
                let value = list.remove(index);
                problems.reject(None, &given.name, Some(&value), reason);
            }
            (Text::One(value), _) => {
                problems.reject(Some(setting.key), &given.name, Some(value), reason);
                self.values.remove(setting.key);
            }
            (Text::List(_), _) => {
                problems.reject(Some(setting.key), &given.name, None, reason);
                self.values.remove(setting.key);
            }
        }
        true
    }

    fn empty(source: Source) -> Self {
        Self {
            source,
            values: BTreeMap::new(),
        }
    }

    fn set(&mut self, setting: &'static Setting, name: String, value: String, to: &mut Problems) {
        if setting.shape == Shape::List {
            self.extend(setting, name, &value, to);
            return;
        }
        if value.is_empty() && protects(setting) {
            to.lose_password(&name, None, "it is empty");
            return;
        }
        // Blanks around a value are never meant, except in a password.
        let text = match protects(setting) {
            true => value,
            false => value.trim().to_owned(),
        };
        let text = Text::One(text);
        self.values.insert(setting.key, Given { name, text });
    }

    fn add_peers(&mut self, word: &str, problems: &mut Problems) {
        if let Some(setting) = catalogue::by_key(catalogue::PEERS) {
            self.extend(setting, "peer".to_owned(), word, problems);
        }
    }

    fn extend(&mut self, setting: &'static Setting, name: String, text: &str, to: &mut Problems) {
        let given = self.values.entry(setting.key).or_insert_with(|| Given {
            name: name.clone(),
            text: Text::List(Vec::new()),
        });
        let Text::List(list) = &mut given.text else {
            return;
        };
        let mut entries = text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty());
        let room = MAX_LIST.saturating_sub(list.len());
        list.extend(entries.by_ref().take(room).map(str::to_owned));
        if let Some(more) = entries.next() {
            let reason = format!(
                "at most {MAX_LIST} entries are taken; this one and those after it are not"
            );
            to.reject(None, &name, Some(more), reason);
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = |given: &Given| match &given.text {
            Text::One(text) => Value::from(text.as_str()),
            Text::List(list) => Value::from(list.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        let values: Dict = self
            .values
            .iter()
            .map(|(key, given)| ((*key).to_owned(), value(given)))
            .collect();
        Ok(Profile::Default.collect(values))
    }
}

fn protects(setting: &Setting) -> bool {
    [catalogue::PASSWORD, catalogue::PASSWORD_FILE].contains(&setting.key)
}

/// Rejects a variable that is ours by its name and means nothing.
fn reject_variable(name: &str, problems: &mut Problems) {
    if catalogue::NOT_SETTINGS.contains(&name) {
        return;
    }
    if let Some(retired) = catalogue::RETIRED_VARIABLES.iter().find(|r| r.name == name) {
        problems.reject(
            None,
            name,
            None,
            format!("it has no meaning here: {}", retired.instead),
        );
    } else if name.starts_with("WEAVE_") || name.starts_with("IPALLOC_") {
        reject_unknown(name, catalogue::near_variable(name), |s| s.name(), problems);
    }
}

/// Rejects a flag that is not a setting's; returns whether it takes a value, if that is known.
fn reject_flag(flag: &str, problems: &mut Problems) -> Option<bool> {
    // What does not belong to a name may belong to a password.
    let name: String = flag
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    let written = format!("--{name}");
    if let Some(retired) = catalogue::RETIRED_FLAGS.iter().find(|r| r.name == flag) {
        let reason = format!("it has no meaning here: {}", retired.instead);
        problems.reject(None, &written, None, reason);
        return Some(retired.takes_value);
    }
    let spelling = |s: &Setting| {
        s.flags
            .first()
            .map_or_else(String::new, |f| catalogue::dashed(f))
    };
    reject_unknown(&written, catalogue::near_flag(&name), spelling, problems);
    None
}

fn reject_unknown(
    name: &str,
    near: Option<&'static Setting>,
    spelling: impl Fn(&Setting) -> String,
    problems: &mut Problems,
) {
    let reason = match near {
        Some(setting) => format!(
            "there is no such setting; did you mean {}?",
            spelling(setting)
        ),
        None => "there is no such setting; `weave daemon --help` lists all".to_owned(),
    };
    match near.is_some_and(protects) {
        true => problems.lose_password(name, None, &reason),
        false => problems.reject(None, name, None, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_password_is_not_shown() {
        let mut problems = Problems::default();
        problems.reject(
            Some(catalogue::PASSWORD),
            "--password",
            Some("hunter2"),
            "expected more",
        );
        let rejected = problems.finish(|_| None);
        assert_eq!(
            rejected[0].to_string(),
            "--password is not obeyed: expected more"
        );
    }

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        let mut problems = Problems::default();
        let value = "\u{1b}[2J".repeat(100);
        problems.reject(None, "--mtu", Some(&value), "expected less");
        let shown = problems.finish(|_| None)[0].value.clone().unwrap();
        assert_eq!(shown.chars().count(), MAX_SHOWN);
        assert!(!shown.contains('\u{1b}'));
    }
}
