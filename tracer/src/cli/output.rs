//! Where output goes and in which format: `--output FILE` and `-o FORMAT`, the same in every command.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Of the commands that write lines while they run.
#[derive(Args, Clone, Debug)]
pub struct StreamArgs {
    /// File to write to; - is stdout. A new file gets mode 0600, an existing one is appended to
    /// [default: -]
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub output: Option<PathBuf>,

    /// Output format: json, one object a line (JSON Lines)
    #[arg(
        short = 'o',
        long,
        default_value = "json",
        value_name = "FORMAT",
        value_parser = stream_format,
        help_heading = HEADING
    )]
    pub format: StreamFormat,
}

const HEADING: &str = "Output";

/// A value of `-o` in a command that writes lines while it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StreamFormat {
    Json,
    /// `-o FILE`, an earlier spelling of `--output FILE`.
    File(PathBuf),
}

fn stream_format(text: &str) -> Result<StreamFormat, String> {
    match text {
        "json" => Ok(StreamFormat::Json),
        path if path == "-" || path.contains(['.', '/']) => Ok(StreamFormat::File(path.into())),
        _ => Err("expected json; a file is named by --output FILE".to_owned()),
    }
}

/// Of the commands that print one answer.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// Output format
    #[arg(
        short = 'o',
        long,
        value_enum,
        default_value_t = TextFormat::Text,
        value_name = "FORMAT"
    )]
    pub format: TextFormat,

    /// The same as -o json
    #[arg(long, hide = true, conflicts_with = "format")]
    json: bool,
}

impl JsonArgs {
    /// Whether `-o json` or `--json` is given.
    pub fn is_json(self) -> bool {
        self.json || self.format == TextFormat::Json
    }
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TextFormat {
    /// For people
    Text,
    /// One line of JSON
    Json,
}
