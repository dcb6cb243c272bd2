//! Virtual addresses of swarm services.
//!
//! Docker gives each service an address on each of its networks, and makes load balancers behind
//! these addresses for its own overlay networks alone. Here the client's own network namespace
//! translates them: managers tell all peers which address is whose, each node which tasks run.

mod actor;
mod core;
mod record;
mod sandbox;
mod status;
mod support;

pub use self::actor::Services;
pub use self::record::{Backend, Service, ServiceId, TaskState};
pub use self::status::{BackendStatus, Certainty, ServiceStatus, ServicesStatus};
