//! The terminal: taken, and given back whatever happens.

use std::{
    io::{self, BufWriter, Stdout, Write},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, event, execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Enough for a whole screen, so that it is written in one piece.
const BUFFER: usize = 64 << 10;

/// A terminal that shows our screen and not its own. Dropping it, and a panic, give it back.
pub struct Screen(pub Terminal<CrosstermBackend<BufWriter<Stdout>>>);

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
                give_back();
                before(info);
            }));
        });
        enable_raw_mode()?;
        TAKEN.store(true, SeqCst);
        let mut out = BufWriter::with_capacity(BUFFER, io::stdout());
        let taken = execute!(out, EnterAlternateScreen, event::EnableMouseCapture, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(out)));
        match taken {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// The terminal as it was. Nothing happens where it was not taken, or given back already.
fn give_back() {
    if !TAKEN.swap(false, SeqCst) {
        return;
    }
    let mut out = io::stdout();
    // The terminal may be gone: nobody is left to tell then.
    _ = execute!(out, event::DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
    _ = disable_raw_mode();
    _ = out.flush();
}
