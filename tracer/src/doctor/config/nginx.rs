//! nginx: where it is ([`masters`], [`of_master`]), what its configuration says ([`Facts`]), and whether connections to a server
//! are kept ([`Routes`]).
//!
//! The reader is tolerant: of directives that it does not know it needs the form only. A block that it cannot follow is reported
//! as not read, together with what depends on it; nothing is guessed.

mod facts;
mod find;
mod include;
mod keeps;
mod level;
mod lexer;
mod lua;
mod pass;
mod tree;
mod upstream;
mod value;
mod version;

pub use facts::{ErrorLog, Facts, Workers, facts};
pub use find::{Listed, Nginx, Role, masters, of_master, role};
pub use include::ConfigFile;
pub use keeps::{By, Closes, Keeps, Lack, Route, Routes, routes};
pub use level::{Asks, Headers, HttpVersion, Level, Set};
pub use pass::{Pass, Protocol, Target};
pub use tree::{At, Unread};
pub use upstream::{Keepalive, Server, Upstream};
pub use value::Peer;
pub use version::Version;

#[cfg(test)]
mod tests;
