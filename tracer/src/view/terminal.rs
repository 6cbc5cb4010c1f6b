//! The terminal: taken, and given back whatever happens.

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

/// Enough for a whole screen, so that it is written in one piece.
const BUFFER: usize = 64 << 10;

/// A terminal that shows our screen and not its own. Dropping it, and a panic, give it back.
///
/// What ratatui does when its own is dropped, we have done: it would panic where the terminal is gone
/// (it tells stderr that the cursor cannot be shown).
pub struct Screen(pub ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>);

/// Where keys come from: stdin, or the terminal itself where stdin is something else.
pub struct Keys(OwnedFd);

impl Keys {
    /// # Errors
    /// There is no terminal.
    pub fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Ok(Self(stdin.as_fd().try_clone_to_owned()?));
        }
        Ok(Self(File::open("/dev/tty")?.into()))
    }

    /// Waits until there is something to be read, `limit` at most.
    ///
    /// # Errors
    /// The terminal is gone. It must not be read then: crossterm 0.29 reads on for ever at its end.
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

/// Whether the terminal has to be given back.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Screen {
    /// # Errors
    /// A terminal that cannot be written to or set.
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

/// The terminal as it was. Nothing happens where it was not taken, or given back already.
fn restore() {
    if !TAKEN.swap(false, SeqCst) {
        return;
    }
    let mut out = io::stdout();
    // The terminal may be gone: nobody is left to tell then.
    _ = execute!(out, event::DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
    _ = disable_raw_mode();
    _ = out.flush();
}
