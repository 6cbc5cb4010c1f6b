//! Compresses lines into a zstd frame that is written in pieces (RFC 8878).

use std::io::{self, Write};

use zstd::stream::write::Encoder;

/// The level of compression: fast, and lines still shrink to a fifth, because they are much alike.
const LEVEL: i32 = 1;

/// An empty last block (RFC 8878 §3.1.1.2), which ends a frame without a checksum.
pub(super) const LAST_BLOCK: &[u8] = &[1, 0, 0];

/// The frame that lines are being added to.
#[derive(Default)]
pub(super) struct Frame {
    /// Compresses what is added; `None`: nothing was added since the last frame ended.
    encoder: Option<Encoder<'static, Vec<u8>>>,
    /// Whether a part of this frame is in the file.
    begun: bool,
    /// Why bytes that were added since the last [`Self::take`] could not be compressed; `None`: all could.
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Frame").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Frame {
    /// Compresses `bytes`. If that fails, the next [`Self::take`] returns the error.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_add(bytes) {
            self.failed = Some(error);
        }
    }

    fn try_add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(Encoder::new(Vec::new(), LEVEL)?),
        };
        encoder.write_all(bytes)
    }

    /// Number of compressed bytes that [`Self::take`] would return, without what the encoder has not compressed yet.
    pub(super) fn waiting(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.get_ref().len())
    }

    /// Returns, compressed, what was added since the last call. With `end`, it ends the frame: then empty means that there is no
    /// frame to end. Otherwise it ends a block; empty: nothing was added.
    ///
    /// # Errors
    /// Something could not be compressed (no memory), now or in [`Self::add`]: the caller has to call [`Self::abandon`].
    pub(super) fn take(&mut self, end: bool) -> io::Result<Vec<u8>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if end {
            return self.encoder.take().map_or_else(|| Ok(Vec::new()), Encoder::finish);
        }
        let Some(encoder) = &mut self.encoder else { return Ok(Vec::new()) };
        encoder.flush()?;
        Ok(std::mem::take(encoder.get_mut()))
    }

    /// To be called when what [`Self::take`] returned is in the file, or in part and will be completed.
    pub(super) fn written(&mut self) {
        self.begun = self.encoder.is_some();
    }

    /// To be called when what [`Self::take`] returned will never be in the file. Returns what has to be written to end the
    /// frame after the blocks that are in the file; empty if none is. The next lines begin a new frame.
    pub(super) fn abandon(&mut self) -> &'static [u8] {
        let begun = self.begun;
        *self = Self::default();
        if begun { LAST_BLOCK } else { &[] }
    }
}
