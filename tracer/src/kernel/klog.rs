//! Passes messages of the BPF programs (aya-log) on to this program's own log.

use aya::Ebpf;
use aya_log::{EbpfLogger, Error, Level};
use log::Log;

/// Reader of the kernel side's messages; `None`: the object has none, or they cannot be read.
pub(super) struct KernelLog(Option<EbpfLogger<&'static dyn Log>>);

/// The level that the BPF programs are loaded with, as the number of a [`Level`]: less important messages are not in the loaded
/// programs. `Debug` if this program logs at TRACE, else `Warn`.
pub(super) fn level() -> u8 {
    let level = if tracing::enabled!(tracing::Level::TRACE) { Level::Debug } else { Level::Warn };
    level as u8
}

impl KernelLog {
    /// Takes the ring of messages out of a loaded object. That it cannot be read is no error: it is logged.
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

    /// Passes on all messages that are waiting, at the level of each; nothing if there is no reader.
    pub(super) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}
