//! What the containers of this host are called, and by which addresses they ask for names.

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::view::Names;
use super::containers::ContainerChanges;
use super::engine::{ContainerDetail, Engine, EngineError, Network};
use crate::dns::LocalChanges;
use crate::network::JoinedEndpoints;
use crate::types::{DnsName, EndpointId, SegmentId};

/// The bridge that Docker adds to containers whose networks have no gateway. It tells of those
/// addresses only when it is asked for that network.
const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How many questions the Engine is asked at a time.
const ASKED: usize = 4;

/// What was attached beside Docker, as far as names depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The identifier of the container; `None` for this host.
    pub container: Option<String>,
    /// Its name, for people.
    pub name: String,
    /// The segment it is on.
    pub segment: SegmentId,
    /// Its address there.
    pub address: IpAddr,
    /// Whether the container's names do not stand for the address.
    pub without_dns: bool,
    /// What else the address is called; within the domain.
    pub names: BTreeSet<DnsName>,
}

/// The endpoints that were attached beside Docker.
pub type AttachedEndpoints = BTreeMap<EndpointId, Attached>;

/// Where names come from.
#[derive(Debug)]
pub struct Sources {
    /// What the Engine tells.
    pub engine: Engine,
    /// What becomes of the containers: at first, all that run.
    pub changes: mpsc::UnboundedReceiver<ContainerChanges>,
    /// Which of the Engine's endpoints are on which segment.
    pub joined: watch::Receiver<JoinedEndpoints>,
    /// What the Engine knows nothing of.
    pub attached: watch::Receiver<AttachedEndpoints>,
}

/// Tells for ever what this host's containers, and this host itself, are called in a domain,
/// whenever that changes: at first all of them, then those that have changed.
pub async fn watch(mut sources: Sources, domain: DnsName, told: impl Fn(LocalChanges)) {
    let mut names = Names::new(domain);
    let mut answers = JoinSet::new();
    let mut asked = BTreeSet::new();
    let mut retry: Option<Instant> = None;
    let mut known = false;
    names.handle_joined(&sources.joined.borrow_and_update());
    names.handle_attached(&sources.attached.borrow_and_update());
    loop {
        tokio::select! {
            changes = sources.changes.recv() => match changes {
                Some(changes) => {
                    names.handle_containers(changes);
                    known = true;
                }
                None => return,
            },
            changed = sources.joined.changed() => match changed {
                Ok(()) => names.handle_joined(&sources.joined.borrow_and_update()),
                Err(_) => return,
            },
            changed = sources.attached.changed() => match changed {
                Ok(()) => names.handle_attached(&sources.attached.borrow_and_update()),
                Err(_) => return,
            },
            Some(answer) = answers.join_next() => {
                let Ok((question, answer)) = answer else {
                    continue;
                };
                asked.remove(&question);
                match answer {
                    Ok(Some(answer)) => names.handle_answer(&question, answer),
                    // Gone meanwhile, of which an event tells.
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, "names of containers are not known in full");
                        names.ask(question);
                        retry = Some(Instant::now() + RETRY);
                    }
                }
            }
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => retry = None,
        }
        if !known {
            continue;
        }
        // What is certain already is told without waiting for the Engine.
        told(names.poll_changes());
        while retry.is_none()
            && asked.len() < ASKED
            && let Some(question) = names.poll_question(&asked)
        {
            asked.insert(question.clone());
            let engine = sources.engine.clone();
            answers.spawn(async move {
                let answer = ask(&engine, &question).await;
                (question, answer)
            });
        }
    }
}

/// What the Engine tells only when it is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// The container with this identifier.
    Container(String),
    /// Who is on the gateway bridge: no more than its thousand ports.
    Gateway,
}

#[derive(Debug)]
enum Answer {
    Container(ContainerDetail),
    Gateway(Network),
}

/// `None` when the Engine knows of no such container.
async fn ask(engine: &Engine, question: &Question) -> Result<Option<Answer>, EngineError> {
    let answer = match question {
        Question::Container(id) => engine.container(id).await.map(Answer::Container),
        Question::Gateway => engine
            .network_called(GATEWAY_BRIDGE)
            .await
            .map(Answer::Gateway),
    };
    match (question, answer) {
        (_, Ok(answer)) => Ok(Some(answer)),
        // Nobody is on a bridge that is not there.
        (Question::Gateway, Err(error)) if error.is_not_found() => {
            Ok(Some(Answer::Gateway(Network::default())))
        }
        (Question::Container(_), Err(error)) if error.is_not_found() => Ok(None),
        (_, Err(error)) => Err(error),
    }
}

impl Attached {
    /// By what it is told apart from what is attached to others.
    fn holder(&self) -> &str {
        self.container.as_ref().unwrap_or(&self.name)
    }
}

#[cfg(test)]
mod tests;
