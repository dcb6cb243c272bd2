//! How many queries came to what, and how long that took.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::{Asked, Outcome};
use super::status::{AnswerTimes, DnsCounters, DnsOutcomes};

const ASKED: [(Asked, &str); 4] = [
    (Asked::A, "A"),
    (Asked::Aaaa, "AAAA"),
    (Asked::Ptr, "PTR"),
    (Asked::Other, "other"),
];
const OUTCOMES: usize = Outcome::Failed as usize + 1;

/// The bounds between which answers are counted by what they took: from those of names that are
/// known to those that had to wait for the asker to be known.
const BOUNDS: [Duration; 9] = [
    Duration::from_micros(1),
    Duration::from_micros(2),
    Duration::from_micros(5),
    Duration::from_micros(10),
    Duration::from_micros(20),
    Duration::from_micros(50),
    Duration::from_micros(200),
    Duration::from_millis(5),
    Duration::from_millis(100),
];

/// Counts from the start of the daemon.
#[derive(Debug, Default)]
pub(super) struct Counters {
    queries: [[AtomicU64; OUTCOMES]; ASKED.len()],
    /// The last is of those that took longer than all bounds.
    times: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// What one server has counted and not told yet, so that servers do not wait for each other.
#[derive(Debug, Default)]
pub(super) struct Tally {
    queries: [[u64; OUTCOMES]; ASKED.len()],
    times: [u64; BOUNDS.len() + 1],
    nanoseconds: u64,
}

impl Tally {
    /// Something came of a query.
    pub(super) const fn count(&mut self, asked: Asked, outcome: Outcome) {
        self.queries[asked as usize][outcome as usize] += 1;
    }

    /// This server has answered, after so long.
    pub(super) fn answered(&mut self, asked: Asked, outcome: Outcome, took: Duration) {
        self.count(asked, outcome);
        let slower = BOUNDS.iter().filter(|bound| took > **bound).count();
        self.times[slower] += 1;
        self.nanoseconds += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    }
}

impl Counters {
    /// Adds what was counted elsewhere.
    pub(super) fn add(&self, tally: &Tally) {
        let add = |counter: &AtomicU64, count: u64| {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        };
        let counters = self.queries.iter().flatten();
        for (counter, count) in counters.zip(tally.queries.iter().flatten()) {
            add(counter, *count);
        }
        for (counter, count) in self.times.iter().zip(tally.times) {
            add(counter, count);
        }
        add(&self.nanoseconds, tally.nanoseconds);
    }

    /// Something came of one query.
    pub(super) fn count(&self, asked: Asked, outcome: Outcome) {
        self.queries[asked as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// None of the host's servers has answered, for this reason.
    pub(super) fn failed(&self, asked: Asked, reason: String) {
        self.count(asked, Outcome::Failed);
        let last = self.last_failure.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// All counts at this moment.
    pub(super) fn read(&self) -> DnsCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_type = ASKED.map(|(asked, name)| {
            let counts = &self.queries[asked as usize];
            let of = |outcome: Outcome| get(&counts[outcome as usize]);
            let outcomes = DnsOutcomes {
                found: of(Outcome::Found),
                empty: of(Outcome::Empty),
                unknown: of(Outcome::Unknown),
                refused: of(Outcome::Refused),
                ignored: of(Outcome::Ignored),
                forwarded: of(Outcome::Forwarded),
                failed: of(Outcome::Failed),
            };
            (name.to_owned(), outcomes)
        });
        let times: [u64; BOUNDS.len() + 1] = array::from_fn(|at| get(&self.times[at]));
        let mut within = 0;
        let buckets = BOUNDS.iter().zip(times).map(|(bound, count)| {
            within += count;
            (*bound, within)
        });
        let last = self.last_failure.lock();
        DnsCounters {
            by_type: by_type.into(),
            answer_times: AnswerTimes {
                within: buckets.collect(),
                count: times.iter().sum(),
                sum: Duration::from_nanos(get(&self.nanoseconds)),
            },
            upstream_failures: Default::default(),
            last_failure: last.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_counted_by_type_outcome_and_time() {
        let counters = Counters::default();
        let mut tally = Tally::default();
        tally.answered(Asked::A, Outcome::Found, Duration::from_micros(3));
        tally.answered(Asked::A, Outcome::Found, Duration::from_secs(1));
        tally.answered(Asked::Ptr, Outcome::Unknown, Duration::from_micros(5));
        counters.add(&tally);
        counters.count(Asked::Other, Outcome::Forwarded);
        counters.failed(Asked::Aaaa, "why".to_owned());
        let read = counters.read();
        assert_eq!(read.by_type["A"].found, 2);
        assert_eq!(read.by_type["PTR"].unknown, 1);
        assert_eq!(read.by_type["AAAA"].failed, 1);
        assert_eq!(read.total().forwarded, 1);
        let times = read.answer_times;
        assert_eq!(times.count, 3);
        assert_eq!(times.sum, Duration::from_micros(1_000_008));
        let within = |micros| {
            let bound = Duration::from_micros(micros);
            times.within.iter().find(|(b, _)| *b == bound).unwrap().1
        };
        assert_eq!((within(2), within(5), within(100_000)), (0, 2, 2));
        assert_eq!(read.last_failure.as_deref(), Some("why"));
    }
}
