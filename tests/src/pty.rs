//! A terminal of our own (pty(7)), with a program on it, and what its screen shows.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{Mode, OFlags, open},
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{process::Process, tracer::wait_for};

/// Width and height, in letters.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u16, pub u16);

/// A program on a terminal.
pub struct Pty {
    process: Process,
    /// `None`: the terminal was taken away.
    controller: Option<File>,
    terminal: Option<OwnedFd>,
    before: Modes,
    screen: Arc<Mutex<vt100::Parser>>,
    written: Arc<AtomicU64>,
}

/// What a program can change of a terminal.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Modes {
    input: String,
    alternate: bool,
    cursor_hidden: bool,
    mouse: String,
}

impl Pty {
    /// Starts `command` as the one program of a new terminal.
    pub fn spawn(command: &Command, size: Size) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let terminal = open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        set_size(&controller, size)?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size.1, size.0, 0)));
        let before = modes(&tcgetattr(&terminal)?, &screen);
        // A session of its own, with this as its terminal.
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
        follow(controller.try_clone()?, Arc::clone(&screen), Arc::clone(&written));
        let terminal = Some(terminal);
        Ok(Self { process, controller: Some(controller), terminal, before, screen, written })
    }

    /// Presses keys, as the bytes that a terminal sends for them.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let controller = self.controller.as_mut().context("the terminal is gone")?;
        Ok(controller.write_all(keys.as_bytes())?)
    }

    /// What is on the screen, line by line.
    pub fn text(&self) -> String {
        lock(&self.screen).screen().contents()
    }

    /// Bytes that the program has written to the terminal.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Waits until the screen shows what `is` looks for; gives its text.
    pub fn wait(&self, what: &str, limit: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let shown = || {
            let text = self.text();
            Ok(is(&text).then_some(text))
        };
        wait_for(what, limit, shown).with_context(|| format!("the screen:\n{}", self.text()))
    }

    pub fn resize(&mut self, size: Size) -> Result<()> {
        lock(&self.screen).screen_mut().set_size(size.1, size.0);
        set_size(self.controller.as_ref().context("the terminal is gone")?, size)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Takes the terminal away, as a window that is closed does.
    pub fn close(&mut self) {
        self.terminal = None;
        self.controller = None;
    }

    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit).with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// Whether the terminal is as it was before the program; else what is not.
    pub fn check_given_back(&self) -> Result<()> {
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

/// Reads what is written to the terminal until nobody has it open.
fn follow(mut controller: File, screen: Arc<Mutex<vt100::Parser>>, written: Arc<AtomicU64>) {
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = controller.read(&mut bytes) {
            lock(&screen).process(&bytes[..count]);
            written.fetch_add(count as u64, Relaxed);
        }
    });
}
