//! `tracer agent`

use std::path::PathBuf;

use clap::Args;

/// Where the configuration is if `--config` is not given.
const FILE: &str = "/etc/tracer/tracer.toml";

const HELP: &str = "\
Everything else is in the file: hooks and tables, outputs, metrics. `tracer config example` prints one, \
`tracer config check FILE` says what is wrong with one, and man 5 tracer.toml has all settings.

SIGHUP opens the outputs again, and reads the file again; SIGTERM ends the agent. Under systemd (Type=notify), it says when it is ready.";

/// `tracer agent`
#[derive(Args, Clone, Debug)]
#[command(after_help = HELP)]
pub struct AgentArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = FILE)]
    pub config: PathBuf,
}
