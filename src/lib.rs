//! Multi-host container networking for Docker.
//!
//! The house has six floors; a module may import only from floors below its own.
//!
//! | floor | modules | what they know |
//! |---|---|---|
//! | 6 | `main.rs` | the command line's first word |
//! | 5 | `cli`, `daemon` (and `fuzz`, in tests) | what a person types; how the parts are put together |
//! | 4 | `docker`, `control` | what Docker asks of us and we of it; status |
//! | 3 | [`network`], `ipam`, `dns` | segments, endpoints, addresses, names |
//! | 2 | [`mesh`], [`datapath`] | peers and their records; the devices that carry frames |
//! | 1 | `linux`, `config`, [`store`], [`types`] | the kernel, the settings, the disk, the values |
//!
//! Protocols and state machines are pure: events and `now` go in, actions and the next deadline
//! come out. Sockets, clocks, randomness and tasks live in thin shells around them.

#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod dns;
pub mod docker;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ipam;
pub mod linux;
pub mod mesh;
pub mod network;
pub mod store;
pub mod types;
