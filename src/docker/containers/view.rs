//! What runs, put together from the Engine's lists and from its events.
//!
//! Pure. A list has everything, but the Engine takes its time for it, and what it says may be older
//! than events that were heard meanwhile. So who was told to stop, and who has ended, is known from
//! the events at once; for all else they only tell when to ask for the next list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::Running;
use crate::docker::engine::{Container, Event};

/// How long news is collected before the Engine is asked what it amounts to.
const SETTLE: Duration = Duration::from_millis(5);

/// How often the Engine is asked though it told of nothing.
const RESYNC: Duration = Duration::from_secs(30);

/// When it is asked again, and how often, after it told that a container was connected to a network
/// or disconnected: it tells before its own list says so.
const AGAIN: Duration = Duration::from_millis(300);
const TIMES_AGAIN: u8 = 2;

/// A container got a signal. Whether it stops by that is for the Engine to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signalled {
    /// The container's identifier.
    pub(super) container: String,
    /// The signal's number.
    pub(super) signal: i32,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct View {
    running: Running,
    /// Those that have ended and may be listed all the same: the Engine tells before its own list
    /// says so.
    ended: BTreeSet<String>,
    /// The signals that may stop containers, as far as that is not known yet.
    signalled: BTreeMap<String, i32>,
    /// Whether a list has come since the events began.
    listed: bool,
    /// Whether something has to be told.
    changed: bool,
    /// When the list was asked for that has not come yet.
    asked: Option<Instant>,
    /// The first news that the last list asked for may not have.
    news: Option<Instant>,
    /// Until when the Engine is left in peace, so that it is busy with lists half of the time at
    /// most.
    rests: Instant,
    /// When the next list is asked for though there is no news.
    resync: Instant,
    again: u8,
}

impl View {
    /// Knows nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            running: Running::default(),
            ended: BTreeSet::new(),
            signalled: BTreeMap::new(),
            listed: false,
            changed: false,
            asked: None,
            news: None,
            rests: now,
            resync: now,
            again: 0,
        }
    }

    /// Events are heard from now on, and none that came before. Nothing is told until the next
    /// list: what was said last may still be so.
    pub(super) fn handle_begin(&mut self, now: Instant) {
        let running = std::mem::take(&mut self.running);
        *self = Self {
            running,
            ..Self::new(now)
        };
    }

    /// An event. Returns what the Engine has to be asked, see [`View::handle_stops`].
    pub(super) fn handle_event(&mut self, event: &Event, now: Instant) -> Option<Signalled> {
        if is_news(event) {
            self.news.get_or_insert(now);
        }
        if event.kind == "network" {
            if is_news(event) {
                self.again = TIMES_AGAIN;
            }
            return None;
        }
        let id = &event.actor.id;
        match event.action.as_str() {
            "start" => {
                self.ended.remove(id);
                self.signalled.remove(id);
                self.changed |= self.running.stopping.remove(id);
            }
            "die" => {
                self.ended.insert(id.clone());
                self.signalled.remove(id);
                let before = self.running.containers.len();
                self.running.containers.retain(|c| c.id != *id);
                self.changed |= self.running.containers.len() < before;
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
            self.changed |= stops && self.running.stopping.insert(container.clone());
        }
    }

    /// The list was asked for.
    pub(super) fn handle_asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.news = None;
    }

    /// All containers that run, as the list that was asked for has them.
    pub(super) fn handle_list(&mut self, mut containers: Vec<Container>, now: Instant) {
        let is_listed = |id: &String| containers.iter().any(|c| c.id == *id);
        self.ended.retain(is_listed);
        containers.retain(|c| !self.ended.contains(&c.id));
        let lives = |id: &String| containers.iter().any(|c| c.id == *id);
        self.running.stopping.retain(lives);
        self.running.containers = containers;
        self.listed = true;
        self.changed = true;
        let took = self.asked.take().map(|asked| now - asked);
        self.rests = now + took.unwrap_or_default();
        self.resync = now + if self.again > 0 { AGAIN } else { RESYNC };
        self.again = self.again.saturating_sub(1);
    }

    /// When to ask for the next list; `None` while one is waited for.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.asked.is_some() {
            return None;
        }
        let after_news = self.news.map(|news| (news + SETTLE).max(self.rests));
        Some(after_news.map_or(self.resync, |at| at.min(self.resync)))
    }

    /// What runs, when that is news.
    pub(super) fn poll_running(&mut self) -> Option<Running> {
        let told = self.listed && std::mem::take(&mut self.changed);
        told.then(|| self.running.clone())
    }

    fn handle_signal(&mut self, event: &Event) -> Option<Signalled> {
        let signal = event.actor.attributes.get("signal")?.parse().ok()?;
        let container = event.actor.id.clone();
        if [Signal::SIGTERM as i32, Signal::SIGKILL as i32].contains(&signal) {
            self.changed |= self.running.stopping.insert(container);
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
        assert_eq!(view.poll_running(), None);
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
        assert_eq!(view.poll_running(), None);
        view.handle_list(list(&["a"]), now);
        assert_eq!(told(&mut view), (ids(&["a"]), ids(&["a"])));
        // When the events begin anew, who was told to stop is remembered.
        view.handle_begin(now);
        assert_eq!(view.poll_running(), None);
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
        view.handle_asked(now + ms(10));
        assert_eq!(view.poll_timeout(), None);
        view.handle_event(&event("start", "c"), now + ms(20));
        view.handle_list(list(&["a"]), now + ms(110));
        assert_eq!(view.poll_timeout(), Some(now + ms(210)));
        view.handle_asked(now + ms(210));
        view.handle_list(list(&["a"]), now + ms(211));
        assert_eq!(view.poll_timeout(), Some(now + ms(211) + RESYNC));
        for unimportant in ["exec_start: x", "top", "kill"] {
            view.handle_event(&event(unimportant, "a"), now + ms(220));
        }
        assert_eq!(view.poll_timeout(), Some(now + ms(211) + RESYNC));
    }

    #[test]
    fn after_news_of_networks_the_engine_is_asked_again() {
        let (mut view, now) = started(&["a"]);
        let mut connect = event("connect", "n");
        connect.kind = "network".to_owned();
        view.handle_event(&connect, now);
        let mut pauses = Vec::new();
        let mut then = now;
        for _ in 0..4 {
            let next = view.poll_timeout().unwrap();
            pauses.push(next - then);
            then = next;
            view.handle_asked(then);
            view.handle_list(list(&["a"]), then);
        }
        assert_eq!(pauses, [SETTLE, AGAIN, AGAIN, RESYNC]);
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
        let running = view.poll_running().unwrap();
        let containers = running.containers.into_iter().map(|c| c.id);
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
