//! The vocabulary of the tests that run on a real kernel, as root, against the `tracer` program.
//!
//! [`harness::netns`], [`harness::sock`] and [`harness::process`] make things happen; [`harness::oracle`] says what the kernel has;
//! [`harness::tracer`] runs the program under test; a [`harness::stage::Stage`] compares the two; [`workloads`] are
//! what is played on it, and [`cases`] turns all of it into named tests. [`mod@bench`] measures, [`show`]
//! is a host that runs out of ports, for people to look at.

pub mod bench;
pub mod cases;
pub mod harness;
pub mod show;
pub mod workloads;
