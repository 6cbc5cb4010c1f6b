//! Runs a program on a pseudoterminal (pty(7)), and keeps what its screen would show.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::harness::{lie, process::Process, tracer::wait_for};

/// Width, then height, in characters.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u16, pub u16);

/// A program on a terminal; on drop the terminal is closed, and the program is killed if it still runs.
pub struct Pty {
    process: Process,
    /// The end on which this process writes keys and reads the output. `None` after [`Self::close`]; so is `terminal`.
    controller: Option<File>,
    terminal: Option<OwnedFd>,
    before: Modes,
    screen: Arc<Mutex<vt100::Parser>>,
    written: Arc<AtomicU64>,
    follower: Option<thread::JoinHandle<()>>,
    closed: Arc<AtomicBool>,
}

/// The modes of a terminal that a program can change, and must restore.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Modes {
    input: String,
    alternate: bool,
    cursor_hidden: bool,
    mouse: String,
}

impl Pty {
    /// Starts a new terminal of this size, and on it the program of `command` with its arguments and environment, and `TERM` set
    /// to `xterm-256color`. An error if there is no terminal to be had, or setsid(1) cannot be started; setsid(1) starts the
    /// program, and ends with an exit code other than 0 if it cannot.
    pub fn spawn(command: &Command, size: Size) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let terminal = open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        set_size(&controller, size)?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size.1, size.0, 0)));
        let before = modes(&tcgetattr(&terminal)?, &screen);
        // setsid(1) starts the program in a new session, whose controlling terminal is the new one.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(key, value),
                None => setsid.env_remove(key),
            };
        }
        setsid.env("TERM", "xterm-256color");
        setsid.stdin(Stdio::from(terminal.try_clone()?));
        setsid.stdout(Stdio::from(terminal.try_clone()?));
        setsid.stderr(Stdio::from(terminal.try_clone()?));
        let process = Process::spawn(&mut setsid)?;
        drop(setsid);
        let controller = File::from(controller);
        let written = Arc::new(AtomicU64::new(0));
        let closed = Arc::new(AtomicBool::new(false));
        let follower = Follower {
            controller: controller.try_clone()?,
            screen: Arc::clone(&screen),
            written: Arc::clone(&written),
            closed: Arc::clone(&closed),
        };
        Ok(Self {
            process,
            controller: Some(controller),
            terminal: Some(terminal),
            before,
            screen,
            written,
            follower: Some(thread::spawn(move || follower.follow())),
            closed,
        })
    }

    /// Presses keys, as the bytes that a terminal sends for them. An error after [`Self::close`].
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let controller = self.controller.as_mut().context("the terminal is gone")?;
        Ok(controller.write_all(keys.as_bytes())?)
    }

    /// The text of the screen, line by line; falsified if `TRACER_TEST_LIE` asks for that.
    pub fn text(&self) -> String {
        lie::screen(lock(&self.screen).screen().contents())
    }

    /// The screen with colours and other attributes; never falsified.
    pub fn screen(&self) -> vt100::Screen {
        lock(&self.screen).screen().clone()
    }

    /// Number of bytes that the program has written to the terminal so far, those with which it controls the screen included.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Waits until `is` returns true for the text of the screen, at most `limit` (see
    /// [`Place::limit`](super::probe::Place::limit)), and returns that text. An error if it has not by then: it has `what`, which
    /// names the condition, and the newest text.
    pub fn wait(&self, what: &str, limit: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let shown = || {
            let text = self.text();
            Ok(is(&text).then_some(text))
        };
        wait_for(what, limit, shown).with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// Changes the size of the terminal: the program gets SIGWINCH, unless it is the same size. An error after [`Self::close`].
    pub fn resize(&mut self, size: Size) -> Result<()> {
        lock(&self.screen).screen_mut().set_size(size.1, size.0);
        set_size(self.controller.as_ref().context("the terminal is gone")?, size)
    }

    /// Sends the program a signal. Errors as of [`Process::signal`].
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Closes the terminal, as a user who closes its window: the program gets SIGHUP. Does nothing if it is closed already.
    pub fn close(&mut self) {
        self.terminal = None;
        self.controller = None;
        self.closed.store(true, Relaxed);
        if let Some(follower) = self.follower.take() {
            follower.join().ok();
        }
    }

    /// Waits for the program's end, at most `limit`, and returns its exit status: see [`Process::wait`]. An error has the text of
    /// the screen, too.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// Checks that the modes of the terminal are what they were before the program started.
    ///
    /// # Errors
    /// The modes are different (the text has those before and now), or the terminal has been closed.
    pub fn check_restored(&self) -> Result<()> {
        let terminal = self.terminal.as_ref().context("the terminal is gone")?;
        let now = modes(&tcgetattr(terminal)?, &self.screen);
        if now != self.before {
            bail!("the terminal was {:?}, it is {now:?}", self.before);
        }
        Ok(())
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, Size(width, height): Size) -> Result<()> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

fn modes(termios: &Termios, screen: &Mutex<vt100::Parser>) -> Modes {
    let parser = lock(screen);
    let shown = parser.screen();
    Modes {
        input: format!(
            "{:?} {:?} {:?} {:?}",
            termios.input_modes, termios.output_modes, termios.local_modes, termios.control_modes
        ),
        alternate: shown.alternate_screen(),
        cursor_hidden: shown.hide_cursor(),
        mouse: format!("{:?}", shown.mouse_protocol_mode()),
    }
}

fn lock(screen: &Mutex<vt100::Parser>) -> std::sync::MutexGuard<'_, vt100::Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Updates the screen with what the program wrote. The library (vt100 0.16) panics on some text that was written for a larger
/// screen than the current one (a wide character or a line break at the edge). The screen is then made empty; the program, which
/// gets SIGWINCH after a resize, draws it again.
fn show(screen: &Mutex<vt100::Parser>, bytes: &[u8]) {
    let mut parser = lock(screen);
    let (height, width) = parser.screen().size();
    if panic::catch_unwind(AssertUnwindSafe(|| parser.process(bytes))).is_err() {
        *parser = vt100::Parser::new(height, width, 0);
    }
}

/// Reads what the program writes to the terminal, draws it on `screen` and adds its bytes to `written`, until the terminal is
/// closed or cannot be read.
struct Follower {
    controller: File,
    screen: Arc<Mutex<vt100::Parser>>,
    written: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

impl Follower {
    fn follow(mut self) {
        let mut bytes = vec![0; 64 << 10];
        let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while !self.closed.load(Relaxed) {
            let mut fds = [PollFd::new(&self.controller, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&wait)), Ok(1..)) {
                continue;
            }
            let Ok(count @ 1..) = self.controller.read(&mut bytes) else { return };
            show(&self.screen, &bytes[..count]);
            self.written.fetch_add(count as u64, Relaxed);
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.close();
    }
}
