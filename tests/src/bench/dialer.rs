//! A client process (*dialer*) that makes a given number of connections at a time, and reports how long each connect() took.

use std::{
    io::{self, BufRead, Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, RawFd},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
    time::{ClockId, clock_gettime},
};

use crate::{
    harness::{process::Process, sock::Sock, stage::Server, tracer::mono_ns},
    workloads::random::Random,
};

/// What a dialer does with its connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    /// All connections stay open.
    Held,
    /// About half of the connections, at random, are closed immediately, and go to TIME_WAIT; the others stay open.
    Churn,
    /// Every second connection is reset as soon as the next one is made; the others stay open.
    Alternate,
    /// Each connection is reset immediately.
    Brief,
}

/// How the program itself chooses the source address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// The program does not choose: the kernel does, or `tracer spread`.
    Nothing,
    /// At random from the pool.
    Random,
    /// The addresses of the pool in turn.
    RoundRobin,
    /// By a hash of the client's address, as nginx's split_clients; the frequency of clients follows Zipf's law.
    SplitClients,
}

/// What a dialer does: where it connects to, how it chooses the source address, and what becomes of the connections.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The server to connect to.
    pub(super) peer: SocketAddr,
    /// The number of the server's listening descriptor in this process, which must stay open while the dialer starts (not
    /// checked). With [`Life::Churn`] and [`Life::Alternate`], the dialer duplicates it to accept the connections, and close both
    /// ends.
    pub(super) listener: RawFd,
    pub(super) life: Life,
    pub(super) choice: Choice,
    /// The pool. With [`Choice::Nothing`], a connection from an address that is not in the pool is not counted; if the pool is
    /// empty, all connections are counted. With another choice, the pool must not be empty (not checked).
    pub(super) sources: Vec<String>,
}

impl Plan {
    /// A plan of a program that does not choose its source address, with an empty pool.
    pub(super) fn new(server: &Server, life: Life) -> Self {
        let listener = server.listener.as_fd().as_raw_fd();
        let (peer, choice) = (server.address, Choice::Nothing);
        Self { peer, listener, life, choice, sources: Vec::new() }
    }
}

/// The results of the calls of one [`Dialer::dial`].
#[derive(Debug, Default)]
pub(super) struct Made {
    /// When each counted connect() returned (CLOCK_MONOTONIC), ns. Failed calls, and connections from outside of the pool, are
    /// not counted.
    pub(super) ends: Vec<u64>,
    /// Duration of each counted connect(), ns, in the order of [`Self::ends`].
    pub(super) durations: Vec<u64>,
    /// Number of ports of the counted connections, and of earlier ones, that were released meanwhile. A port in TIME_WAIT is not
    /// released.
    pub(super) released: u64,
    /// When connect() failed with EADDRNOTAVAIL (CLOCK_MONOTONIC, ns), after which no more connections are made; 0 if none
    /// failed.
    pub(super) failed: u64,
    /// CPU time that the process took for all of these calls, ns.
    pub(super) cpu: u64,
}

/// A client process; killed on drop, which ends its connections.
pub(super) struct Dialer {
    process: Process,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Dialer {
    /// Starts the process in the caller's network namespace; it makes no connection yet. An error if it cannot be started; one of
    /// the plan's comes with the first [`Self::dial`].
    pub(super) fn spawn(plan: &Plan) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["dial", &plan.peer.to_string()]);
        command.args([plan.life as u8, plan.choice as u8].map(|it| it.to_string()));
        command.args([std::process::id().to_string(), plan.listener.to_string()]);
        command.args(&plan.sources).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command)?;
        let stdin = process.child.stdin.take().context("no stdin")?;
        let stdout = process.child.stdout.take().context("no stdout")?;
        Ok(Self { process, stdin, stdout })
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has the process call connect() `count` times, or fewer: it stops after a call that failed with EADDRNOTAVAIL. Waits for
    /// the end, and returns the result.
    ///
    /// # Errors
    /// The process has ended, for example because connect() failed with another error, which it prints to stderr.
    pub(super) fn dial(&mut self, count: u64) -> Result<Made> {
        self.begin(count)?;
        self.end()
    }

    /// Has the process call connect() as [`Self::dial`] does, but does not wait: [`Self::end`] does, and returns the result. An
    /// error if the process has ended.
    pub(super) fn begin(&mut self, count: u64) -> Result<()> {
        Ok(writeln!(self.stdin, "{count}")?)
    }

    /// Waits for the end of the calls that [`Self::begin`] started, and returns the result.
    ///
    /// # Errors
    /// The process has ended; it prints the reason to stderr.
    pub(super) fn end(&mut self) -> Result<Made> {
        let mut next = || -> Result<u64> {
            let mut bytes = [0; 8];
            self.stdout
                .read_exact(&mut bytes)
                .context("a dialer ended early; see its error above")?;
            Ok(u64::from_le_bytes(bytes))
        };
        let (count, released, failed, cpu) = (next()?, next()?, next()?, next()?);
        let mut made = Made { released, failed, cpu, ..Made::default() };
        for _ in 0..count {
            made.ends.push(next()?);
            made.durations.push(next()?);
        }
        Ok(made)
    }
}

/// The client process, `dial PEER LIFE CHOICE PARENT LISTENER SOURCES…`: each line on stdin is a number of connections to make.
/// The answer on stdout is little-endian `u64`: how many connections are counted, ports released, time of the failure, CPU time;
/// then for each counted connection when connect() returned, and how long it took (`Made` has the units).
///
/// # Errors
/// Wrong arguments or lines, an error of connect() other than EADDRNOTAVAIL, and every error of another system call.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [peer, life, choice, parent, listener, sources @ ..] = arguments else {
        bail!("dial: too few arguments")
    };
    let life = [Life::Held, Life::Churn, Life::Alternate, Life::Brief]
        .into_iter()
        .find(|it| (*it as u8).to_string() == *life);
    let choice = [Choice::Nothing, Choice::Random, Choice::RoundRobin, Choice::SplitClients]
        .into_iter()
        .find(|it| (*it as u8).to_string() == *choice);
    let life = life.context("no such life")?;
    let listener = matches!(life, Life::Churn | Life::Alternate)
        .then(|| borrow(parent, listener))
        .transpose()?;
    let mut client = Client {
        peer: peer.parse()?,
        life,
        choice: choice.context("no such choice")?,
        sources: sources.iter().map(|it| it.parse()).collect::<Result<_, _>>()?,
        random: Random(u64::from(std::process::id())),
        turn: 0,
        listener,
        held: Vec::new(),
        brief: None,
    };
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let made = client.dial(line?.parse()?)?;
        let count = u64::try_from(made.ends.len())?;
        let head = [count, made.released, made.failed, made.cpu];
        let pairs = made.ends.iter().zip(&made.durations).flat_map(|(end, took)| [*end, *took]);
        let bytes: Vec<u8> = head.into_iter().chain(pairs).flat_map(u64::to_le_bytes).collect();
        stdout.write_all(&bytes)?;
        stdout.flush()?;
    }
    Ok(())
}

/// A duplicate of another process's socket: the descriptor `fd` of `process`, a process id.
fn borrow(process: &str, fd: &str) -> Result<Sock> {
    let pid = Pid::from_raw(process.parse()?).context("no such process")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Sock::from(pidfd_getfd(process, fd.parse()?, PidfdGetfdFlags::empty())?))
}

struct Client {
    peer: SocketAddr,
    life: Life,
    choice: Choice,
    sources: Vec<IpAddr>,
    random: Random,
    turn: u64,
    /// The server's listener, if this process also accepts the connections, to close both ends; `None` if it does not.
    listener: Option<Sock>,
    held: Vec<(Sock, Option<Sock>)>,
    /// The connection that is reset once the next one is made, for [`Life::Alternate`].
    brief: Option<(Sock, Option<Sock>)>,
}

impl Client {
    fn dial(&mut self, count: u64) -> Result<Made> {
        let mut made = Made::default();
        let cpu = cpu_ns();
        for _ in 0..count {
            let sock = self.open()?;
            let begin = mono_ns();
            match sock.connect(self.peer) {
                Ok(()) => {}
                Err(Errno::ADDRNOTAVAIL) => {
                    made.failed = mono_ns();
                    break;
                }
                Err(errno) => bail!("connect {} to {}: {errno}", made.ends.len(), self.peer),
            }
            let end = mono_ns();
            if self.choice == Choice::Nothing && self.is_outside_of_the_pool(&sock)? {
                // This connection was not spread: the spreader found no port for it, but did not deny it, because it was not
                // certain that the pool is full. It counts neither as a failure nor as a connection of the pool.
                self.held.push((sock, None));
                continue;
            }
            made.ends.push(end);
            made.durations.push(end - begin);
            made.released += self.keep(sock)?;
            self.turn += 1;
        }
        made.cpu = cpu_ns() - cpu;
        Ok(made)
    }

    fn open(&mut self) -> Result<Sock> {
        let sock = Sock::tcp(self.peer)?;
        if let Some(source) = self.choose()? {
            sock.set_bind_address_no_port()?;
            sock.bind(SocketAddr::new(source, 0))?;
        }
        Ok(sock)
    }

    fn choose(&mut self) -> Result<Option<IpAddr>> {
        let count = u64::try_from(self.sources.len())?;
        let index = match self.choice {
            Choice::Nothing => return Ok(None),
            Choice::Random => self.random.below(count),
            Choice::RoundRobin => self.turn % count,
            Choice::SplitClients => Random(self.client()).below(count),
        };
        Ok(self.sources.get(usize::try_from(index)?).copied())
    }

    fn is_outside_of_the_pool(&self, sock: &Sock) -> Result<bool> {
        let source = sock.local()?.ip();
        Ok(!self.sources.is_empty() && !self.sources.contains(&source))
    }

    /// A random client, from 1 to 1,023; client N is about 1/N as frequent as client 1 (Zipf's law).
    fn client(&mut self) -> u64 {
        let magnitude = 1 << self.random.below(10);
        magnitude + self.random.below(magnitude)
    }

    /// Keeps or closes the new connection by [`Life`]. Returns the number of ports that were released.
    fn keep(&mut self, sock: Sock) -> Result<u64> {
        let accepted = self.listener.as_ref().map(Sock::accept).transpose()?;
        match self.life {
            Life::Brief => {
                sock.set_reset_on_close()?;
                return Ok(1);
            }
            Life::Churn if self.random.below(2) == 0 => {
                // The client's end is closed first, so that TIME_WAIT is on its side.
                drop(sock);
                return Ok(0);
            }
            Life::Alternate => {
                let released = u64::from(self.brief.take().is_some());
                if self.turn % 2 == 1 {
                    sock.set_reset_on_close()?;
                    self.brief = Some((sock, accepted));
                } else {
                    self.held.push((sock, accepted));
                }
                return Ok(released);
            }
            Life::Held | Life::Churn => {}
        }
        self.held.push((sock, accepted));
        Ok(0)
    }
}

/// CPU time of this process, ns.
fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}

/// Returns `made` if it has `count` connections.
///
/// # Errors
/// `made` has another number, because a call failed or a connection was not counted.
pub(super) fn all(made: Made, count: u64) -> Result<Made> {
    let ends = u64::try_from(made.ends.len())?;
    ensure!(ends == count, "only {ends} of {count} connections were made");
    Ok(made)
}
