//! The options of `tracer report`.

use std::path::PathBuf;

use clap::Args;

use super::{output::JsonArgs, value};

const REPORT_HELP: &str = "\
Examples:
  tracer report ports.jsonl
  tracer report ports.jsonl*                a rotated set, in any order
  tracer report -o json ports.jsonl.zst | jq '.\"exhaustion.first\"'
  zcat old.jsonl.gz | tracer report -

connect() is slow while more than 45 % of a tuple's ports are in use; the report shows for how long. \
Values are assumed constant between readings: --interval of `tracer record` is how exact the \
times are.";

/// `tracer report`
#[derive(Args, Clone, Debug)]
#[command(after_help = REPORT_HELP)]
pub struct ReportArgs {
    /// Files that `tracer record` wrote, plain or zstd; several for a rotated set; - is stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    pub output: JsonArgs,

    /// Show at most N tuples, the fullest ones
    #[arg(
        long,
        default_value_t = 10,
        value_name = "N",
        value_parser = value::whole::<u32>("a number of rows", 1..=u32::MAX)
    )]
    pub limit: u32,
}
