//! A zstd frame that is written in pieces (RFC 8878).

use std::io::{self, Write};

use zstd::stream::write::Encoder;

/// Fast, and still a fifth of the size: lines are much alike.
const LEVEL: i32 = 1;

/// An empty last block (RFC 8878 §3.1.1.2), which ends a frame without a checksum.
pub(super) const LAST_BLOCK: &[u8] = &[1, 0, 0];

/// The frame that lines are being added to.
#[derive(Default)]
pub(super) struct Frame {
    encoder: Option<Encoder<'static, Vec<u8>>>,
    /// Something of this frame is in the file.
    begun: bool,
    /// Why what was added since the last [`Self::take`] cannot be compressed.
    failed: Option<io::Error>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Frame").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Frame {
    /// Compresses `bytes`.
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

    /// Compressed bytes that wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.get_ref().len())
    }

    /// Everything added so far, compressed, up to the end of a block or of the frame.
    ///
    /// # Errors
    /// Something could not be compressed (no memory): the frame is to be abandoned then.
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

    /// What was taken is in the file.
    pub(super) fn written(&mut self) {
        self.begun = self.encoder.is_some();
    }

    /// What was taken is not in the file and never will be. Gives what has to be written for the
    /// frame to end after the blocks before it.
    pub(super) fn abandon(&mut self) -> &'static [u8] {
        let begun = self.begun;
        *self = Self::default();
        if begun { LAST_BLOCK } else { &[] }
    }
}
