//! The only place that knows all the parts.

use std::{
    io::{self, Write},
    path::Path,
};

use tracer_common::Kind;

use crate::{
    cli::{self, Cli, Command, StreamFormat},
    commands::{record, replay, report, top, tuples},
    config::{KernelConfig, RecordConfig, SpreadConfig, Task, TopConfig, TuplesConfig},
    error::Error,
    export::sink::Sink,
    host::callers::Callers,
    kernel::object::{BPF_OBJECT, MISSING},
    ledger::trace,
    runtime::{log, memory, sandbox::User, shutdown, stdout},
    spread::{self, Agent},
};

/// Before anything else.
pub fn begin() {
    memory::share_heap();
    shutdown::begin();
}

/// Does what the command line says.
///
/// # Errors
/// See [`Error`]; each has an exit code.
pub fn run(cli: &Cli) -> Result<(), Error> {
    log::start(cli.global.verbose, cli.global.log_format)?;
    let kernel = KernelConfig::try_from(cli)?;
    note_old_spelling(&cli.command);
    match Task::try_from(&cli.command)? {
        Task::Top(config) => run_top(&kernel, config),
        Task::Replay(config) => replay::run(&config),
        Task::Record(config) => run_record(&kernel, config),
        Task::Tuples(config) => run_tuples(&kernel, config),
        Task::Report(config) => stdout::print(&report::run(&config)?).map(drop),
        Task::Spread(config) => run_spread(&kernel, config),
        Task::Release(rule) => release(&rule),
        Task::Status(config) => stdout::print(&spread::status::run(&config)?).map(drop),
        Task::Completions(shell) => stdout::print(&cli::completions(shell)).map(drop),
        Task::Man(dir) => man(dir.as_deref()),
    }
}

fn run_record(kernel: &KernelConfig, config: RecordConfig) -> Result<(), Error> {
    check_object()?;
    survive_file_size_limit();
    // Everything that can be wrong is found out before anything is attached.
    let filter = trace::resolve(&config.filter)?;
    let sink = Sink::open(&config.output)?;
    let names = trace::cgroup_names(kernel)?;
    let tracer = trace::start(kernel, config.events.mask, &filter, sink.user())?;
    shutdown::run(move |asked| {
        record::run(tracer, &config, filter, sink, Callers::new(names), &asked)
    })
}

fn run_tuples(kernel: &KernelConfig, config: TuplesConfig) -> Result<(), Error> {
    check_object()?;
    let filter = trace::resolve(&config.filter)?;
    let names = trace::cgroup_names(kernel)?;
    let tracer = trace::start(kernel, 0, &filter, User::nobody())?;
    shutdown::run(move |asked| tuples::run(tracer, &config, &filter, Callers::new(names), &asked))
}

fn run_top(kernel: &KernelConfig, config: TopConfig) -> Result<(), Error> {
    check_object()?;
    let filter = trace::resolve(&config.rows)?;
    let names = trace::cgroup_names(kernel)?;
    let failed = Kind::ConnectFailed.bit() | Kind::BindFailed.bit();
    // What the agents of rules say of them only root may read.
    let tracer = trace::start(kernel, failed, &filter, User::own())?;
    shutdown::run(move |asked| top::run(tracer, &config, filter, Callers::new(names), &asked))
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
    shutdown::run(move |asked| agent.run(&asked))
}

fn release(rule: &str) -> Result<(), Error> {
    spread::release(rule)?;
    note(&format!("rule {rule} has ended"));
    Ok(())
}

/// `-o` named the file before it was the format.
fn note_old_spelling(command: &Command) {
    let stream = match command {
        Command::Record(args) => &args.stream,
        Command::Spread(args) => &args.stream,
        _ => return,
    };
    if let StreamFormat::File(path) = &stream.format {
        note(&format!("-o is the format now; write --output {}", path.display()));
    }
}

/// One line for whoever started this, on stderr: stdout is for data. A closed stderr is no error.
fn note(text: &str) {
    _ = writeln!(io::stderr(), "{text}");
}

/// Past a file size limit a write shall fail, which is counted, and not end the program.
#[expect(unsafe_code, reason = "signal(2)")]
fn survive_file_size_limit() {
    // SAFETY: ignoring a signal runs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn check_object() -> Result<(), Error> {
    if BPF_OBJECT.is_empty() { Err(Error::Failure(MISSING.into())) } else { Ok(()) }
}

fn man(dir: Option<&Path>) -> Result<(), Error> {
    let pages = cli::man_pages()
        .map_err(|error| Error::Failure(format!("cannot make the man pages: {error}")))?;
    let Some(dir) = dir else {
        return pages.first().map_or(Ok(()), |(_, page)| stdout::print(page).map(drop));
    };
    for (name, page) in pages {
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
