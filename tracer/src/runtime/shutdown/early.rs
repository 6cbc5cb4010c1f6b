//! Signals from the first instruction on, until [`super::run`] takes them over: a start has nobody yet
//! who could look after them, and it can wait for anything.
//!
//! They are blocked in every thread and wait for a thread of their own. It ends the program at once
//! where a start has made nothing that outlives it. Where it has, the start gets a moment to see that
//! it is to end; if it does not (it waits for something), this thread undoes what was made.

use std::{
    io, mem, ptr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long a start that is to end may take until it sees that.
const GRACE: Duration = Duration::from_millis(400);
/// How long undoing may take.
const UNDOING: Duration = Duration::from_millis(400);
/// How often the thread looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(20);

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Says whether everything is undone.
type Undo = Box<dyn FnOnce() -> bool + Send>;

/// The signal that asked to end; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);
static STATE: Mutex<State> =
    Mutex::new(State { taken: false, over: false, undo: None, thread: None });
/// Somebody else looks after the signals.
static TAKEN: Condvar = Condvar::new();

struct State {
    taken: bool,
    /// The process is about to end.
    over: bool,
    undo: Option<Undo>,
    thread: Option<JoinHandle<()>>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before anything else in the program. Where it cannot be done, signals do what they do by default.
pub fn begin() {
    let signals = set(&SIGNALS.into_iter().filter(|it| !is_left_out(*it)).collect::<Vec<_>>());
    if !mask(libc::SIG_BLOCK, &signals) {
        return;
    }
    let spawned = thread::Builder::new().name("signals".into()).spawn(move || watch(&signals));
    match spawned {
        Ok(thread) => state().thread = Some(thread),
        Err(_) => _ = mask(libc::SIG_UNBLOCK, &signals),
    }
}

/// The signal that asked to end.
pub fn asked() -> Option<i32> {
    Some(ASKED.load(SeqCst)).filter(|signal| *signal != 0)
}

pub(super) fn ask(signal: i32) {
    // The first one counts.
    _ = ASKED.compare_exchange(0, signal, SeqCst, SeqCst);
}

/// What has to be done if the program must end now while it waits for something; `None`: nothing.
/// It must not take long, and must go together with what the rest of the program does meanwhile.
pub fn undo_with(undo: Option<Undo>) {
    state().undo = undo;
}

/// Undoes what there is to undo, for a while.
pub(super) fn undo() -> Undone {
    let undo = state().undo.take();
    run_bounded(undo)
}

/// What has become of what was to be undone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Undone {
    Nothing,
    All,
    /// It failed, or took too long.
    Unknown,
}

fn run_bounded(undo: Option<Undo>) -> Undone {
    let Some(undo) = undo else { return Undone::Nothing };
    let (done, wait) = mpsc::channel();
    let undoing = thread::Builder::new().name("undo".into()).spawn(move || {
        let all = undo();
        // Nobody waits any more where it took too long.
        _ = done.send(all);
    });
    let all = undoing.is_ok() && wait.recv_timeout(UNDOING).is_ok_and(|all| all);
    if all { Undone::All } else { Undone::Unknown }
}

/// Whoever calls this looks after the signals from now on: their handlers must be there. Says which signal
/// came before. Does not return where it came too long ago: then the program is about to end.
pub(super) fn take_over() -> Option<i32> {
    let thread = {
        let mut state = state();
        while state.over {
            state = TAKEN.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken = true;
        TAKEN.notify_all();
        state.thread.take()
    };
    if let Some(thread) = thread {
        // It cannot panic, and ends at its next look.
        _ = thread.join();
        mask(libc::SIG_UNBLOCK, &set(&SIGNALS));
    }
    asked()
}

/// From here on signals end the process as they do by default, unless it is about to end by one.
pub(super) fn give_back() {
    if asked().is_none() && take_over().is_none() {
        for signal in SIGNALS.into_iter().filter(|it| !is_left_out(*it)) {
            #[expect(unsafe_code, reason = "signal(2)")]
            // SAFETY: the default action has no handler.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

/// Ends the process as this signal does by default.
pub fn die(signal: i32) -> ! {
    #[expect(unsafe_code, reason = "signal(2), raise(3) and _exit(2)")]
    // SAFETY: the default action has no handler; raise(3) and _exit(2) take numbers.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        mask(libc::SIG_UNBLOCK, &set(&[signal]));
        libc::raise(signal);
        libc::_exit(128 + signal)
    }
}

fn watch(signals: &libc::sigset_t) {
    loop {
        let signal = wait_for(signals);
        if let Some(signal) = signal {
            ask(signal);
        }
        let state = state();
        if state.taken {
            return;
        }
        if let Some(signal) = signal {
            end(signal, state);
            return;
        }
    }
}

/// Returns where somebody took over in time.
fn end(signal: i32, mut state: MutexGuard<'_, State>) {
    if state.undo.is_some() {
        let waited = TAKEN.wait_timeout_while(state, GRACE, |state| !state.taken);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.taken {
            return;
        }
    }
    state.over = true;
    let undo = state.undo.take();
    drop(state);
    _ = run_bounded(undo);
    die(signal);
}

/// A signal that whoever started us wants to be ignored, as nohup(1) does. (A shell's background
/// jobs ignore SIGINT, too, which we do not.)
fn is_left_out(signal: libc::c_int) -> bool {
    #[expect(unsafe_code, reason = "sigaction(2)")]
    // SAFETY: all-zero is a valid sigaction, which is only written to.
    let ignored = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    };
    signal == libc::SIGHUP && ignored
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    #[expect(unsafe_code, reason = "sigsetops(3)")]
    // SAFETY: the set is initialised by sigemptyset before anything reads it.
    unsafe {
        let mut set = mem::MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Of the calling thread and those that it starts.
fn mask(how: libc::c_int, signals: &libc::sigset_t) -> bool {
    #[expect(unsafe_code, reason = "pthread_sigmask(3)")]
    // SAFETY: the set is initialised; the old one is not asked for.
    unsafe {
        libc::pthread_sigmask(how, signals, ptr::null_mut()) == 0
    }
}

/// For a while.
fn wait_for(signals: &libc::sigset_t) -> Option<i32> {
    let limit = libc::timespec {
        tv_sec: 0,
        tv_nsec: libc::c_long::from(i32::try_from(LOOK.as_nanos()).unwrap_or(0)),
    };
    #[expect(unsafe_code, reason = "sigtimedwait(2)")]
    // SAFETY: the set and the time outlive the call; nothing else is asked for.
    let signal = unsafe { libc::sigtimedwait(signals, ptr::null_mut(), &raw const limit) };
    match signal {
        signal if signal > 0 => Some(signal),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {
            // It cannot wait at all, which must not become a loop without rest.
            thread::sleep(LOOK);
            None
        }
        _ => None,
    }
}
