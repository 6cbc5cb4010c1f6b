//! `tracer config`: commands about the configuration file of `tracer agent`.

use std::path::PathBuf;

use clap::Subcommand;

const CHECK_HELP: &str = "\
Prints all faults on stderr, one a line: FILE:LINE:COLUMN: what is wrong; what to write. Nothing is \
looked up on this host: whether a cgroup, a network namespace or a folder exists, the agent says when \
it starts.

Exit codes:
  0   the file is right
  78  it is not, or it cannot be read";

const EXAMPLE_HELP: &str = "\
Example:
  tracer config example > tracer.toml

The file works as it is. man 5 tracer.toml describes the settings.";

/// `tracer config`
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file, and print all that is wrong with it
    #[command(after_help = CHECK_HELP)]
    Check {
        /// The file to check
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a configuration file with every setting, its default, and what it does
    #[command(after_help = EXAMPLE_HELP)]
    Example,
}
