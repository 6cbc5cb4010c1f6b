//! The vocabulary of the tests that run on a real kernel, as root, against the `tracer` program.
//!
//! [`netns`], [`sock`] and [`process`] make things happen; [`oracle`] says what the kernel has;
//! [`tracer`] runs the program under test; a [`stage::Stage`] compares the two; [`workloads`] are
//! what is played on it, and [`cases`] turns all of it into named tests. [`bench`] measures, [`show`]
//! is a host that runs out of ports, for people to look at.

pub mod behind;
pub mod bench;
pub mod cases;
pub mod cgroup;
pub mod descriptors;
pub mod foreign;
pub mod held;
pub mod helper;
pub mod lateness;
pub mod lie;
pub mod maker;
pub mod mounts;
pub mod netns;
pub mod oracle;
pub mod outsider;
pub mod privileges;
pub mod probe;
pub mod process;
pub mod pty;
pub mod show;
pub mod sock;
pub mod stage;
pub mod tracer;
pub mod tuple;
pub mod workloads;
