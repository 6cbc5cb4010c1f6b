use std::{
    env,
    hint::black_box,
    io::Read,
    os::unix::thread::JoinHandleExt,
    process::{Command, Stdio},
    sync::atomic::AtomicU32,
    thread,
    time::Instant,
};

use super::*;

/// More than the caches of threads take, so that each needs the lock of the heap.
const SIZE: usize = 16 << 10;

static STOPPED: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicU32 = AtomicU32::new(0);
static ANSWERED: AtomicU32 = AtomicU32::new(0);

fn allocate() {
    drop(black_box(Vec::<u8>::with_capacity(SIZE)));
}

fn pause() {
    thread::sleep(Duration::from_millis(1));
}

/// The handler of a signal: stops the thread, wherever it is, as long as `STOPPED` is true.
extern "C" fn stop(_: libc::c_int) {
    while STOPPED.load(SeqCst) {
        pause();
    }
}

/// Makes a thread hang with the lock of the heap, and then asks for the end.
#[test]
#[ignore = "ends its process: run by the test below"]
fn the_heap_is_locked() {
    let handler: extern "C" fn(libc::c_int) = stop;
    // SAFETY: the handler reads an atomic and sleeps.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let hangs = thread::spawn(|| {
        loop {
            allocate();
        }
    });
    thread::spawn(|| {
        loop {
            while ASKED.load(SeqCst) == ANSWERED.load(SeqCst) {
                pause();
            }
            allocate();
            ANSWERED.store(ASKED.load(SeqCst), SeqCst);
        }
    });
    for round in 1..1_000 {
        STOPPED.store(true, SeqCst);
        // SAFETY: the thread has a handle, and does not end.
        unsafe { libc::pthread_kill(hangs.as_pthread_t(), libc::SIGUSR1) };
        pause();
        ASKED.store(round, SeqCst);
        let answered = (0..200).any(|_| {
            pause();
            ANSWERED.load(SeqCst) == round
        });
        if !answered {
            if env::var_os("WITHOUT").is_none() {
                end_after(Duration::from_millis(100), true);
            }
            allocate();
            unreachable!("the heap is not locked");
        }
        STOPPED.store(false, SeqCst);
        pause();
    }
    unreachable!("the thread never had the lock");
}

/// Runs the test above with these environment variables. Returns its exit code (`None`: it did not end within `limit`, or a
/// signal ended it), and what it wrote to stderr.
fn run(variables: &[(&str, &str)], limit: Duration) -> (Option<i32>, String) {
    let name = "runtime::shutdown::last_resort::tests::the_heap_is_locked";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("MALLOC_ARENA_MAX", "1")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + limit;
    let mut ended = None;
    while ended.is_none() && Instant::now() < until {
        pause();
        ended = child.try_wait().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (ended.and_then(|status| status.code()), text)
}

#[test]
fn a_program_whose_heap_is_locked_ends_with_a_message() {
    let (code, text) = run(&[], Duration::from_secs(20));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("unwritten lines are lost\nwhether the rule has ended"), "{text}");
}

#[test]
fn it_would_not_end_otherwise() {
    assert_eq!(run(&[("WITHOUT", "1")], Duration::from_secs(2)).0, None);
}
