//! Tests of the `tracer` program that run on a real kernel, as root.
//!
//! [`harness::netns`], [`harness::sock`] and [`harness::process`] make namespaces, sockets and processes; [`harness::oracle`]
//! reads the kernel's own list of sockets; [`harness::tracer`] runs the program under test; a [`harness::stage::Stage`] compares
//! what the two say. [`workloads`] are sequences of socket calls that run on a stage, and [`cases`] are the named tests.
//! [`mod@bench`] measures; [`show`] is a host that runs out of ports, to be looked at with `tracer top`.

pub mod bench;
pub mod cases;
pub mod harness;
pub mod helper;
pub mod show;
pub mod workloads;
