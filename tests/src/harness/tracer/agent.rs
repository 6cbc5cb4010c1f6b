//! `tracer agent`: runs it with a configuration file and a service manager's socket, and reads its outputs and metrics.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    Collected, START_LIMIT, STOP_LIMIT, collect, command, finish, record::Recording, wait_for,
};
use crate::harness::{
    lie::{self, Stream},
    process::Process,
};

/// A running `tracer agent`; killed on drop.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    folder: TempDir,
    stderr: Option<Collected>,
    /// The service manager's end.
    manager: UnixDatagram,
    /// What the agent has sent to the service manager so far, one message after the other.
    notified: String,
}

impl Agent {
    /// Starts the agent with this configuration, in which `DIR` stands for a new folder, and waits until it says that it is
    /// ready.
    ///
    /// # Errors
    /// It ended (the text has its stderr), or is not ready within [`START_LIMIT`].
    pub fn start(config: &str) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, config)
    }

    /// As [`Self::start`], in this folder.
    pub fn start_in(folder: TempDir, config: &str) -> Result<Self> {
        // The threads that write outputs do so as the owner of the folder.
        let dir = folder.path().to_str().context("path is not UTF-8")?;
        let file = folder.path().join("tracer.toml");
        fs::write(&file, config.replace("DIR", dir))?;
        let socket = folder.path().join("notify");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_nonblocking(true)?;
        fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open)?;
        let file = file.to_str().context("path is not UTF-8")?;
        let mut command = command(&["agent", "--config", file])?;
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "10000000");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let stderr = Some(collect(process.child.stderr.take()));
        let mut agent = Self { process, folder, stderr, manager, notified: String::new() };
        wait_for("READY=1", START_LIMIT, || {
            agent.assert_runs()?;
            Ok(agent.notified()?.contains("READY=1").then_some(()))
        })?;
        Ok(agent)
    }

    /// Fails if the agent has ended; the text has its stderr.
    pub fn assert_runs(&mut self) -> Result<()> {
        if let Some(status) = self.process.child.try_wait()? {
            let stderr = self.stderr.take().map(finish).unwrap_or_default();
            bail!("the agent ended ({status}): {}", stderr.trim());
        }
        Ok(())
    }

    /// Everything that the agent has sent to the service manager so far, each message ended by a newline.
    pub fn notified(&mut self) -> Result<&str> {
        let mut message = [0; 4096];
        loop {
            match self.manager.recv(&mut message) {
                Ok(length) => {
                    self.notified += &String::from_utf8_lossy(message.get(..length).unwrap_or(&[]));
                    self.notified.push('\n');
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(&self.notified)
    }

    /// Writes another configuration into the agent's file, and sends SIGHUP.
    pub fn reload(&self, config: &str) -> Result<()> {
        let dir = self.folder.path().to_str().context("path is not UTF-8")?;
        fs::write(self.path("tracer.toml"), config.replace("DIR", dir))?;
        self.process.signal(Signal::HUP)
    }

    /// The path of a file in the agent's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ends the agent by SIGTERM, and returns what it wrote to stderr.
    ///
    /// # Errors
    /// The exit code is not 0, or it does not end within [`STOP_LIMIT`].
    pub fn stop(&mut self) -> Result<String> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        let stderr = self.stderr.take().map(finish).unwrap_or_default();
        ensure!(status.code() == Some(0), "the agent ended with {status}: {}", stderr.trim());
        Ok(stderr)
    }

    /// The lines of an output in the agent's folder; the agent has to be stopped.
    pub fn recording(&self, name: &str) -> Result<Recording> {
        Recording::read(&self.path(name))
    }
}

/// An address of this host at which nobody listens. Its port is below the range from which connect() takes: when a server in the
/// range has ended, nothing tells the TIME_WAITs of the connections that it closed from those of outgoing ones, and tracers that
/// start then count each as a tuple.
///
/// # Errors
/// 100 ports in a row are taken.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 5_000)?;
    for _ in 0..100 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 5_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port is free from {first} on")
}

/// The answer to `GET PATH` at this address: status line, headers and body.
///
/// # Errors
/// Nobody listens there, or the answer takes more than 10 s.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(lie::text(Stream::Stdout, String::from_utf8(answer)?))
}

/// The value of a metric, by its name and labels as they are written: `tracer_failures_total{cause="refused"}`; `None`: the text
/// does not have it.
///
/// # Errors
/// The value is no number.
pub fn metric(text: &str, name: &str) -> Result<Option<f64>> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(|value| value.trim().parse()).transpose()?)
}
