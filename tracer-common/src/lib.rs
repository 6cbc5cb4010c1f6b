//! What the kernel side (`tracer-ebpf`) and userspace (`tracer`) share: the types of the values that they exchange, names and
//! constants, and the code that both use or that is tested on the host.
//!
//! Values are exchanged through BPF maps, ring buffers and the arguments of the program that userspace runs itself ([`seed`]).
//! Their types are `repr(C)` and have no implicit padding, no pointer, no `bool` and no enum with data. The size of each is
//! asserted in a `const` next to it, or next to the type that contains it.
//!
//! Reading order: [`addr`], [`mod@tuple`], [`conn`], [`event`], [`cause`], [`loss`], [`filter`],
//! [`settings`], [`share`], [`spread`]; the other modules where one of these refers to them.
#![no_std]

pub mod addr;
pub mod cause;
pub mod conn;
pub mod conn_flag;
pub mod ends;
pub mod event;
pub mod filter;
pub mod halves;
pub mod loss;
mod named;
pub mod seed;
pub mod settings;
pub mod share;
pub mod spread;
pub mod states;
pub mod touched;
pub mod tuple;
#[cfg(feature = "user")]
mod user;

pub use addr::Addr;
pub use cause::Cause;
pub use conn::{Attempt, Bound, Conn, ConnKey, Who};
pub use ends::Ends;
pub use event::{Event, Kind, PortBy, event_flag};
pub use filter::Filter;
pub use halves::Halves;
pub use loss::{Loss, Stat};
pub use spread::Rule;
pub use states::{PortState, Ports, States};
pub use touched::{Touched, port_of};
pub use tuple::{TupleCount, TupleKey};
