//! Runs the tests on this machine's kernel, as root, one after another; if no test is deselected, those that mostly wait run at
//! the same time as the others, some at a time.
//!
//! `TRACER_BIN` is the program under test, `TRACER_BACKENDS` are the backends that must work here (by default those that do),
//! `TRACER_DEFAULT_BACKEND` is the backend that the program must choose by default, `TRACER_TEST_ENV` is where the tests run
//! (`vm`, or anything else for the host), `TRACER_TEST_LIMIT` is how many seconds a test may take (by default 120, in a guest
//! 480), `TRACER_TEST_LIE` is how the program's output and the kernel's answers are falsified. Tests read further variables,
//! which `tests/README.md` lists. The arguments are those of `cargo test`'s harness; `helper ...` starts a helper process instead
//! ([`helper::main`]).
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the test runner")]

use std::{
    any::Any,
    collections::VecDeque,
    env,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer_tests::{
    cases::{self, Case, Plan},
    harness::{
        lie,
        probe::Place,
        process,
        tracer::{shared, shared_record},
    },
    helper,
};

/// Longest time that a test may take, four times that in a guest, unless `TRACER_TEST_LIMIT` is set. The slowest tests load a
/// host for more than a minute, so that TIME_WAITs end meanwhile.
const LIMIT: Duration = Duration::from_mins(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [first, rest @ ..] = &arguments[..]
        && first == "helper"
    {
        return match helper::main(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("helper {rest:?}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    raise_file_limit();
    process::reset_signals();
    let mut arguments = Arguments::from_args();
    // One after another, unless the arguments say otherwise, because all tests share one kernel, and each tracer sees everything
    // that happens in it.
    arguments.test_threads.get_or_insert(1);
    let plan = match lie::check().and_then(|()| Plan::find()) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("cannot choose the tests: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut cases = cases::all(&plan);
    if !arguments.list {
        println!("backends: {}", plan.backends.join(", "));
        for case in &cases {
            if let Some(reason) = &case.excuse {
                println!("excused: {}: {reason}", case.name);
            }
        }
        // When all tests run, those that mostly wait run at the same time as the others.
        let everything = arguments.filter.is_none() && arguments.skip.is_empty();
        if everything && !arguments.ignored {
            cases = begin(cases);
        }
    }
    let conclusion = libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect());
    let mut ended_well = true;
    // The recorders end first, because they need the namespaces that `shared::stop` closes.
    for ended in [shared_record::stop_all(), shared::stop()] {
        if let Err(error) = ended {
            eprintln!("a shared tracer failed at its end: {error:#}");
            ended_well = false;
        }
    }
    for drift in shared::drifts() {
        println!("{drift}");
    }
    for line in cases::doctor::table() {
        println!("{line}");
    }
    print_durations();
    if ended_well { conclusion.exit_code() } else { ExitCode::FAILURE }
}

/// How many of the tests that mostly wait run at the same time: each starts several tracers, which list the sockets of all network
/// namespaces of the host, those of the other tests included.
const AT_ONCE: usize = 6;

/// A test that runs on another thread.
type Running = Receiver<thread::Result<anyhow::Result<()>>>;

/// Begins to run the tests that mostly wait, [`AT_ONCE`] at the same time and in this order, each on a thread of its own. Returns all
/// tests: in place of these, tests that only wait for them. A test that is skipped is returned as it is.
fn begin(cases: Vec<Case>) -> Vec<Case> {
    let mut queue = VecDeque::new();
    let mut begin_one = |case: Case| {
        if case.excuse.is_some() || !case.waits {
            return case;
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        queue.push_back((case.run, sender));
        let running: Mutex<Option<Running>> = Mutex::new(Some(receiver));
        let run = Arc::new(move || {
            let running = running.lock().unwrap_or_else(PoisonError::into_inner).take();
            let running = running.ok_or_else(|| anyhow::anyhow!("it was waited for before"))?;
            running.recv()?.unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        Case { run, ..case }
    };
    let cases = cases.into_iter().map(&mut begin_one).collect();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..AT_ONCE {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            while let Some((run, sender)) = next() {
                let result = thread::spawn(move || run()).join();
                // Whoever waits for it may have ended.
                drop(sender.send(result));
            }
        });
    }
    cases
}

static DURATIONS: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn durations() -> MutexGuard<'static, Vec<(Duration, String)>> {
    DURATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the seconds of each test, slowest first.
fn print_durations() {
    let mut durations = durations();
    durations.sort_by(|one, other| other.cmp(one));
    for (duration, name) in &*durations {
        println!("{:>7.1} s {name}", duration.as_secs_f64());
    }
}

/// Sets the limit of open files to 16,384, because some workloads hold thousands of sockets. If that fails, these workloads fail
/// with EMFILE.
fn raise_file_limit() {
    let limit = Some(16_384);
    let maximum = getrlimit(Resource::Nofile).maximum.max(limit);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum }).ok();
}

fn trial(case: Case) -> Trial {
    let Case { name, run, excuse, .. } = case;
    let title = name.clone();
    let trial = Trial::test(name, move || {
        let start = Instant::now();
        let result = watched(&title, Arc::clone(&run));
        let took = start.elapsed();
        if let Err(message) = &result {
            // Printed now, and not only at the end of the run, for a person who watches a guest.
            println!("FAILED {title} after {:.1} s: {message}", took.as_secs_f64());
            io::stdout().flush().ok();
        }
        durations().push((took, title));
        result.map_err(Failed::from)
    });
    if excuse.is_some() { trial.with_kind("excused").with_ignored_flag(true) } else { trial }
}

/// Runs a test on a new thread, and returns its result, with an error or a panic as text. A test that takes too long fails, and
/// all child processes are killed, those of other tests included.
fn watched(
    name: &str,
    run: Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
) -> Result<(), String> {
    let asked = env::var("TRACER_TEST_LIMIT").ok().and_then(|seconds| seconds.parse().ok());
    let limit = asked.map_or_else(|| Place::get().limit(LIMIT), Duration::from_secs);
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let result = panic::catch_unwind(AssertUnwindSafe(|| run()));
        sender.send(result).ok();
    });
    match receiver.recv_timeout(limit) {
        Ok(Ok(result)) => result.map_err(|error| format!("{error:#}")),
        Ok(Err(panic)) => Err(format!("it panicked: {}", panic_text(panic.as_ref()))),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            process::kill_all();
            Err(format!("{name} did not end within {limit:?}"))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
