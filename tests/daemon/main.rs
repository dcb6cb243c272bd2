//! The daemon as a process, and the command as another: how fast it answers, what it keeps to itself,
//! whom it lets wait. As root, in network namespaces of their own.

mod process;
mod secrets;
mod speed;
mod strain;
