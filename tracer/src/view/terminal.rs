//! Takes the terminal, and restores it when the screen is closed, also after an error or a panic.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    mem::ManuallyDrop,
    os::fd::{AsFd, OwnedFd},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Size of the output buffer, in bytes: enough for a whole screen, so that it is written with one call of write(2).
const BUFFER: usize = 64 << 10;

/// The terminal in its alternate screen. It is restored when this is dropped, and by a panic.
///
/// ratatui's own terminal is never dropped: its drop panics if the terminal is gone, because it prints to stderr that it
/// cannot show the cursor.
pub struct Screen(pub ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>);

/// Where keys come from: stdin, or if that is no terminal, /dev/tty.
pub struct Keys(OwnedFd);

impl Keys {
    /// Opens stdin, or if that is no terminal, /dev/tty.
    ///
    /// # Errors
    /// The process has no terminal, or there is no file descriptor left.
    pub fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Ok(Self(stdin.as_fd().try_clone_to_owned()?));
        }
        Ok(Self(File::open("/dev/tty")?.into()))
    }

    /// Waits until there is something to read, at most for `limit`; a signal ends the wait, too.
    ///
    /// # Errors
    /// The terminal is gone. It must not be read then: at its end, crossterm 0.29 would read for ever.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            // A signal (the size has changed) ends the wait early.
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        if fds.iter().any(|fd| fd.revents().intersects(gone)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Whether the terminal has to be restored.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Screen {
    /// Takes the terminal: raw mode, alternate screen, mouse, no cursor. From then on, a panic restores it.
    ///
    /// # Errors
    /// The terminal cannot be written to, or its mode cannot be set.
    pub fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        enable_raw_mode()?;
        TAKEN.store(true, SeqCst);
        let mut out = BufWriter::with_capacity(BUFFER, io::stdout());
        let taken = execute!(out, EnterAlternateScreen, event::EnableMouseCapture, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(out)));
        match taken {
            Ok(terminal) => Ok(Self(ManuallyDrop::new(terminal))),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal, once. Does nothing if it was not taken.
fn restore() {
    if !TAKEN.swap(false, SeqCst) {
        return;
    }
    let mut out = io::stdout();
    // Errors are ignored: the terminal may be gone, and there is no other place to report them.
    _ = execute!(out, event::DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
    _ = disable_raw_mode();
    _ = out.flush();
}
