//! The configuration file of `tracer agent`: TOML, of which every setting is in one table, `settings::SECTIONS`. From that come
//! the defaults, the checks, the nearest name of an unknown setting, the example, and the man page.

mod changes;
mod draft;
mod example;
mod fault;
mod fields;
mod man;
mod parse;
mod paths;
mod read;
mod reserved;
mod settings;
mod unknown;
mod value;
mod walk;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

pub use example::example;
pub use fault::Fault;
pub use man::page as man_page;
pub use read::read;

use super::{KernelConfig, RecordConfig};

/// The checked configuration of `tracer agent`. Nothing in it was looked up on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    pub kernel: KernelConfig,
    /// At most 8, no two of which write to the same file. `duration` of each is `None`.
    pub outputs: Vec<RecordConfig>,
    pub metrics: MetricsConfig,
    /// Keys and values that every line has: at most 16, none of which is a key that tracer writes itself, except `host.name`.
    pub fields: BTreeMap<String, String>,
    pub thresholds: Thresholds,
}

/// Who gets metrics, and which.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MetricsConfig {
    /// Where metrics are served over HTTP; `None`: nowhere.
    pub listen: Option<Listen>,
    /// A file that is written for node_exporter, an absolute path that ends in `.prom`; `None`: none is.
    pub textfile: Option<PathBuf>,
    /// How many tuples have metrics of their own, 1 to 1,000.
    pub top: u32,
    /// Time between readings, 1 s to 60 s.
    pub interval: Duration,
    /// Whether the kernel measures how long the BPF programs run.
    pub bpf_stats: bool,
}

/// An address that accepts connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listen {
    /// The port is not 0.
    Tcp(SocketAddr),
    /// A socket in the file system: an absolute path of at most 107 bytes.
    Unix(PathBuf),
}

/// Which values have metrics that count what reached them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Saturations, 1 to 8 values in (0, 1], each above the one before: for the metric `tracer_tuples_above`.
    pub saturation: Vec<f64>,
}

#[cfg(test)]
mod tests;
