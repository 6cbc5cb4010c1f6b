//! What the tests are built from: sockets, processes, namespaces and cgroups, the program under test, and the kernel's own view.

pub mod behind;
pub mod cgroup;
pub mod foreign;
pub mod held;
pub mod lateness;
pub mod lie;
pub mod lines;
pub mod maker;
pub mod mounts;
pub mod netns;
pub mod oracle;
pub mod outsider;
pub mod privileges;
pub mod probe;
pub mod process;
pub mod pty;
pub mod skipped;
pub mod sock;
pub mod stage;
pub mod starting;
pub mod tracer;
pub mod tuple;
