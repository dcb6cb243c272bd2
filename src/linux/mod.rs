//! The kernel: namespaces, netlink, raw frames. The only modules that may use `unsafe`.

pub mod address;
pub mod conntrack;
pub mod fdb;
pub mod link;
pub mod netlink;
pub mod netns;
mod nfnetlink;
pub mod nftables;
pub mod packet;
pub mod route;
pub mod sysctl;
pub mod tap;
pub mod udp;
