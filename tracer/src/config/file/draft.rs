//! What is collected from the file, until all of it is checked.

use std::{collections::BTreeMap, time::Duration};

use super::{MetricsConfig, Thresholds};
use crate::cli::{FilterArgs, KernelArgs, RecordArgs, RingArgs, StreamArgs, StreamFormat};

/// The values of all settings so far. `output` is the section that is being read.
#[derive(Debug)]
pub(super) struct Draft {
    pub kernel: KernelArgs,
    /// Size of the buffer for events in bytes.
    pub ring: Option<u32>,
    pub output: RecordArgs,
    pub metrics: MetricsConfig,
    pub fields: BTreeMap<String, String>,
    pub thresholds: Thresholds,
}

impl Draft {
    /// Without any value, also without defaults.
    pub(super) fn new() -> Self {
        Self {
            kernel: KernelArgs::default(),
            ring: None,
            output: no_output(),
            metrics: MetricsConfig::default(),
            fields: BTreeMap::new(),
            thresholds: Thresholds::default(),
        }
    }

    /// The output that was read, after which the next one begins without any value.
    pub(super) fn take_output(&mut self) -> RecordArgs {
        std::mem::replace(&mut self.output, no_output())
    }
}

fn no_output() -> RecordArgs {
    RecordArgs {
        events: Vec::new(),
        rotate: None,
        keep: 0,
        compress: None,
        interval: Duration::ZERO,
        duration: None,
        stream: StreamArgs { output: None, format: StreamFormat::Json },
        filter: FilterArgs::default(),
        kernel: KernelArgs::default(),
        ring: RingArgs::default(),
    }
}
