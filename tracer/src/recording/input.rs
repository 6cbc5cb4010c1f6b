//! Reads the lines of one file or pipe, plain or zstd. The file's first bytes, not its name, say which of the two it is.

use std::{
    fs::File,
    io::{self, BufReader, Chain, Cursor, Read, Seek, SeekFrom},
};

use memchr::memchr;
use zstd::stream::read::Decoder;

use crate::export::sink::repair;

/// The first bytes of a zstd frame (RFC 8878 §3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The second to fourth byte of a skippable frame of zstd. (The first byte is 0x50 to 0x5f.)
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Lines of at least this many bytes are skipped, unless the read that reaches this length also reaches the newline. No line
/// of the format is as long.
pub(super) const LONGEST: usize = 1 << 20;
/// Largest window of a zstd frame that is decompressed, as the exponent of a power of two: 2^25 bytes, 32 MiB of memory.
/// `tracer record`, and `zstd` up to level 20 without `--long`, use no larger ones.
const LARGEST_WINDOW: u32 = 25;
/// Least free room in the buffer before each read, in bytes. (A read can fill all the room that there is.) Also how many
/// compressed bytes of a zstd file are read at a time.
const READ_SIZE: usize = 256 << 10;

type Raw = Chain<Cursor<Vec<u8>>, File>;

enum Source {
    Plain(Raw),
    Zstd(Box<Decoder<'static, BufReader<Raw>>>),
}

/// Reads the lines of one file. Its bytes are not checked: [`Self::line`] returns any bytes between two newlines.
pub(super) struct Input {
    /// Another descriptor of the open file in `source`. Both have the same position, which is read and moved here.
    file: File,
    source: Source,
    buffer: Vec<u8>,
    /// `buffer[start..end]` was read and not returned yet.
    start: usize,
    end: usize,
    /// Offset of `start` in the (decompressed) bytes, counted from where [`Self::open`] began.
    offset: u64,
    /// Lines that were returned since [`Self::open`]; `None`: not known, because [`Self::go_to`] went to an offset above 0.
    number: Option<u64>,
    /// Whether no more is read: at the end of the file, after [`Self::limit_to`] bytes, or because decompression failed.
    ended: bool,
    /// (Decompressed) bytes that may still be read; `u64::MAX`: no limit.
    budget: u64,
    /// Why decompression ended early, until [`Self::damage`] takes it; `None`: it did not, or the reason was taken.
    damage: Option<String>,
}

/// One line, without its newline.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8],
    /// Where it begins (if it is `too_long`: where the last part of it begins) in the (decompressed) bytes, counted from
    /// where [`Input::open`] began.
    pub(super) offset: u64,
    /// Number of the line, from 1; `None`: not known after [`Input::go_to`] to an offset above 0.
    pub(super) number: Option<u64>,
    /// Whether it was skipped because it is too long (see [`LONGEST`]); then `bytes` is empty.
    pub(super) too_long: bool,
    /// Whether reading ended before its newline: at the end of the file, after [`Input::limit_to`] bytes, or because
    /// decompression failed.
    pub(super) cut: bool,
}

/// Whether a file is zstd, by its first four bytes.
fn is_zstd(head: &[u8]) -> bool {
    head == MAGIC || head.len() == 4 && head[0] & 0xf0 == 0x50 && head[1..] == SKIPPABLE
}

impl Input {
    /// Reads a file from offset `from` on, which must be 0 or where a zstd frame begins (not checked); `None`: from the
    /// present position, for a pipe. Of a pipe, this waits for the first four bytes or its end. It moves the position of `file`.
    ///
    /// # Errors
    /// The file cannot be read or has no such offset (a pipe), there is no file descriptor left, or no memory to decompress.
    pub(super) fn open(file: &File, from: Option<u64>) -> io::Result<Self> {
        let mut shared = file.try_clone()?;
        if let Some(from) = from {
            shared.seek(SeekFrom::Start(from))?;
        }
        let mut head = Vec::new();
        (&shared).take(4).read_to_end(&mut head)?;
        let zstd = is_zstd(&head);
        let raw = Cursor::new(head).chain(shared);
        let source = if zstd {
            let mut decoder = Decoder::with_buffer(BufReader::with_capacity(READ_SIZE, raw))?;
            decoder.window_log_max(LARGEST_WINDOW)?;
            Source::Zstd(Box::new(decoder))
        } else {
            Source::Plain(raw)
        };
        Ok(Self {
            file: file.try_clone()?,
            source,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            number: Some(0),
            ended: false,
            budget: u64::MAX,
            damage: None,
        })
    }

    /// Makes reading end after `bytes` more (decompressed) bytes, or up to one read further, as if the file ended there: to read
    /// all of a file could take hours. One read fills at most the room in the buffer, which is [`READ_SIZE`] (256 KiB) or more.
    /// Bytes that are in the buffer already do not count. `u64::MAX`: no limit.
    pub(super) const fn limit_to(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// Whether as many bytes as [`Self::limit_to`] allows were read. (The file may also end just there.) False without a limit.
    pub(super) const fn limit_reached(&self) -> bool {
        self.budget == 0
    }

    /// Whether the file is not compressed.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.source, Source::Plain(_))
    }

    /// Continues at the first line that begins at `offset` (bytes in the file) or after it; beyond the last line,
    /// [`Self::line`] then returns `None`. The file must be plain, seekable and opened at 0 (not checked).
    ///
    /// # Errors
    /// The file cannot be read, or there is no file descriptor left.
    pub(super) fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let before = offset.saturating_sub(1);
        self.file.seek(SeekFrom::Start(before))?;
        let raw = Cursor::new(Vec::new()).chain(self.file.try_clone()?);
        self.source = Source::Plain(raw);
        (self.start, self.end, self.offset) = (0, 0, before);
        self.ended = false;
        self.number = Some(0);
        if offset > 0 {
            // Skips the rest of the line before.
            self.line()?;
            self.number = None;
        }
        Ok(())
    }

    /// The offset in the file up to which it was read, in bytes (of a zstd file, compressed ones), including what is buffered
    /// and not returned yet; 0 for a pipe.
    pub(super) fn position(&self) -> u64 {
        (&self.file).stream_position().unwrap_or(0)
    }

    /// Why decompression ended early: the file cannot be read, or its data is damaged, is cut short within a block or a
    /// frame's header (in a pipe, or in a file with skippable frames: anywhere within a frame), or needs a window of more
    /// than 32 MiB. `None`: it did not, or an earlier call returned the reason.
    pub(super) fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// The next line; `None`: the file ended, [`Self::limit_to`] bytes were read, or decompression failed (then
    /// [`Self::damage`] says why, unless the file ends after a whole block of a frame, as one does that is still being
    /// written).
    ///
    /// # Errors
    /// A plain file cannot be read.
    pub(super) fn line(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut searched = 0;
        let mut too_long = false;
        let (from, to, cut) = loop {
            let waiting = &self.buffer[self.start..self.end];
            if let Some(at) = memchr(b'\n', &waiting[searched..]) {
                break (self.start, self.start + searched + at, false);
            }
            searched = waiting.len();
            if self.ended {
                if searched == 0 && !too_long {
                    return Ok(None);
                }
                break (self.start, self.end, true);
            }
            if searched >= LONGEST {
                too_long = true;
                self.offset += searched as u64;
                self.start = self.end;
                searched = 0;
                self.skip_hole();
            }
            self.fill()?;
        };
        let next = if cut { to } else { to + 1 };
        let offset = self.offset;
        self.offset += (next - from) as u64;
        self.start = next;
        self.number = self.number.map(|number| number + 1);
        let bytes = if too_long { &[][..] } else { &self.buffer[from..to] };
        Ok(Some(Line { bytes, offset, number: self.number, too_long, cut }))
    }

    /// If a sparse plain file has a hole here, moves to its end: a hole has no newline, and can be terabytes long. Does
    /// nothing for other files.
    fn skip_hole(&mut self) {
        let Source::Plain(_) = self.source else { return };
        // A pipe has no position.
        let Ok(at) = self.file.stream_position() else { return };
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => self.offset += data.saturating_sub(at),
            // The hole lasts to the end of the file.
            Err(rustix::io::Errno::NXIO) => self.ended = true,
            // The file system cannot say where holes are: they are read.
            Err(_) => {}
        }
    }

    /// Reads more into the buffer. Sets `ended` at the end of the file, at the limit, and if decompression fails. Fails if a
    /// plain file cannot be read.
    fn fill(&mut self) -> io::Result<()> {
        if self.buffer.len() - self.end < READ_SIZE {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < READ_SIZE {
                self.buffer.resize((self.end + READ_SIZE).next_power_of_two(), 0);
            }
        }
        let room = &mut self.buffer[self.end..];
        let read = loop {
            let result = match &mut self.source {
                Source::Plain(raw) => raw.read(room),
                Source::Zstd(decoder) => decoder.read(room),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match read {
            Ok(0) => self.ended = true,
            Ok(read) => {
                self.end += read;
                self.budget = self.budget.saturating_sub(read as u64);
                self.ended |= self.budget == 0;
            }
            Err(error) if self.is_plain() => return Err(error),
            Err(error) => {
                self.ended = true;
                self.damage = self.is_damage(&error).then(|| error.to_string());
            }
        }
        Ok(())
    }

    /// Whether this error of decompression is damage. A file that is still being written, or whose writer was killed, ends
    /// within a frame. That is no damage if it ends after a whole block. (Of a pipe, this is not known: it counts as damage.)
    fn is_damage(&self, error: &io::Error) -> bool {
        let size = || self.file.metadata().ok().filter(std::fs::Metadata::is_file);
        let end = size().and_then(|size| {
            repair::end(&self.file, size.len()).ok().map(|end| end.at == size.len())
        });
        error.kind() != io::ErrorKind::UnexpectedEof || end != Some(true)
    }
}
