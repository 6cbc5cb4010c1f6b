//! What the BPF programs log (aya-log), handed to this program's own log.

use aya::Ebpf;
use aya_log::{EbpfLogger, Error, Level};
use log::Log;

/// The kernel side's messages; nothing where the object has none.
pub(super) struct KernelLog(Option<EbpfLogger<&'static dyn Log>>);

/// The level that the BPF programs are loaded with: below it, their messages are dead code.
pub(super) fn level() -> u8 {
    let level = if tracing::enabled!(tracing::Level::TRACE) { Level::Debug } else { Level::Warn };
    level as u8
}

impl KernelLog {
    pub(super) fn take(ebpf: &mut Ebpf) -> Self {
        match EbpfLogger::init(ebpf) {
            Ok(logger) => Self(Some(logger)),
            // An object without a single message has no map for them.
            Err(Error::MapNotFound) => Self(None),
            Err(error) => {
                tracing::warn!("cannot read the messages of the kernel side: {error}");
                Self(None)
            }
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}
