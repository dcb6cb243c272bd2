//! What Docker asks of us, and what we ask of Docker.
//!
//! [`plugin_socket`] listens, [`calls`] tells calls apart and bounds their time, [`driver`] and
//! [`ipam_driver`] translate them for the domain. [`engine`] asks the Engine's own API, which is
//! never needed to answer: [`scope`] and [`swarm`] ask it in the background, and
//! [`containers`] and [`services`] watch it for what [`tasks`] and the virtual addresses need.

pub mod calls;
pub mod containers;
pub mod discovered;
pub mod driver;
pub mod engine;
pub mod ipam_driver;
mod network_spec;
pub mod plugin_socket;
#[cfg(test)]
mod replay;
pub mod scope;
pub mod services;
pub mod swarm;
pub mod tasks;
pub mod wire;
