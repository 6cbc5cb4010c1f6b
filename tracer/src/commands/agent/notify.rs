//! [`Notifier`]: tells the service manager that the agent is ready, alive and stopping (sd_notify(3)).
//!
//! The socket is opened before the thread enters its sandbox, which denies socket(2): a library that opens one for each message
//! cannot be used.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable in which the service manager names its socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// A connection to the service manager. Nothing is sent if there is none.
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// That the agent is ready, if the manager did not take the message: it waits for that, and ends the agent without it.
    unsent: Option<String>,
}

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names. If that fails, the log says so, and nothing is ever sent.
    pub(super) fn new() -> Self {
        let connected = env::var_os(VARIABLE).map(|name| connect(&name));
        let failed = |error: &io::Error| {
            tracing::warn!("cannot connect to the service manager ({VARIABLE}): {error}");
        };
        Self::to(connected.and_then(|result| result.inspect_err(failed).ok()))
    }

    fn to(socket: Option<UnixDatagram>) -> Self {
        Self { socket, unsent: None }
    }

    /// The agent is ready. `status`: its state in one line, for people.
    pub(super) fn ready(&mut self, status: &str) {
        let message = format!("READY=1\nSTATUS={}", status.replace('\n', " "));
        self.unsent = (!self.send(&message)).then_some(message);
    }

    /// The agent's state has changed: in one line, for people.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", status.replace('\n', " ")));
    }

    /// The agent has made progress: restarts the manager's watchdog (`WatchdogSec=`).
    pub(super) fn alive(&mut self) {
        if let Some(ready) = self.unsent.take() {
            self.unsent = (!self.send(&ready)).then_some(ready);
        }
        self.send("WATCHDOG=1");
    }

    /// The agent has begun to stop.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Whether the manager took the message, or there is none.
    fn send(&self, message: &str) -> bool {
        let Some(socket) = &self.socket else { return true };
        let sent = socket.send(message.as_bytes());
        if let Err(error) = &sent {
            tracing::debug!("cannot send the agent's state to the service manager: {error}");
        }
        sent.is_ok()
    }
}

/// A socket that is connected to the manager's: a path, or after `@` an abstract name. It never waits for the manager.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("tracer-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let managers = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ];
        for (manager, name) in managers {
            let mut notifier = Notifier::to(Some(connect(&name).unwrap()));
            notifier.ready("one\nline");
            notifier.alive();
            let mut message = [0; 64];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1\nSTATUS=one line");
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"WATCHDOG=1");
        }
    }

    #[test]
    fn readiness_is_sent_again_and_a_manager_that_is_gone_delays_nothing() {
        let (manager, agent) = UnixDatagram::pair().unwrap();
        agent.set_nonblocking(true).unwrap();
        let mut notifier = Notifier::to(Some(agent));
        while notifier.send("full") {}
        notifier.ready("late");
        let mut message = [0; 64];
        while manager.recv(&mut message).is_ok_and(|length| &message[..length] != b"full") {}
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut message).is_ok() {}
        notifier.alive();
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1\nSTATUS=late");
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"WATCHDOG=1");
        drop(manager);
        notifier.stopping();
        assert!(connect(OsStr::new("/nowhere/notify")).is_err());
    }
}
