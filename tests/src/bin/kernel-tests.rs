//! Runs the tests on this machine's kernel, as root, one after another; if no test is deselected, those that mostly wait run at
//! the same time as the others.
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
    env,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, channel},
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
            cases = cases.into_iter().map(|it| if it.waits { begin(it) } else { it }).collect();
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

/// Starts the test now on a new thread, and returns a test that only waits for that thread. A test that is skipped is returned as
/// it is.
fn begin(case: Case) -> Case {
    let Case { name, run, excuse, waits } = case;
    if excuse.is_some() {
        return Case { name, run, excuse, waits };
    }
    let running = Mutex::new(Some(thread::spawn(move || run())));
    let run = Arc::new(move || {
        let running = running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let running = running.ok_or_else(|| anyhow::anyhow!("it was waited for before"))?;
        running.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    });
    Case { name, run, excuse, waits }
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
