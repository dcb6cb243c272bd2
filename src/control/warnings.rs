//! What an operator should know, kept for as long as it is true.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Warning {
    /// A warning with its remedy.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.remedy.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}; {}", self.what, self.remedy),
        }
    }
}

/// The warnings that hold now, by topic; cloning gives another handle to the same ones.
#[derive(Debug, Clone, Default)]
pub struct Warnings {
    by_topic: Arc<Mutex<BTreeMap<&'static str, Warning>>>,
}

impl Warnings {
    /// Warns of something until it is cleared; logs it when it is news.
    pub fn set(&self, topic: &'static str, warning: Warning) {
        let mut by_topic = self.lock();
        if by_topic.get(topic) != Some(&warning) {
            tracing::warn!("{warning}");
            by_topic.insert(topic, warning);
        }
    }

    /// What was warned of under this topic is over.
    pub fn clear(&self, topic: &'static str) {
        if let Some(warning) = self.lock().remove(topic) {
            tracing::info!("over: {}", warning.what);
        }
    }

    /// All that hold now.
    pub fn all(&self) -> Vec<Warning> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Warning>> {
        // Each change is one insertion or removal: whole also after a panic elsewhere.
        self.by_topic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_holds_until_it_is_cleared() {
        let warnings = Warnings::default();
        warnings.set("port", Warning::new("port 1 is in use", "free it"));
        warnings.set("port", Warning::new("port 2 is in use", "free it"));
        assert_eq!(
            warnings.clone().all(),
            [Warning::new("port 2 is in use", "free it")]
        );
        warnings.clear("port");
        warnings.clear("port");
        assert_eq!(warnings.all(), []);
    }
}
