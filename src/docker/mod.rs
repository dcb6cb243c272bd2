//! What Docker asks of us, and what we ask of Docker.
//!
//! [`plugin_socket`] listens, [`calls`] tells calls apart and bounds their time, [`driver`] and
//! [`ipam_driver`] translate them for the domain. [`engine`] asks the Engine's own API, which is
//! never needed to answer: [`scope`] and [`swarm`] ask it in the background, and
//! [`containers`] and [`services`] watch it for what [`tasks`] and the virtual addresses need.
//! [`weave_network`] makes the network that users need not make themselves, and [`proxy`] puts
//! containers on it that name none; [`daemon_tls`] tells how it is to speak TLS.

pub mod calls;
pub mod containers;
pub mod daemon_tls;
pub mod discovered;
pub mod driver;
pub mod engine;
pub mod ipam_driver;
pub mod names;
mod network_spec;
pub mod plugin_socket;
pub mod proxy;
#[cfg(test)]
mod replay;
pub mod scope;
pub mod services;
mod socket_file;
pub mod swarm;
pub mod tasks;
pub mod weave_network;
pub mod wire;
