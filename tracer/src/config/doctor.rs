//! `tracer doctor`, checked.

use std::{path::PathBuf, time::Duration};

use crate::cli::{DoctorArgs, DoctorFormat, NetnsRef};

/// `tracer doctor`
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoctorConfig {
    /// The namespaces to judge; empty: all that are found.
    pub netns: Vec<NetnsRef>,
    /// How long to watch with hooks; `None`: no hooks are attached.
    pub window: Option<Duration>,
    pub format: DoctorFormat,
    /// Logs of proxies to read; `-` is standard input.
    pub logs: Vec<PathBuf>,
}

impl From<&DoctorArgs> for DoctorConfig {
    fn from(args: &DoctorArgs) -> Self {
        Self {
            netns: args.netns.clone(),
            window: args.window,
            format: args.format(),
            logs: args.log.clone(),
        }
    }
}
