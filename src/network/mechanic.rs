//! Works on the devices beside Docker's calls, so that none of them waits for it, and tries again
//! what failed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify};
use tracing::{debug, warn};

use crate::datapath::{Datapath, DatapathError, Forwarding};
use crate::types::{Mac, SegmentId};

/// How long work that failed waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// The way to the task that works.
#[derive(Debug)]
pub(super) struct Mechanic {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    wake: Notify,
    /// Held while a port is being removed.
    removing: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Work {
    /// The latest wish for each segment.
    forward: BTreeMap<SegmentId, Forwarding>,
    unplug: BTreeSet<String>,
    announce: Vec<(SegmentId, Mac, Vec<IpAddr>)>,
    /// What failed the last time, by what was done.
    problems: BTreeMap<String, String>,
    /// Whether the way to the task is gone: then the task ends too.
    closed: bool,
}

enum Step {
    Forward(SegmentId, Forwarding),
    Unplug(String),
    Announce(SegmentId, Mac, Vec<IpAddr>),
}

impl Mechanic {
    pub(super) fn start<D: Datapath>(datapath: Arc<D>) -> Self {
        let shared = Arc::new(Shared::default());
        tokio::spawn(run(Arc::clone(&shared), datapath));
        Self { shared }
    }

    /// Makes a segment's forwarding as given; an earlier wish that was not met yet is void.
    pub(super) fn forward(&self, segment: SegmentId, forwarding: Forwarding) {
        self.shared.lock().forward.insert(segment, forwarding);
        self.shared.wake.notify_one();
    }

    /// Removes a bridge port.
    pub(super) fn unplug(&self, port: String) {
        self.shared.lock().unplug.insert(port);
        self.shared.wake.notify_one();
    }

    /// Tells a segment to whom addresses belong.
    pub(super) fn announce(&self, segment: SegmentId, mac: Mac, addresses: Vec<IpAddr>) {
        self.shared.lock().announce.push((segment, mac, addresses));
        self.shared.wake.notify_one();
    }

    /// The port is wanted again: returns when its removal is either over or called off.
    pub(super) async fn spare(&self, port: &str) {
        self.shared.lock().unplug.remove(port);
        drop(self.shared.removing.lock().await);
    }

    /// What failed and is being tried again.
    pub(super) fn problems(&self) -> Vec<String> {
        let work = self.shared.lock();
        let problems = work.problems.iter();
        problems
            .map(|(step, error)| format!("{step}: {error}"))
            .collect()
    }
}

impl Drop for Mechanic {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing panics while it holds the lock; and if it did, the lists would still be lists.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run<D: Datapath>(shared: Arc<Shared>, datapath: Arc<D>) {
    loop {
        let step = {
            let mut work = shared.lock();
            if work.closed {
                return;
            }
            work.next()
        };
        match step {
            Some(Step::Unplug(port)) => {
                let removing = shared.removing.lock().await;
                let result = datapath.unplug(&port).await;
                drop(removing);
                let failed = shared.note(format!("the removal of port {port}"), result);
                if failed {
                    later(&shared, move |work| {
                        work.unplug.insert(port);
                    });
                }
            }
            Some(Step::Forward(segment, forwarding)) => {
                let result = match datapath.set_forwarding(&segment, &forwarding).await {
                    // The segment was removed meanwhile, or is told again when it is made.
                    Err(DatapathError::UnknownSegment(_)) => Ok(()),
                    result => result,
                };
                let failed = shared.note(format!("the forwarding of segment {segment}"), result);
                if failed {
                    later(&shared, move |work| {
                        work.forward.entry(segment).or_insert(forwarding);
                    });
                }
            }
            Some(Step::Announce(segment, mac, addresses)) => {
                // Neighbours that miss it find out by themselves, only later.
                if let Err(error) = datapath.announce(&segment, mac, &addresses).await {
                    debug!(%error, "an address was not announced");
                }
            }
            None => shared.wake.notified().await,
        }
    }
}

/// Puts work back after a while.
fn later(shared: &Arc<Shared>, put_back: impl FnOnce(&mut Work) + Send + 'static) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        tokio::time::sleep(RETRY).await;
        put_back(&mut shared.lock());
        shared.wake.notify_one();
    });
}

impl Shared {
    /// Keeps what became of a step; returns whether it failed.
    fn note(&self, step: String, result: Result<(), DatapathError>) -> bool {
        let mut work = self.lock();
        match result {
            Ok(()) => {
                work.problems.remove(&step);
                false
            }
            Err(error) => {
                let error = error.to_string();
                if work.problems.get(&step) != Some(&error) {
                    warn!(error, "{step} failed and will be tried again");
                }
                work.problems.insert(step, error);
                true
            }
        }
    }
}

impl Work {
    /// Forwarding first: running containers wait for it.
    fn next(&mut self) -> Option<Step> {
        if let Some((segment, forwarding)) = self.forward.pop_first() {
            return Some(Step::Forward(segment, forwarding));
        }
        if let Some((segment, mac, addresses)) = self.announce.pop() {
            return Some(Step::Announce(segment, mac, addresses));
        }
        self.unplug.pop_first().map(Step::Unplug)
    }
}
