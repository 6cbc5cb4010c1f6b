//! Handles signals from the first instruction on, until [`super::run`] takes them over: during a start nothing reads flags
//! yet, and a start can wait for anything.
//!
//! The signals are blocked in every thread, and one thread waits for them. If the start has made nothing that outlives
//! the program, this thread ends the program immediately. If it has, the start gets a moment to notice that it should
//! stop; if it does not (because it waits for something), this thread undoes what was made, and ends the program.
//!
//! Also later, this module undoes what a start made, and ends a program whose work or last steps hang.

use std::{
    io, mem, ptr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::last_resort;

/// How long a start may take to notice that it should stop, before this module's thread undoes it.
const GRACE: Duration = Duration::from_millis(400);
/// How long undoing may take; the program ends without waiting longer.
const UNDOING: Duration = Duration::from_millis(400);
/// How long the last steps of the program may take, without undoing.
const LAST_STEPS: Duration = Duration::from_millis(200);
/// Longest wait for a signal, before the thread checks whether the signals were taken over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Undoes what a start has made. Returns whether all of it is undone.
type Undo = Box<dyn FnOnce() -> bool + Send>;

/// The signal that asked the program to stop; 0: none.
static STOP_SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Whether SIGHUP was ignored when the program began: see [`is_left_out`].
static HANG_UP_IGNORED: AtomicBool = AtomicBool::new(false);
static STATE: Mutex<State> =
    Mutex::new(State { taken: false, over: false, undo: None, thread: None });
/// Notified when the signals are taken over.
static TAKEN: Condvar = Condvar::new();

/// Who handles the signals, and what is to be undone.
struct State {
    /// Whether the signals were taken over from the thread of this module.
    taken: bool,
    /// Whether the thread of this module ends the process, because of a signal.
    over: bool,
    /// What undoes the start (see [`undo_with`]); `None`: there is nothing to undo.
    undo: Option<Undo>,
    /// The thread of this module; `None`: it could not be started, or the signals were taken over.
    thread: Option<JoinHandle<()>>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to wait for SIGINT, SIGTERM and SIGHUP, which end the program until `run` takes them over. A SIGHUP that is
/// ignored now stays ignored. To be called before anything else. If waiting cannot begin, signals have their default
/// actions.
pub fn begin() {
    HANG_UP_IGNORED.store(is_left_out(libc::SIGHUP), SeqCst);
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

/// The number of the first signal that asked the program to stop; `None`: none has.
pub fn stop_signal() -> Option<i32> {
    Some(STOP_SIGNAL.load(SeqCst)).filter(|signal| *signal != 0)
}

/// Notes a signal that asks the program to stop; of several, the first is kept: see [`stop_signal`].
pub(super) fn request_stop(signal: i32) {
    // Only the first one is kept.
    _ = STOP_SIGNAL.compare_exchange(0, signal, SeqCst, SeqCst);
}

/// Sets how the start is undone if the program has to end while it waits for something: `undo` returns whether all was
/// undone; `None`: there is nothing to undo. It runs in a thread of its own, and must be safe while the rest of the program
/// runs. It should take less than 400 ms: nothing waits longer for it.
pub fn undo_with(undo: Option<Undo>) {
    state().undo = undo;
}

/// Makes the program end within 200 ms (600 ms if something is to be undone), even if its last steps hang: see
/// [`last_resort`].
pub(super) fn end_soon() {
    end_soon_with(state().undo.is_some());
}

/// As [`end_soon`]. `undoes`: whether something is to be undone.
fn end_soon_with(undoes: bool) {
    last_resort::end_after(if undoes { UNDOING + LAST_STEPS } else { LAST_STEPS }, undoes);
}

/// Undoes what the start has made, and waits for that at most 400 ms. Later calls undo nothing.
pub(super) fn undo() -> Undone {
    let undo = state().undo.take();
    run_bounded(undo)
}

/// How much of what the start made was undone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Undone {
    /// There was nothing to undo.
    Nothing,
    All,
    /// Undoing failed, or took too long.
    Unknown,
}

/// Runs `undo` in a thread of its own, and waits for it at most [`UNDOING`].
fn run_bounded(undo: Option<Undo>) -> Undone {
    let Some(undo) = undo else { return Undone::Nothing };
    let (done, wait) = mpsc::channel();
    let undoing = thread::Builder::new().name("undo".into()).spawn(move || {
        let all = undo();
        // The result is not waited for any more if it took too long.
        _ = done.send(all);
    });
    let all = undoing.is_ok() && wait.recv_timeout(UNDOING).is_ok_and(|all| all);
    if all { Undone::All } else { Undone::Unknown }
}

/// Takes over the signals from the thread of this module, and unblocks them. The caller's handlers must be installed.
/// Returns the signal that asked the program to stop before; `None`: none did. Does not return if that thread already ends
/// the program.
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
        // The thread cannot panic, and ends at its next check, after at most 20 ms.
        _ = thread.join();
        mask(libc::SIG_UNBLOCK, &set(&SIGNALS));
    }
    stop_signal()
}

/// Gives signals their default actions, unless one has already asked the program to stop. A SIGHUP that was ignored when the
/// program began, or is ignored now, is ignored.
pub(super) fn restore_default_signals() {
    if stop_signal().is_none() && take_over().is_none() {
        let ignored = HANG_UP_IGNORED.load(SeqCst) || is_left_out(libc::SIGHUP);
        for signal in SIGNALS {
            set_action(signal, signal == libc::SIGHUP && ignored);
        }
    }
}

/// Has this process ignore the signal, or gives it its default action.
fn set_action(signal: libc::c_int, ignored: bool) {
    let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    #[expect(unsafe_code, reason = "signal(2)")]
    // SAFETY: neither action has a handler.
    unsafe {
        libc::signal(signal, action);
    }
}

/// Ends the process as this signal does by default; with exit code 128 + `signal` if the signal does not end it.
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

/// Waits for signals until they are taken over, and ends the program if one comes before that.
fn watch(signals: &libc::sigset_t) {
    loop {
        let signal = wait_for(signals);
        if let Some(signal) = signal {
            request_stop(signal);
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

/// Undoes what the start has made, and ends the program by this signal. Returns only if there is something to undo, and the
/// signals are taken over within [`GRACE`]: then the start itself notices that it should stop.
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
    end_soon_with(undo.is_some());
    _ = run_bounded(undo);
    die(signal);
}

/// Whether this signal is SIGHUP and is ignored now, as nohup(1) has it for the program that it starts. (A shell has SIGINT
/// ignored for its background jobs, too; this program takes it nevertheless.)
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

/// Changes which signals are blocked in the calling thread and those that it starts later. Returns whether that
/// worked.
fn mask(how: libc::c_int, signals: &libc::sigset_t) -> bool {
    #[expect(unsafe_code, reason = "pthread_sigmask(3)")]
    // SAFETY: the set is initialised, and the old one is not written anywhere.
    unsafe {
        libc::pthread_sigmask(how, signals, ptr::null_mut()) == 0
    }
}

/// Waits for one of these signals, at most [`POLL_INTERVAL`]; `None`: none came, or waiting failed.
fn wait_for(signals: &libc::sigset_t) -> Option<i32> {
    let limit = libc::timespec {
        tv_sec: 0,
        tv_nsec: libc::c_long::from(i32::try_from(POLL_INTERVAL.as_nanos()).unwrap_or(0)),
    };
    #[expect(unsafe_code, reason = "sigtimedwait(2)")]
    // SAFETY: the set and the time live until the call returns, and nothing else is written.
    let signal = unsafe { libc::sigtimedwait(signals, ptr::null_mut(), &raw const limit) };
    match signal {
        signal if signal > 0 => Some(signal),
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) => {
            // The call cannot wait at all. Without a pause, the caller's loop would use a whole CPU.
            thread::sleep(POLL_INTERVAL);
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The action of SIGHUP in this process, 1: it is ignored.
    fn is_ignored() -> bool {
        is_left_out(libc::SIGHUP)
    }

    /// In a child process: signals are of a whole process, and other tests run in this one.
    #[test]
    fn after_the_work_a_hang_up_is_ignored_as_nohup_has_it() {
        const ROLE: &str = "TRACER_TEST_NOHUP";
        if let Ok(role) = std::env::var(ROLE) {
            set_action(libc::SIGHUP, role == "ignored");
            begin();
            // As the work does, which opens its output again at a SIGHUP.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _handlers = runtime.block_on(async { super::super::Signals::new().unwrap() });
            assert!(!is_ignored());
            restore_default_signals();
            assert_eq!(is_ignored(), role == "ignored");
            return;
        }
        for role in ["ignored", "default"] {
            let ended = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("runtime::shutdown::early::tests::after_the_work_a_hang_up_is_ignored_as_nohup_has_it")
                .env(ROLE, role)
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&ended.stdout);
            assert!(ended.status.success() && shown.contains("1 passed"), "{role}: {shown}");
        }
    }
}
