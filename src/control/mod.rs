//! What goes on, for people and programs: the report, its rendering, the read-only HTTP server
//! and the root-only control socket.

mod attach;
#[cfg(test)]
mod browser;
pub mod http;
mod metrics;
pub mod render;
pub mod report;
mod serve;
pub mod socket;
mod targets;
mod warnings;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

pub use self::attach::AttachCommand;
pub use self::report::Report;
pub use self::socket::{AddressCommand, NameCommand, Part, Switch};
pub use self::targets::Targets;
pub use self::warnings::{Warning, Warnings};
use crate::config::PeerAddress;

/// How long whoever asks over HTTP waits at most.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// How long a command waits at most: the ring's birth and a takeover need other peers, and the
/// allocator itself gives up after eight seconds. An operator whose host is too busy for anything
/// else gets an answer as well.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(12);

/// Why a command was not carried out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The change could not be made durable; nothing was changed.
    #[error("the change cannot be stored: {0}")]
    Store(String),
    /// It cannot be done, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Stopped,
}

/// What the daemon does on behalf of the control socket and the status server.
///
/// Callers give up after [`DEADLINE`] or [`COMMAND_DEADLINE`]; a call they gave up on is dropped
/// where it awaits.
pub trait Control: Send + Sync + 'static {
    /// What goes on.
    fn report(&self) -> impl Future<Output = Report> + Send;

    /// Connects to these places too; with `replace`, to none of those it was told of before.
    /// Remembered before it is answered.
    fn connect(
        &self,
        peers: Vec<PeerAddress>,
        replace: bool,
    ) -> impl Future<Output = Result<(), ControlError>> + Send;

    /// Does something about addresses; returns those that it is about.
    fn addresses(
        &self,
        command: AddressCommand,
    ) -> impl Future<Output = Result<Vec<IpNet>, ControlError>> + Send;

    /// Does something about names; returns the addresses of the one that was looked up.
    fn names(
        &self,
        command: NameCommand,
    ) -> impl Future<Output = Result<Vec<IpAddr>, ControlError>> + Send;

    /// No longer connects to these places; returns those that neither settings nor commands had
    /// named. Remembered before it is answered.
    fn forget(
        &self,
        peers: Vec<PeerAddress>,
    ) -> impl Future<Output = Result<Vec<PeerAddress>, ControlError>> + Send;

    /// Attaches and detaches containers and this host; returns the addresses that it is about.
    /// Remembered before it is answered.
    fn attachments(
        &self,
        command: AttachCommand,
    ) -> impl Future<Output = Result<Vec<IpNet>, ControlError>> + Send;

    /// Switches a part of the daemon on or off. Remembered before it is answered.
    fn switch(
        &self,
        part: Part,
        state: Switch,
    ) -> impl Future<Output = Result<(), ControlError>> + Send;
}
