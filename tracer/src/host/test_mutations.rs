//! For tests: damages real inputs at random, runs a parser on each of them, and measures what it takes.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "each run ends with a line about what was measured, and a parser that hangs is named"
)]

use std::{
    env, fs, hint, process,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

/// The CPU time that a parser may take for one input; more if nothing is optimized.
const LONGEST: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 });
/// How many times an input is parsed if it takes longer than all before it: the shortest time counts, because a virtual CPU that
/// its host takes away seems to run.
const TRIES: u32 = 5;
/// How long a parser may not end, by the wall clock, until the process is aborted.
const HANG: Duration = Duration::from_mins(2);
/// How many inputs a run has if TRACER_TEST_MUTATIONS does not say another number.
const USUAL: u64 = 2_000;
/// The most bytes of a damaged input.
const LARGEST: usize = 64 * 1024;

/// A run of one parser on damaged inputs, and what was measured.
pub(crate) struct Run {
    parser: &'static str,
    began: Instant,
    /// How many inputs were parsed, the current one included.
    count: Arc<AtomicU64>,
    slowest: Duration,
    /// Bytes of the largest input.
    largest: usize,
    /// KiB of this process's memory when the run began.
    memory_kib: u64,
    /// Whoever watches the run stops when this is dropped.
    _watched: Sender<()>,
}

impl Run {
    /// Begins a run. `parser`: its name, for messages. A parser that does not end within two minutes aborts the process.
    pub(crate) fn of(parser: &'static str) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let watched = watch(parser, Arc::clone(&count));
        let memory_kib = memory_kib("VmRSS:");
        let began = Instant::now();
        Self {
            parser,
            began,
            count,
            slowest: Duration::ZERO,
            largest: 0,
            memory_kib,
            _watched: watched,
        }
    }

    /// How many inputs the run has: TRACER_TEST_MUTATIONS, or 2,000 if that is not set or no number.
    pub(crate) fn inputs() -> u64 {
        variable("TRACER_TEST_MUTATIONS").unwrap_or(USUAL)
    }

    /// Parses an input and measures the CPU time; returns what `parse` returns.
    ///
    /// # Panics
    /// It takes more than 10 ms of CPU time (200 ms without optimization), or the run takes longer than TRACER_TEST_LIMIT, in
    /// seconds, which is checked once in 1,024 inputs.
    pub(crate) fn parse<T>(&mut self, input: &[u8], parse: impl Fn(&[u8]) -> T) -> T {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (result, mut took) = timed(input, &parse);
        if took > self.slowest {
            took = (1..TRIES).fold(took, |took, _| took.min(timed(input, &parse).1));
            self.slowest = self.slowest.max(took);
        }
        self.largest = self.largest.max(input.len());
        assert!(
            took <= LONGEST,
            "{}: input {number} of {} bytes takes {took:?}: {}",
            self.parser,
            input.len(),
            input.get(..4_096).unwrap_or(input).escape_ascii()
        );
        if let Some(limit) = variable("TRACER_TEST_LIMIT").filter(|_| number.is_multiple_of(1_024))
        {
            let ran = self.began.elapsed().as_secs();
            assert!(ran <= limit, "{}: only {number} inputs in {ran} s", self.parser);
        }
        result
    }

    /// Ends the run with a line about it.
    ///
    /// # Panics
    /// The process's memory has grown by more than TRACER_TEST_MEMORY MiB; without that, it may grow: other tests run in it.
    pub(crate) fn end(self) {
        let grown_kib = memory_kib("VmHWM:").saturating_sub(self.memory_kib);
        println!(
            "{}: {} inputs of at most {} bytes in {} s; the slowest took {} us; memory grew by {grown_kib} KiB at most",
            self.parser,
            self.count.load(Ordering::Relaxed),
            self.largest,
            self.began.elapsed().as_secs(),
            self.slowest.as_micros(),
        );
        if let Some(most) = variable::<u64>("TRACER_TEST_MEMORY") {
            assert!(grown_kib <= most * 1024, "{}: memory", self.parser);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            // The inputs are the same in each run: this says which one it was.
            eprintln!("{}: after {} inputs", self.parser, self.count.load(Ordering::Relaxed));
        }
    }
}

/// Runs a parser on damaged inputs, made of those in `corpus`.
///
/// # Panics
/// As [`Run::parse`] and [`Run::end`].
pub(crate) fn run<T>(parser: &'static str, corpus: &[&[u8]], parse: impl Fn(&[u8]) -> T) {
    let mut run = Run::of(parser);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut input = Vec::new();
    for number in 0..Run::inputs() {
        if number % 16 == 0 {
            input = random.of(corpus).to_vec();
        }
        damage(&mut input, corpus, &mut random);
        run.parse(&input, &parse);
    }
    run.end();
}

/// Calls `run`, and returns the CPU time of the calling thread that this took: other programs on the CPU do not count.
pub(crate) fn cpu_time(run: impl FnOnce()) -> Duration {
    let begin = thread_time();
    run();
    thread_time().saturating_sub(begin)
}

/// How long the calling thread has run.
fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn timed<T>(input: &[u8], parse: impl Fn(&[u8]) -> T) -> (T, Duration) {
    let mut result = None;
    let took = cpu_time(|| result = Some(hint::black_box(parse(hint::black_box(input)))));
    (result.unwrap(), took)
}

/// The number in an environment variable; `None`: it is not set, or no number.
fn variable<N: FromStr>(name: &str) -> Option<N> {
    env::var(name).ok().and_then(|it| it.parse().ok())
}

/// Memory of this process by a line of /proc/self/status, in KiB.
fn memory_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Aborts the process if the count stays the same for too long: a parser that never ends would stop all tests. Ends when what it
/// returns is dropped.
fn watch(parser: &'static str, count: Arc<AtomicU64>) -> Sender<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut last = u64::MAX;
        while receiver.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            let now = count.load(Ordering::Relaxed);
            if now == last {
                eprintln!("{parser}: input {} does not end", now.saturating_sub(1));
                process::abort();
            }
            last = now;
        }
    });
    sender
}

/// Changes an input in one of six ways: cuts its end or a part of it off, repeats a part, appends another input, inserts a byte,
/// or flips up to eight bits. Cuts it to 64 KiB.
fn damage(input: &mut Vec<u8>, corpus: &[&[u8]], random: &mut Random) {
    let (from, to) = (random.below(input.len() + 1), random.below(input.len() + 1));
    let part = from.min(to)..from.max(to);
    match random.below(6) {
        0 => input.truncate(from),
        1 => drop(input.drain(part)),
        2 => {
            let again = input[part].to_vec();
            input.splice(from..from, again);
        }
        3 => input.extend_from_slice(random.of(corpus)),
        4 => {
            let bytes = [0, b'\n', b' ', b':', b'-', b',', b'9', 0xff];
            input.insert(from, bytes[random.below(bytes.len())]);
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(input.len().max(1));
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    input.truncate(LARGEST);
}

/// Random numbers that are the same in every run (xorshift64*, Vigna 2016), from a seed that must not be 0 (not checked): of 0,
/// all numbers are 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number less than `limit`; 0 if that is 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let number = (self.next() >> 32) % u64::try_from(limit.max(1)).unwrap();
        usize::try_from(number).unwrap()
    }

    /// One of these inputs, of which there must be at least one.
    pub(crate) fn of<'a>(&mut self, corpus: &[&'a [u8]]) -> &'a [u8] {
        corpus[self.below(corpus.len())]
    }
}

#[test]
#[should_panic(expected = "parser: input 3 of 2 bytes takes")]
fn an_input_that_takes_too_long_is_named() {
    let mut run = Run::of("parser");
    for input in [&b"a"[..], b"b", b"c", b"dd"] {
        run.parse(input, |input| {
            let begin = thread_time();
            while input == b"dd" && thread_time().saturating_sub(begin) <= LONGEST {}
        });
    }
}
