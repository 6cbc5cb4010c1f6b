//! Reads the configuration of HAProxy, as far as it says where connections go, from which address, and whether they are used
//! again.
//!
//! The format is configuration.txt, 2 ("Configuration file format"). Neither environment variables nor host names are resolved,
//! and a condition is evaluated only if it is a number; what depends on others is "not read". HAProxy that has changed its root
//! folder (`chroot`) read its files before that, so they are in the root folder of its master process.

mod address;
mod condition;
mod facts;
mod files;
mod reader;
mod server;
mod settings;
pub mod stats;
mod words;

use std::{net::IpAddr, path::PathBuf, time::SystemTime};

use super::{At, Setting, Unread};

pub use files::{paths, read};

/// What the files of one HAProxy say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Its stats sockets, at which it answers commands; at most 100.
    pub sockets: Vec<StatsSocket>,
    /// Its `frontend`, `backend` and `listen` sections, disabled ones included; at most 10,000.
    pub proxies: Vec<Proxy>,
    pub unread: Unread,
    /// When the newest of the files was written: if that is after the process has begun, it may not be what runs. `None`: no file
    /// was read.
    pub modified: Option<SystemTime>,
}

/// A line `stats socket` of `global`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatsSocket {
    /// The path of a unix socket; `None`: any other address, such as one of a network or an abstract socket.
    pub path: Option<PathBuf>,
    /// Which commands it takes. [`Setting::Unset`]: those of an operator.
    pub level: Setting<Level>,
    pub at: At,
}

/// What a client of a stats socket may do. Each level suffices for `show stat` and `show info`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    User,
    Operator,
    Admin,
}

/// What a section is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Frontend,
    Backend,
    /// Both in one.
    Listen,
}

/// A section that takes or opens connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    pub kind: Kind,
    pub name: String,
    /// The line that begins the section.
    pub at: At,
    pub settings: Settings,
    /// What becomes of the connections to its servers after a request: the strongest of what it says itself and what the frontends
    /// say that name it.
    pub connection: Setting<Connection>,
    /// Its lines `server` and `server-template` that were read; at most 20,000 of all sections together.
    pub servers: Vec<Server>,
    /// Whether there are servers that are not in `servers`: they depend on a condition, are not complete, or come after the first
    /// 20,000 of all sections.
    pub more_servers: bool,
    /// The backends that `default_backend` and `use_backend` name, in the order of the lines; a name can be there several times.
    pub uses: Vec<String>,
    /// Whether it may use others: their names are known only when a request comes, have an environment variable, or are beyond
    /// 50,000 of all sections.
    pub uses_others: bool,
}

/// The settings of a section; those of `defaults` are in it. [`Setting::Unset`] stands for the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Default: [`Mode::Tcp`].
    pub mode: Setting<Mode>,
    /// Default: [`Reuse::Safe`].
    pub reuse: Setting<Reuse>,
    /// What the section itself says. Default: [`Connection::KeepAlive`].
    pub connection: Setting<Connection>,
    /// Default: the system chooses the address.
    pub source: Setting<Source>,
    /// Whether the section is switched off. Lines `disabled` and `enabled` that depend on a condition do not count.
    pub disabled: bool,
    /// What holds for each server of the section.
    pub server: ServerSettings,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    Tcp,
    Http,
    /// `health`, `log`, `spop`, `syslog` or `haterm`.
    Other,
}

/// `http-reuse`: which requests of a client's connection may be sent over a server's connection that was opened for
/// another client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reuse {
    /// None. Requests of the same client's connection share one.
    Never,
    /// All but the first one.
    Safe,
    /// All; the first one only over a server's connection that was used again before.
    Aggressive,
    /// All, the first one included.
    Always,
}

impl Reuse {
    /// Its name, as the configuration has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Safe => "safe",
            Self::Aggressive => "aggressive",
            Self::Always => "always",
        }
    }
}

/// What becomes of connections after a request, the weakest first: of a frontend and a backend, the stronger one holds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Connection {
    /// Both stay open.
    KeepAlive,
    /// `option http-server-close`: that to the server is closed.
    ServerClose,
    /// `option httpclose`: both are closed.
    Close,
}

impl Connection {
    /// The option that sets it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::KeepAlive => "option http-keep-alive",
            Self::ServerClose => "option http-server-close",
            Self::Close => "option httpclose",
        }
    }
}

/// `source`: the address that connections are opened from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source {
    /// `0.0.0.0` or `::`: the system chooses.
    pub address: IpAddr,
    /// The first and the last port that are bound, both inclusive; `None`: connect() chooses the port.
    pub ports: Option<(u16, u16)>,
    /// `usesrc`: another address is shown to the server; `None`: it is this one.
    pub shown: Option<Shown>,
}

/// The address that a transparent proxy binds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    /// The client's address and port.
    Client,
    /// The client's address, or one that a header of the request has.
    OfRequest,
    /// One address for all.
    Fixed,
}

/// The settings of a server. [`Setting::Unset`] stands for the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSettings {
    /// Default: that of the section.
    pub source: Setting<Source>,
    /// The most connections at a time. Default, and 0: no limit.
    pub maxconn: Setting<u32>,
    /// The most idle connections that are kept. Default, and −1: no limit. 0: none.
    pub pool_max_conn: Setting<i32>,
    /// Whether `pool-purge-delay` is 0, so that no idle connection is kept. Default: no.
    pub purged: Setting<bool>,
    /// Whether it is checked, which opens connections. Default: no.
    pub check: Setting<bool>,
    /// Whether connections are opened in another network namespace than that of the process. Default: no.
    pub elsewhere: Setting<bool>,
}

/// A line `server`, or `server-template`, which stands for several servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub name: String,
    pub at: At,
    pub target: Target,
    /// Those of `default-server`, with its own in their place.
    pub settings: ServerSettings,
}

/// Where a server is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// An address and a port. `None`: the port that the client connected to, or one at a fixed distance from it.
    Ip(IpAddr, Option<u16>),
    /// A name, which is not resolved, and a port; `None`: the port that the client connected to, or one at a fixed distance from
    /// it.
    Name(String, Option<u16>),
    /// The address that the client connected to (written as `*`, 0.0.0.0 or ::).
    Client,
    /// Not TCP: a unix socket, a socket that HAProxy was given, or QUIC or UDP.
    Local,
    /// It has an environment variable, or is not understood.
    Unread,
}

#[cfg(test)]
mod test_corpus;
#[cfg(test)]
mod tests;
