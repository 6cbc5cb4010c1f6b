//! `cargo xtask bench`: what tracing costs, compared with no tracer and with other tools; what spreading brings and costs,
//! compared with the kernel alone and other ways to choose an address; what the view costs, compared with htop and btop.
//!
//! What is compared is measured in one run, in turns. For tracing, each round starts every tool once, under the same load, and
//! compares it with the same load without a tool just before and after; the tables have medians over the rounds.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};

use crate::{build, exec, markers, workspace};
use load::Generator;
use tool::Tool;

mod kernel;
mod load;
mod machine;
mod markdown;
mod process;
mod reading;
mod rounds;
mod spread;
mod summary;
mod tool;
mod view;

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Two short rounds, which show that everything works: the figures are rough
    #[arg(long)]
    quick: bool,
    /// Number of rounds over all tools
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: Option<u32>,
    /// Measure only this part
    #[arg(value_enum)]
    part: Option<Part>,
    /// Write the tables into tracer/doc/benchmarks.md, between their markers
    #[arg(long)]
    write: bool,
}

impl Options {
    /// The command that the document shows: it leaves out `--rounds`, the part and `--write`.
    fn command(&self) -> &'static str {
        if self.quick { "cargo xtask bench --quick" } else { "cargo xtask bench" }
    }
}

/// The document into which the tables are written, between markers.
const DOCUMENT: &str = "tracer/doc/benchmarks.md";

/// A part of [`DOCUMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What `tracer record` costs
    Tracing,
    /// What `tracer spread` brings and costs
    Spread,
    /// What `tracer top` costs
    View,
}

impl Part {
    /// Name of the markers between which its tables go.
    fn marker(self) -> &'static str {
        match self {
            Self::Tracing => "bench",
            Self::Spread => "bench spread",
            Self::View => "bench view",
        }
    }
}

/// How much one run measures.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Number of rounds in which connect() is timed.
    pub(crate) rounds: u32,
    /// Number of rounds in which the kernel counts the run time of BPF programs.
    pub(crate) kernel_rounds: u32,
    /// Number of connections of one load, whatever the number of processes.
    pub(crate) connects: u32,
    /// Number of tuples in the table that is read.
    pub(crate) tuples: u32,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let (rounds, kernel_rounds, connects) =
            if options.quick { (2, 1, 6_000) } else { (7, 2, 20_000) };
        Self { rounds: options.rounds.unwrap_or(rounds), kernel_rounds, connects, tuples: 100_000 }
    }
}

/// Paths of the programs that are run.
pub(crate) struct Programs {
    pub(crate) tracer: PathBuf,
    /// `connect-load`.
    pub(crate) load: PathBuf,
    /// `spread-bench`.
    pub(crate) spread: PathBuf,
    /// `view-bench`.
    pub(crate) view: PathBuf,
    /// The folder for the tools' output.
    pub(crate) scratch: PathBuf,
}

/// Measures, prints the tables and, if `--write` was given, writes them into [`DOCUMENT`]. Fails if this process is not root,
/// another bench runs, or a build or a measurement fails.
pub(crate) fn bench(options: &Options) -> Result<()> {
    ensure!(
        exec::is_root(),
        "cannot measure: tracing and network namespaces need root; run it as root"
    );
    let plan = Plan::new(options);
    let programs = build_all()?;
    let lock = programs.scratch.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.try_lock().context("another `cargo xtask bench` runs: wait for its end")?;
    let machine = machine::describe()?;
    for part in [Part::Tracing, Part::Spread, Part::View] {
        if options.part.is_some_and(|only| only != part) {
            continue;
        }
        let text = match part {
            Part::Tracing => tracing(&plan, options, &programs, &machine)?,
            Part::Spread => spread::measure(options, &programs, &machine)?,
            Part::View => view::measure(options, &programs, &machine)?,
        };
        println!("{text}");
        if options.write {
            markers::write(DOCUMENT, part.marker(), &format!("\n{}\n\n", text.trim()))?;
        }
    }
    Ok(())
}

/// Measures what tracing costs. Returns the tables for the document; prints the details, and writes every sample to
/// `raw.csv`.
fn tracing(plan: &Plan, options: &Options, programs: &Programs, machine: &str) -> Result<String> {
    let line_ns = reading::line_cost()?;

    let (present, excused): (Vec<Tool>, Vec<Tool>) =
        Tool::ALL.into_iter().partition(|tool| tool.is_installed());
    for tool in &excused {
        let (name, package) = (tool.name(), tool.package());
        eprintln!("{name} is not installed: `cargo xtask setup bench` installs {package}");
    }
    let mut generator = Generator::start(&programs.load)?;
    let samples = rounds::measure(plan, programs, &mut generator, &present)?;
    let cost = kernel::measure(plan, programs, &mut generator, &present)?;
    let reading = reading::tuples(plan, programs, &mut generator)?;
    drop(generator);

    let raw = programs.scratch.join("raw.csv");
    fs::write(&raw, samples.csv()).with_context(|| format!("cannot write {}", raw.display()))?;
    let summary = summary::Summary::new(&samples, &cost, &reading, line_ns);
    let head = format!(
        "{machine} `{}`: {} rounds, {} connections each, in turns.\n",
        options.command(),
        plan.rounds,
        plan.connects
    );
    let text = format!(
        "{head}\n{}\n{}",
        markdown::tools(&summary, &present, &excused),
        markdown::targets(&summary)
    );
    println!("{}\n{}", markdown::clients(&summary), markdown::programs(&cost));
    println!("{}", reading.describe());
    println!("Every sample: {}", raw.display());
    Ok(text)
}

fn build_all() -> Result<Programs> {
    let tracer = build::build(true)?;
    exec::run(workspace::cargo("build").args(["--release", "--package", "tracer-tests"]))?;
    let scratch = workspace::target().join("bench");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let [load, spread, view] = ["connect-load", "spread-bench", "view-bench"]
        .map(|name| workspace::target().join("release").join(name));
    Ok(Programs { tracer, load, spread, view, scratch })
}

/// A count or a time in ns as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ns, which are 104 days")]
fn float(number: u64) -> f64 {
    number as f64
}
