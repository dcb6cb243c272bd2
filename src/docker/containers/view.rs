//! What runs, put together from the Engine's lists and from its events.
//!
//! Pure. A list has everything, but the Engine takes its time for it, and what it says may be older
//! than events that were heard meanwhile. So who was told to stop, and who has ended, is known from
//! the events at once; for all else they only tell when to ask for the next list, and of whom: a
//! change costs what has changed, however many containers run. Now and then the list is of all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::{ContainerChanges, Running};
use crate::docker::engine::{Container, Event};

/// How long news is collected before the Engine is asked what it amounts to.
const SETTLE: Duration = Duration::from_millis(5);

/// How often the Engine is asked for all containers though it told of nothing.
const RESYNC: Duration = Duration::from_secs(30);

/// When it is asked again, and how often, after it told that a container was connected to a network
/// or disconnected: it tells before its own list says so.
const AGAIN: Duration = Duration::from_millis(300);
const TIMES_AGAIN: u8 = 2;

/// The most containers that the Engine is asked for by their identifiers, which are part of the call:
/// it is asked for all of them instead.
const MAX_NAMED: usize = 100;

/// A container got a signal. Whether it stops by that is for the Engine to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signalled {
    /// The container's identifier.
    pub(super) container: String,
    /// The signal's number.
    pub(super) signal: i32,
}

/// Which of the containers that run the Engine is to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Named(BTreeSet<String>),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct View {
    containers: BTreeMap<String, Arc<Container>>,
    stopping: BTreeSet<String>,
    /// Those that have ended and may be listed all the same: the Engine tells before its own list
    /// says so.
    ended: BTreeSet<String>,
    /// The signals that may stop containers, as far as that is not known yet.
    signalled: BTreeMap<String, i32>,
    /// Whether a list has come since the events began.
    listed: bool,
    /// Whether something has to be told.
    changed: bool,
    /// What has become of which containers since that was told last.
    changes: ContainerChanges,
    /// When the list was asked for that has not come yet.
    asked: Option<(Instant, Wanted)>,
    /// The first news that the last list asked for may not have.
    news: Option<Instant>,
    /// The containers that there is news of.
    named: BTreeSet<String>,
    /// Until when the Engine is left in peace, so that it is busy with lists half of the time at
    /// most.
    rests: Instant,
    /// When all containers are asked for though there is no news.
    resync: Instant,
    /// Those that are asked for again, when and how often.
    again: BTreeSet<String>,
    again_at: Option<Instant>,
    times_again: u8,
}

impl View {
    /// Knows nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            containers: BTreeMap::new(),
            stopping: BTreeSet::new(),
            ended: BTreeSet::new(),
            signalled: BTreeMap::new(),
            listed: false,
            changed: false,
            changes: ContainerChanges::new(),
            asked: None,
            news: None,
            named: BTreeSet::new(),
            rests: now,
            resync: now,
            again: BTreeSet::new(),
            again_at: None,
            times_again: 0,
        }
    }

    /// Events are heard from now on, and none that came before. Nothing is told until the next
    /// list: what was said last may still be so.
    pub(super) fn handle_begin(&mut self, now: Instant) {
        *self = Self {
            containers: std::mem::take(&mut self.containers),
            stopping: std::mem::take(&mut self.stopping),
            changes: std::mem::take(&mut self.changes),
            ..Self::new(now)
        };
    }

    /// An event. Returns what the Engine has to be asked, see [`View::handle_stops`].
    pub(super) fn handle_event(&mut self, event: &Event, now: Instant) -> Option<Signalled> {
        let news = is_news(event);
        if event.kind == "network" {
            if news {
                match event.actor.attributes.get("container") {
                    Some(container) => {
                        self.note_news(container, now);
                        self.again.insert(container.clone());
                        self.times_again = TIMES_AGAIN;
                    }
                    None => self.resync = now,
                }
            }
            return None;
        }
        let id = &event.actor.id;
        if news {
            self.note_news(id, now);
        }
        match event.action.as_str() {
            "start" => {
                self.ended.remove(id);
                self.signalled.remove(id);
                self.changed |= self.stopping.remove(id);
            }
            "die" => {
                self.ended.insert(id.clone());
                self.signalled.remove(id);
                self.set(id, None);
            }
            "kill" => return self.handle_signal(event),
            _ => {}
        }
        None
    }

    /// Whether the signal stops the container.
    pub(super) fn handle_stops(&mut self, signalled: &Signalled, stops: bool) {
        let Signalled { container, signal } = signalled;
        // It may have ended, and started again, while that was asked.
        if self.signalled.get(container) == Some(signal) {
            self.signalled.remove(container);
            self.changed |= stops && self.stopping.insert(container.clone());
        }
    }

    /// The list is asked for: of these.
    pub(super) fn handle_asked(&mut self, now: Instant) -> Wanted {
        let mut named = std::mem::take(&mut self.named);
        self.news = None;
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            named.extend(self.again.iter().cloned());
        }
        let wanted = match self.resync > now && (1..=MAX_NAMED).contains(&named.len()) {
            true => Wanted::Named(named),
            false => Wanted::All,
        };
        self.asked = Some((now, wanted.clone()));
        wanted
    }

    /// The containers that run, as the list that was asked for has them.
    pub(super) fn handle_list(&mut self, containers: Vec<Container>, now: Instant) {
        let mut listed: BTreeMap<_, _> = containers
            .into_iter()
            .map(|container| (container.id.clone(), container))
            .collect();
        let (asked, wanted) = self.asked.take().unwrap_or((now, Wanted::All));
        let of = match wanted {
            Wanted::Named(named) => named,
            Wanted::All => {
                self.resync = now + RESYNC;
                let known = self.containers.keys().chain(&self.ended);
                let known = known.chain(&self.stopping).chain(listed.keys());
                known.cloned().collect()
            }
        };
        for id in of {
            let container = listed.remove(&id);
            if container.is_none() {
                self.ended.remove(&id);
            }
            let container = container.filter(|_| !self.ended.contains(&id));
            if container.is_none() {
                self.stopping.remove(&id);
            }
            self.set(&id, container);
        }
        self.listed = true;
        self.changed = true;
        self.rests = now + (now - asked);
        if self.again_at.is_some() {
            return;
        }
        match self.times_again.checked_sub(1) {
            Some(left) => {
                self.times_again = left;
                self.again_at = Some(now + AGAIN);
            }
            None => self.again.clear(),
        }
    }

    /// When to ask for the next list; `None` while one is waited for.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.asked.is_some() {
            return None;
        }
        let after_news = self.news.map(|news| (news + SETTLE).max(self.rests));
        let due = [after_news, self.again_at, Some(self.resync)];
        due.into_iter().flatten().min()
    }

    /// What has changed, when there is news; at first all that runs.
    pub(super) fn poll_changes(&mut self) -> Option<ContainerChanges> {
        let told = self.listed && std::mem::take(&mut self.changed);
        told.then(|| std::mem::take(&mut self.changes))
    }

    /// What runs.
    pub(super) fn running(&self) -> Running {
        Running {
            containers: self.containers.values().cloned().collect(),
            stopping: self.stopping.clone(),
        }
    }

    fn note_news(&mut self, id: &str, now: Instant) {
        self.news.get_or_insert(now);
        self.named.insert(id.to_owned());
    }

    fn set(&mut self, id: &str, container: Option<Container>) {
        let container = container.map(Arc::new);
        let old = match container.clone() {
            Some(container) => self.containers.insert(id.to_owned(), container),
            None => self.containers.remove(id),
        };
        if old != container {
            self.changes.insert(id.to_owned(), container);
            self.changed = true;
        }
    }

    fn handle_signal(&mut self, event: &Event) -> Option<Signalled> {
        let signal = event.actor.attributes.get("signal")?.parse().ok()?;
        let container = event.actor.id.clone();
        if [Signal::SIGTERM as i32, Signal::SIGKILL as i32].contains(&signal) {
            self.changed |= self.stopping.insert(container);
            return None;
        }
        self.signalled.insert(container.clone(), signal);
        Some(Signalled { container, signal })
    }
}

/// Whether the list of containers may be another after this event. Health checks make many that
/// change nothing.
fn is_news(event: &Event) -> bool {
    let action = event.action.as_str();
    match event.kind.as_str() {
        "network" => matches!(action, "connect" | "disconnect"),
        _ => {
            action.starts_with("health_status")
                || matches!(
                    action,
                    "start" | "die" | "destroy" | "rename" | "pause" | "unpause"
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_and_who_has_ended_is_told_while_a_list_is_waited_for() {
        let (mut view, now) = started(&["a", "b"]);
        view.handle_asked(now);
        assert_eq!(view.handle_event(&kill("a", 15), now), None);
        assert_eq!(told(&mut view), (ids(&["a", "b"]), ids(&["a"])));
        view.handle_event(&event("die", "b"), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&["a"])));
        // What was asked before says what was so before.
        view.handle_list(list(&["a", "b"]), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&["a"])));
        // The Engine may go on to list one that has ended, until it is not there, or starts again.
        view.handle_asked(now);
        view.handle_list(list(&["a", "b"]), now);
        assert_eq!(told(&mut view).0, ids(&["a"]));
        view.handle_event(&event("start", "b"), now);
        view.handle_list(list(&["a", "b"]), now);
        assert_eq!(told(&mut view).0, ids(&["a", "b"]));
    }

    #[test]
    fn one_that_starts_again_was_not_told_to_stop() {
        let (mut view, now) = started(&["a"]);
        for action in ["die", "start"] {
            view.handle_event(&kill("a", 15), now);
            view.handle_event(&event(action, "a"), now);
        }
        view.handle_list(list(&["a"]), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&[])));
    }

    #[test]
    fn of_other_signals_the_engine_says_whether_they_stop() {
        let (mut view, now) = started(&["a", "b", "c"]);
        let mut signalled = |id| view.handle_event(&kill(id, 3), now).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(&mut signalled);
        assert_eq!(view.poll_changes(), None);
        view.handle_stops(&a, true);
        view.handle_stops(&b, false);
        assert_eq!(told(&mut view).1, ids(&["a"]));
        view.handle_event(&event("die", "c"), now);
        view.handle_event(&event("start", "c"), now);
        view.handle_stops(&c, true);
        view.handle_list(list(&["a", "b", "c"]), now);
        assert_eq!(told(&mut view).1, ids(&["a"]));
        assert_eq!(view.handle_event(&kill("a", 0), now).unwrap().signal, 0);
        let without = event("kill", "a");
        assert_eq!(view.handle_event(&without, now), None);
    }

    #[test]
    fn nothing_is_told_before_the_first_list() {
        let now = Instant::now();
        let mut view = View::new(now);
        view.handle_begin(now);
        view.handle_event(&kill("a", 15), now);
        assert_eq!(view.poll_changes(), None);
        view.handle_list(list(&["a"]), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&["a"])));
        // When the events begin anew, who was told to stop is remembered.
        view.handle_begin(now);
        assert_eq!(view.poll_changes(), None);
        view.handle_list(list(&["a"]), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&["a"])));
    }

    #[test]
    fn the_engine_is_asked_soon_after_news_and_rests_as_long_as_it_worked() {
        let (mut view, now) = started(&[]);
        let ms = Duration::from_millis;
        assert_eq!(view.poll_timeout(), Some(now + RESYNC));
        view.handle_event(&event("start", "a"), now + ms(1));
        view.handle_event(&event("start", "b"), now + ms(2));
        assert_eq!(view.poll_timeout(), Some(now + ms(1) + SETTLE));
        let wanted = view.handle_asked(now + ms(10));
        assert_eq!(wanted, Wanted::Named(ids(&["a", "b"])));
        assert_eq!(view.poll_timeout(), None);
        view.handle_event(&event("start", "c"), now + ms(20));
        view.handle_list(list(&["a"]), now + ms(110));
        assert_eq!(view.poll_timeout(), Some(now + ms(210)));
        let wanted = view.handle_asked(now + ms(210));
        assert_eq!(wanted, Wanted::Named(ids(&["c"])));
        view.handle_list(list(&["c"]), now + ms(211));
        assert_eq!(view.poll_timeout(), Some(now + RESYNC));
        for unimportant in ["exec_start: x", "top", "kill"] {
            view.handle_event(&event(unimportant, "a"), now + ms(220));
        }
        assert_eq!(view.poll_timeout(), Some(now + RESYNC));
    }

    #[test]
    fn a_list_of_some_says_nothing_of_the_others() {
        let (mut view, now) = started(&["a", "b", "c"]);
        view.handle_event(&event("rename", "a"), now);
        view.handle_event(&event("die", "b"), now);
        let mut renamed = list(&["a"]);
        renamed[0].names = vec!["/new".to_owned()];
        view.handle_asked(now);
        view.handle_list(renamed.clone(), now);
        let a = Arc::new(renamed.remove(0));
        let changes = [("a".to_owned(), Some(a)), ("b".to_owned(), None)];
        assert_eq!(view.poll_changes(), Some(changes.into()));
        assert_eq!(view.running().containers.len(), 2);
        // What was never told of is made good by the list of all.
        assert_eq!(view.handle_asked(now + RESYNC), Wanted::All);
        view.handle_list(list(&["a", "d"]), now + RESYNC);
        let changes = view.poll_changes().unwrap();
        assert_eq!(
            changes.into_keys().collect::<BTreeSet<_>>(),
            ids(&["a", "c", "d"])
        );
    }

    #[test]
    fn news_of_too_many_is_asked_for_as_a_whole() {
        let (mut view, now) = started(&[]);
        for number in 0..=MAX_NAMED {
            view.handle_event(&event("start", &number.to_string()), now);
        }
        assert_eq!(view.handle_asked(now), Wanted::All);
    }

    #[test]
    fn after_news_of_networks_the_engine_is_asked_again() {
        let (mut view, now) = started(&["a"]);
        let mut connect = event("connect", "n");
        connect.kind = "network".to_owned();
        let attributes = &mut connect.actor.attributes;
        attributes.insert("container".to_owned(), "a".to_owned());
        view.handle_event(&connect, now);
        let mut asked = Vec::new();
        for _ in 0..4 {
            let next = view.poll_timeout().unwrap();
            asked.push((next - now, view.handle_asked(next)));
            view.handle_list(list(&["a"]), next);
        }
        let a = || Wanted::Named(ids(&["a"]));
        let expected = [
            (SETTLE, a()),
            (SETTLE + AGAIN, a()),
            (SETTLE + 2 * AGAIN, a()),
            (RESYNC, Wanted::All),
        ];
        assert_eq!(asked, expected);
    }

    /// A view that has the first list.
    fn started(of: &[&str]) -> (View, Instant) {
        let now = Instant::now();
        let mut view = View::new(now);
        assert_eq!(view.poll_timeout(), Some(now));
        view.handle_asked(now);
        view.handle_list(list(of), now);
        assert_eq!(told(&mut view), (ids(of), ids(&[])));
        (view, now)
    }

    /// Who runs, and who was told to stop.
    fn told(view: &mut View) -> (BTreeSet<String>, BTreeSet<String>) {
        assert!(view.poll_changes().is_some());
        let running = view.running();
        let containers = running.containers.iter().map(|c| c.id.clone());
        (containers.collect(), running.stopping)
    }

    fn ids(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|id| (*id).to_owned()).collect()
    }

    fn list(of: &[&str]) -> Vec<Container> {
        let container = |id: &&str| Container {
            id: (*id).to_owned(),
            ..Container::default()
        };
        of.iter().map(container).collect()
    }

    fn event(action: &str, id: &str) -> Event {
        let mut event = Event {
            kind: "container".to_owned(),
            action: action.to_owned(),
            ..Event::default()
        };
        event.actor.id = id.to_owned();
        event
    }

    fn kill(id: &str, signal: i32) -> Event {
        let mut event = event("kill", id);
        let attributes = &mut event.actor.attributes;
        attributes.insert("signal".to_owned(), signal.to_string());
        event
    }
}
