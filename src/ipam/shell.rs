//! The task around the allocator: requests, the mesh's events, the clock and the disk.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::allocator::{Action, Core};
use super::journal::{self, Journal};
use super::state::State;
use super::{Command, Config, Ipam, IpamError, Response};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::PeerId;

/// How many events are worked off before their entries are written together.
const BATCH: usize = 256;

/// How often a disk that takes nothing is tried again.
const PROBE: Duration = Duration::from_millis(500);

/// What the allocator wants of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshCommand {
    /// Replace this peer's record, or remove it.
    Publish(Key, Option<Bytes>),
    /// Send a message.
    Send(PeerId, Kind, Bytes),
}

impl Ipam {
    /// Starts the allocator with its state in this directory. Commands for the mesh come out of
    /// the sender, the mesh's events go in; events of other kinds may come, and are skipped.
    ///
    /// The task ends when all handles are gone.
    pub fn start(
        config: Config,
        dir: &Path,
        mesh: mpsc::UnboundedSender<MeshCommand>,
        events: mpsc::Receiver<MeshEvent>,
    ) -> Result<Self, IpamError> {
        let store = |error: std::io::Error| IpamError::Store(format!("{}: {error}", dir.display()));
        let begin = || State::new(config.range, since_1970().as_millis() as u64);
        let (journal, state) = Journal::open(dir, begin).map_err(store)?;
        let rng = ChaCha8Rng::from_rng(&mut rand::rng());
        let core = Core::new(config, state, since_1970(), rng, Instant::now());
        let (writer, written) = Writer::spawn(journal).map_err(store)?;
        let (commands, requests) = mpsc::channel(1024);
        let shell = Shell {
            core,
            mesh,
            writer,
            replies: BTreeMap::new(),
            next_request: 0,
            next: Batch::default(),
            underway: None,
            probe_at: None,
        };
        tokio::spawn(shell.run(requests, events, written));
        Ok(Self { commands })
    }
}

impl Ipam {
    /// An allocator that refuses everything, for this reason: the daemon goes on without one.
    pub fn unavailable(reason: String) -> Self {
        let (commands, mut requests) = mpsc::channel::<Command>(1024);
        tokio::spawn(async move {
            while let Some(command) = requests.recv().await {
                let error = IpamError::Store(reason.clone());
                // A caller that has gone away needs no answer.
                let _ = command.reply.send(Err(error));
            }
        });
        Self { commands }
    }
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Entries to write together, and what is to be done when they are on the disk.
#[derive(Debug, Default)]
struct Batch {
    entries: Vec<u8>,
    then: VecDeque<Action>,
}

struct Shell {
    core: Core,
    mesh: mpsc::UnboundedSender<MeshCommand>,
    writer: Writer,
    replies: BTreeMap<u64, oneshot::Sender<Result<Response, IpamError>>>,
    next_request: u64,
    next: Batch,
    underway: Option<VecDeque<Action>>,
    probe_at: Option<Instant>,
}

impl Shell {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<MeshEvent>,
        mut written: mpsc::Receiver<Written>,
    ) {
        let mut mesh_is_there = true;
        loop {
            self.collect();
            self.write();
            let wake = self.wake_at();
            tokio::select! {
                Some(outcome) = written.recv() => self.written(outcome),
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    self.request(request);
                    for _ in 0..BATCH {
                        let Ok(request) = requests.try_recv() else { break };
                        self.request(request);
                    }
                }
                event = events.recv(), if mesh_is_there => {
                    mesh_is_there = event.is_some();
                    event.into_iter().for_each(|event| self.event(event));
                    for _ in 0..BATCH {
                        let Ok(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                }
                () = sleep_until(wake.into()) => self.timeout(),
            }
        }
    }

    fn request(&mut self, command: Command) {
        self.next_request += 1;
        self.replies.insert(self.next_request, command.reply);
        let now = Instant::now();
        self.core
            .handle_request(self.next_request, command.request, now);
    }

    fn event(&mut self, event: MeshEvent) {
        let now = Instant::now();
        match event {
            MeshEvent::Record { owner, key, value } if key.kind == Kind::RING => {
                self.core
                    .handle_record(owner, &key.id, value.as_deref(), now);
            }
            MeshEvent::Reachable { peer, .. } => self.core.handle_reachable(peer, now),
            MeshEvent::Unreachable { peer } => self.core.handle_unreachable(peer, now),
            MeshEvent::Forgotten { peer } => self.core.handle_forgotten(peer, now),
            MeshEvent::Message {
                from,
                kind: Kind::RING,
                payload,
            } => self.core.handle_message(from, &payload, now),
            MeshEvent::Record { .. } | MeshEvent::Message { .. } => {}
        }
    }

    fn wake_at(&self) -> Instant {
        let core = self.core.poll_timeout().map(|(at, _)| at);
        let far = Instant::now() + Duration::from_secs(3600);
        [core, self.probe_at]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    fn timeout(&mut self) {
        let now = Instant::now();
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            self.underway = Some(VecDeque::new());
            self.writer.send(Task::Recover);
        }
        self.core.handle_timeout(now);
    }

    fn collect(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Persist(entry) => journal::encode(&entry, &mut self.next.entries),
                action => self.next.then.push_back(action),
            }
        }
    }

    /// One batch at a time is under way; what comes up meanwhile is the next.
    fn write(&mut self) {
        if self.underway.is_some() {
            return;
        }
        let batch = std::mem::take(&mut self.next);
        if batch.entries.is_empty() {
            return self.perform(batch.then);
        }
        self.underway = Some(batch.then);
        self.writer.send(Task::Append(batch.entries));
    }

    fn written(&mut self, outcome: Written) {
        let then = self.underway.take().unwrap_or_default();
        match outcome {
            Written::Done { long } => {
                self.perform(then);
                // Only when nothing is waiting to be written is the state what the journal says.
                if long && self.next.entries.is_empty() {
                    self.collect();
                    if self.next.entries.is_empty() {
                        self.underway = Some(std::mem::take(&mut self.next.then));
                        let state = Box::new(self.core.state().clone());
                        self.writer.send(Task::Fold(state));
                    }
                }
            }
            Written::Recovered(state) => {
                info!("the allocator's state can be stored again");
                self.core.store_recovered(*state, Instant::now());
            }
            Written::Failed { error, state } => self.failed(then, &error, state),
        }
    }

    fn failed(&mut self, then: VecDeque<Action>, error: &str, state: Option<Box<State>>) {
        warn!("the allocator's state cannot be stored: {error}");
        let lost = std::mem::take(&mut self.next).then;
        for action in then.into_iter().chain(lost) {
            if let Action::Reply { request, .. } = action {
                let result = Err(IpamError::Store(error.to_owned()));
                self.perform([Action::Reply { request, result }].into());
            }
        }
        let state = state.map(|state| *state);
        self.core
            .store_failed(state, error.to_owned(), Instant::now());
        self.probe_at = Some(Instant::now() + PROBE);
    }

    fn perform(&mut self, actions: VecDeque<Action>) {
        for action in actions {
            match action {
                Action::Reply { request, result } => {
                    if let Some(reply) = self.replies.remove(&request) {
                        // Whoever asked may have stopped waiting.
                        let _ = reply.send(result);
                    }
                }
                Action::Publish { key, value } => {
                    let key = Key::new(Kind::RING, key);
                    let _ = self.mesh.send(MeshCommand::Publish(key, value));
                }
                Action::Send { to, payload } => {
                    let _ = self.mesh.send(MeshCommand::Send(to, Kind::RING, payload));
                }
                Action::Persist(_) => {}
            }
        }
    }
}

enum Task {
    Append(Vec<u8>),
    Fold(Box<State>),
    Recover,
}

enum Written {
    Done {
        long: bool,
    },
    Recovered(Box<State>),
    Failed {
        error: String,
        state: Option<Box<State>>,
    },
}

/// The thread that waits for the disk.
struct Writer {
    tasks: std::sync::mpsc::Sender<Task>,
}

impl Writer {
    fn spawn(mut journal: Journal) -> std::io::Result<(Self, mpsc::Receiver<Written>)> {
        let (tasks, todo) = std::sync::mpsc::channel::<Task>();
        let (report, outcomes) = mpsc::channel(4);
        std::thread::Builder::new()
            .name("ipam-journal".to_owned())
            .spawn(move || {
                for task in todo {
                    let outcome = work(&mut journal, task);
                    if report.blocking_send(outcome).is_err() {
                        return;
                    }
                }
            })?;
        Ok((Self { tasks }, outcomes))
    }

    fn send(&self, task: Task) {
        // The thread ends after this, its only sender, is gone.
        let _ = self.tasks.send(task);
    }
}

fn work(journal: &mut Journal, task: Task) -> Written {
    let failed = |journal: &mut Journal, error: std::io::Error| Written::Failed {
        error: error.to_string(),
        state: journal.reload().ok().map(Box::new),
    };
    match task {
        Task::Append(entries) => match journal.append(&entries) {
            Ok(()) => Written::Done {
                long: journal.is_long(),
            },
            Err(error) => failed(journal, error),
        },
        Task::Fold(state) => {
            // The journal is as good as before; it only stays long.
            if let Err(error) = journal.fold(&state) {
                warn!("the allocator's journal cannot be shortened: {error}");
            }
            Written::Done { long: false }
        }
        // New files: what became of the old ones' last pages is uncertain after an error.
        Task::Recover => match journal.reload() {
            Ok(state) => match journal.fold(&state) {
                Ok(()) => Written::Recovered(Box::new(state)),
                Err(error) => failed(journal, error),
            },
            Err(error) => failed(journal, error),
        },
    }
}
