//! What a part of the daemon said of itself last, for when it is too busy to say it again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::control::{Warning, render};

/// How long a part may take: well below what whoever asks for the report waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last answer of one part.
#[derive(Debug)]
pub(super) struct Last<T> {
    part: &'static str,
    said: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Last<T> {
    /// Of a part with this name, which has said nothing so far.
    pub(super) const fn of(part: &'static str) -> Self {
        let said = Mutex::new(None);
        Self { part, said }
    }

    /// The answer, if it comes in time; else the last one that did, and a warning that says so.
    pub(super) async fn or(&self, answer: impl Future<Output = T>) -> (Option<T>, Option<Warning>) {
        let answer = timeout(PATIENCE, answer).await;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(answer) = answer {
            *said = Some((Instant::now(), answer.clone()));
            return (Some(answer), None);
        }
        let (part, seconds) = (self.part, PATIENCE.as_secs());
        let shown = match &*said {
            Some((at, _)) => format!("shown as it was {} ago", render::duration(at.elapsed())),
            None => "it is not shown".to_owned(),
        };
        let warning = Warning::new(
            format!("{part} did not answer within {seconds} s: {shown}"),
            "see what keeps this host busy; if nothing does, the daemon's log may tell why",
        );
        (said.clone().map(|(_, answer)| answer), Some(warning))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_is_busy_is_shown_as_it_was_and_since_when() {
        let last = Last::of("the mesh");
        let (answer, warning) = last.or(pending::<u32>()).await;
        assert_eq!(answer, None);
        assert!(warning.unwrap().what.ends_with("it is not shown"));
        assert_eq!(last.or(ready(7)).await, (Some(7), None));
        tokio::time::advance(Duration::from_secs(70)).await;
        let (answer, warning) = last.or(pending()).await;
        assert_eq!(answer, Some(7));
        assert_eq!(
            warning.unwrap().what,
            "the mesh did not answer within 2 s: shown as it was 1m 12s ago"
        );
    }
}
