//! Runs a command line: sets up log and signals, opens and attaches what the command needs, runs it, and gives the exit code.
//! Only this module uses all others.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory as _};
use tracer_common::Kind;

use crate::{
    cli::{self, Cli, Command, StreamFormat},
    commands::{
        advise::Advice,
        agent,
        doctor::{self, Doctor},
        record, replay, report, top, tuples,
    },
    config::{
        self, AdviseConfig, AgentConfig, DoctorConfig, KernelConfig, RecordConfig, SpreadConfig,
        Task, TopConfig, TuplesConfig,
    },
    doctor::verdict::Verdict,
    error::{Error, Exit},
    export::sink::Sink,
    format::text,
    host::callers::Callers,
    kernel::object::{BPF_OBJECT, MISSING},
    ledger::trace,
    runtime::{log, memory, sandbox::User, shutdown, stdout},
    spread::{self, Agent},
};

/// The name of the command whose exit codes are verdicts.
const DOCTOR: &str = "doctor";

/// Sets up the heap and the signals. To be called before anything else, while there is only one thread.
pub fn begin() {
    memory::share_heap();
    shutdown::begin();
}

/// Starts the log and runs the command line, until the command ends or a signal ends it. Returns the exit code of a command that
/// did what it was asked: 0, except for the verdict of `tracer doctor`. To be called once, after [`begin`].
///
/// # Errors
/// Any [`Error`], if the command line is wrong or the command failed; [`exit`] gives its exit code.
pub fn run(cli: &Cli) -> Result<ExitCode, Error> {
    log::start(cli.global.verbose, cli.global.log_format)?;
    let kernel = KernelConfig::try_from(cli)?;
    note_old_spelling(&cli.command);
    let done = match Task::try_from(&cli.command)? {
        Task::Doctor(config) => return run_doctor(&kernel, config),
        Task::Top(config) => run_top(&kernel, config),
        Task::Replay(config) => replay::run(&config),
        Task::Record(config) => run_record(&kernel, config),
        Task::Tuples(config) => run_tuples(&kernel, config),
        Task::Report(config) => stdout::print(&report::run(&config)?).map(drop),
        Task::Spread(config) => run_spread(&kernel, config),
        Task::Agent(file) => run_agent(&file),
        Task::Release(rule) => release(&rule),
        Task::Status(config) => stdout::print(&spread::status::run(&config)?).map(drop),
        Task::Advise(config) => run_advise(&kernel, config),
        Task::CheckFile(file) => check_file(&file),
        Task::ExampleFile => stdout::print(config::file::example().as_bytes()).map(drop),
        Task::Completions(shell) => stdout::print(&cli::completions(shell)).map(drop),
        Task::Man(dir) => man(dir.as_deref()),
    };
    done.map(|()| Exit::Ok.into())
}

fn run_doctor(kernel: &KernelConfig, config: DoctorConfig) -> Result<ExitCode, Error> {
    // A monitoring system takes 1 for a warning.
    shutdown::fail_with(Verdict::Unknown as u8);
    if !config.from.is_empty() {
        return Ok((doctor::recorded::run(&config)? as u8).into());
    }
    let doctor = Doctor::start(kernel, config)?;
    let verdict = shutdown::run(move |signals| doctor.run(&signals))?;
    Ok((verdict as u8).into())
}

fn run_advise(kernel: &KernelConfig, config: AdviseConfig) -> Result<(), Error> {
    let advice = Advice::start(kernel, config)?;
    if advice.measures() {
        shutdown::run(move |signals| advice.run(&signals))
    } else {
        advice.print()
    }
}

/// Prints what is wrong with a command line that could not be parsed, or the help or version that it asks for. Returns the exit
/// code: 0 for help and version, else 2, or of `tracer doctor` 3 (a monitoring system takes 2 for a verdict).
pub fn refuse(error: &clap::Error) -> ExitCode {
    // Nobody can read it if stdout and stderr are closed.
    _ = error.print();
    match error.exit_code() {
        0 => Exit::Ok.into(),
        _ if is_doctor(std::env::args_os()) => (Verdict::Unknown as u8).into(),
        _ => Exit::Usage.into(),
    }
}

/// Whether a wrong command line is one of `tracer doctor`, as far as it can be read. `words`: the program's name first.
fn is_doctor(words: impl IntoIterator<Item = OsString>) -> bool {
    let words: Vec<OsString> = words.into_iter().collect();
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(&words);
    match matches.ok().as_ref().and_then(ArgMatches::subcommand_name) {
        Some(command) => command == DOCTOR,
        None => words.iter().skip(1).any(|word| word == DOCTOR),
    }
}

/// The exit code of an error of this command: [`Error::exit`], but of `tracer doctor` always 3 (unknown). Prints nothing.
pub fn exit(cli: &Cli, error: &Error) -> ExitCode {
    // A monitoring system takes 1 and 2 for verdicts.
    if matches!(cli.command, Command::Doctor(_)) {
        return (Verdict::Unknown as u8).into();
    }
    error.exit().into()
}

fn run_record(kernel: &KernelConfig, config: RecordConfig) -> Result<(), Error> {
    check_object()?;
    survive_file_size_limit();
    // Everything that can be wrong is checked before anything is attached.
    let filter = trace::resolve(&config.filter)?;
    let sink = Sink::open(&config.output)?;
    let names = trace::cgroup_names(kernel)?;
    let tracer = trace::start(kernel, config.events.mask, &filter, sink.user())?;
    shutdown::run(move |signals| {
        record::run(tracer, &config, filter, sink, Callers::new(names), &signals)
    })
}

fn run_tuples(kernel: &KernelConfig, config: TuplesConfig) -> Result<(), Error> {
    check_object()?;
    let filter = trace::resolve(&config.filter)?;
    let names = trace::cgroup_names(kernel)?;
    let tracer = trace::start(kernel, 0, &filter, User::nobody())?;
    shutdown::run(move |signals| {
        tuples::run(tracer, &config, &filter, Callers::new(names), &signals)
    })
}

fn run_top(kernel: &KernelConfig, config: TopConfig) -> Result<(), Error> {
    check_object()?;
    let filter = trace::resolve(&config.rows)?;
    let names = trace::cgroup_names(kernel)?;
    let failed = Kind::ConnectFailed.bit() | Kind::BindFailed.bit();
    // The state of a rule's agent can only be read by root, so this thread stays the user that it is.
    let tracer = trace::start(kernel, failed, &filter, User::own())?;
    shutdown::run(move |signals| top::run(tracer, &config, filter, Callers::new(names), &signals))
}

fn run_agent(file: &Path) -> Result<(), Error> {
    check_object()?;
    survive_file_size_limit();
    let config = AgentConfig::parse(&config::file::read(file)?, file)?;
    let agent = agent::Agent::start(config, file)?;
    shutdown::run(move |signals| agent.run(&signals))
}

fn run_spread(kernel: &KernelConfig, config: SpreadConfig) -> Result<(), Error> {
    if !config.from.is_empty() {
        return stdout::print(spread::recorded::run(&config)?.as_bytes()).map(drop);
    }
    check_object()?;
    if config.dry_run {
        return stdout::print(spread::dry_run::run(kernel, &config)?.as_bytes()).map(drop);
    }
    let sink = Sink::open(&config.output)?;
    let names = trace::cgroup_names(kernel)?;
    let agent = Agent::start(kernel, config, sink, names)?;
    note(&agent.summary());
    shutdown::run(move |signals| agent.run(&signals))
}

fn release(rule: &str) -> Result<(), Error> {
    spread::release(rule)?;
    note(&format!("rule {rule} has ended"));
    Ok(())
}

/// Warns of `-o FILE`: `-o` named the file in earlier versions, and is the format now.
fn note_old_spelling(command: &Command) {
    let stream = match command {
        Command::Record(args) => &args.stream,
        Command::Spread(args) => &args.stream,
        _ => return,
    };
    if let StreamFormat::File(path) = &stream.format {
        note(&format!("-o sets the format now; use --output {}", path.display()));
    }
}

/// Writes one line for the user to stderr, because stdout is for data. A closed stderr is no error.
fn note(text: &str) {
    _ = writeln!(io::stderr(), "{text}");
}

/// Ignores SIGXFSZ: a write beyond a file size limit then fails, which is counted, and does not end the program.
#[expect(unsafe_code, reason = "signal(2)")]
fn survive_file_size_limit() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Fails if this binary has no BPF object.
fn check_object() -> Result<(), Error> {
    if BPF_OBJECT.is_empty() { Err(Error::Failure(MISSING.into())) } else { Ok(()) }
}

/// Checks a configuration file, and says that it is right.
fn check_file(file: &Path) -> Result<(), Error> {
    AgentConfig::parse(&config::file::read(file)?, file)?;
    let name = file.display().to_string();
    stdout::print(format!("{}: ok\n", text::line(&name)).as_bytes()).map(drop)
}

/// Writes all man pages to a folder, which must exist, or if there is none, that of `tracer` itself to stdout.
fn man(dir: Option<&Path>) -> Result<(), Error> {
    let pages = cli::man_pages()
        .map_err(|error| Error::Failure(format!("cannot make the man pages: {error}")))?;
    let Some(dir) = dir else {
        return pages.first().map_or(Ok(()), |(_, page)| stdout::print(page).map(drop));
    };
    let (name, page) = config::file::man_page();
    let file = (name.to_owned(), page.into_bytes());
    for (name, page) in pages.into_iter().chain([file]) {
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(|source| Error::File {
            tried: "write",
            path,
            source,
            do_this: "make the folder first",
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_of_doctor_is_told_from_those_of_others() {
        let of = |line: &str| is_doctor(line.split(' ').map(OsString::from));
        for line in [
            "tracer doctor --bogus",
            "tracer doctor --window x",
            "tracer doctor extra",
            "tracer doctor --pid doctor",
            "tracer -v doctor --bogus",
            "tracer --bogus doctor",
            "tracer --log-format doctor doctor",
            "tracer doctor --netns",
        ] {
            assert!(of(line), "{line}");
        }
        for line in [
            "tracer record --netns doctor --bogus",
            "tracer top --bogus doctor",
            "tracer --bogus",
            "tracer bogus",
            "tracer",
        ] {
            assert!(!of(line), "{line}");
        }
    }
}
