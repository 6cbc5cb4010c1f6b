//! The lines of one file, plain or zstd: which of the two, its first bytes say, and not its name.

use std::{
    fs::File,
    io::{self, BufReader, Chain, Cursor, Read, Seek, SeekFrom},
};

use memchr::memchr;
use zstd::stream::read::Decoder;

use crate::export::sink::repair;

/// The first bytes of a zstd frame (RFC 8878 §3.1.1), and of one to be skipped.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// No line of the format is as long.
pub(super) const LONGEST: usize = 1 << 20;
/// The largest window of a zstd frame that is decompressed, as a power of two: 32 MiB of memory. What
/// `tracer record` and `zstd` up to level 20 write has a smaller one.
const LARGEST_WINDOW: u32 = 25;
/// What is read at a time.
const PIECE: usize = 256 << 10;

type Raw = Chain<Cursor<Vec<u8>>, File>;

enum Source {
    Plain(Raw),
    Zstd(Box<Decoder<'static, BufReader<Raw>>>),
}

/// A file on its way through a buffer.
pub(super) struct Input {
    /// The same open file as in `source`.
    file: File,
    source: Source,
    buffer: Vec<u8>,
    /// What was read and not handed out yet.
    start: usize,
    end: usize,
    /// Of `start`, in what is read.
    offset: u64,
    /// Lines that were handed out; `None`: it was not begun at its beginning.
    number: Option<u64>,
    ended: bool,
    /// Bytes that may still be read (of what is compressed: after that).
    budget: u64,
    /// Why it ended before its end.
    damage: Option<String>,
}

/// One line, without its newline.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8],
    /// Where it begins, in what is read.
    pub(super) offset: u64,
    /// From 1; `None`: not known after going to some place in the file.
    pub(super) number: Option<u64>,
    /// It is longer than any line of the format.
    pub(super) too_long: bool,
    /// The file ends without a newline.
    pub(super) cut: bool,
}

/// Whether it is compressed, by its first bytes.
fn is_zstd(head: &[u8]) -> bool {
    head == MAGIC || head.len() == 4 && head[0] & 0xf0 == 0x50 && head[1..] == SKIPPABLE
}

impl Input {
    /// From this place on: 0, or where a zstd frame begins. `None`: a pipe, from where it is.
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
            let mut decoder = Decoder::with_buffer(BufReader::with_capacity(PIECE, raw))?;
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

    /// Ends after so many bytes, decompressed, as if the file did: a glance must not last for hours.
    pub(super) const fn glance(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// It ended because of [`Self::glance`].
    pub(super) const fn is_spent(&self) -> bool {
        self.budget == 0
    }

    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.source, Source::Plain(_))
    }

    /// Goes on at the first line that begins behind `offset`, or at the beginning for 0. Only in a
    /// plain file that can be read from anywhere.
    pub(super) fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let before = offset.saturating_sub(1);
        self.file.seek(SeekFrom::Start(before))?;
        let raw = Cursor::new(Vec::new()).chain(self.file.try_clone()?);
        self.source = Source::Plain(raw);
        (self.start, self.end, self.offset) = (0, 0, before);
        self.ended = false;
        self.number = Some(0);
        if offset > 0 {
            // The rest of the line before.
            self.line()?;
            self.number = None;
        }
        Ok(())
    }

    /// Bytes of the file that were read; a little more than what was handed out.
    pub(super) fn position(&self) -> u64 {
        (&self.file).stream_position().unwrap_or(0)
    }

    /// Why what was read ended before its end: damaged, or cut short. Said once.
    pub(super) fn damage(&mut self) -> Option<String> {
        self.damage.take()
    }

    /// The next line; `None`: there is none.
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
                self.pass_hole();
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

    /// Goes to where a sparse file has data again: a hole is no newline, and can be terabytes long.
    fn pass_hole(&mut self) {
        let Source::Plain(_) = self.source else { return };
        // A pipe has no position.
        let Ok(at) = self.file.stream_position() else { return };
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => self.offset += data.saturating_sub(at),
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => self.ended = true,
            // A file system without holes.
            Err(_) => {}
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.buffer.len() - self.end < PIECE {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.buffer.len() - self.end < PIECE {
                self.buffer.resize((self.end + PIECE).next_power_of_two(), 0);
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

    /// A file that is still being written, or whose writer was killed, ends within a frame: that is
    /// damage only where it ends within a block too.
    fn is_damage(&self, error: &io::Error) -> bool {
        let size = || self.file.metadata().ok().filter(std::fs::Metadata::is_file);
        let end = size().and_then(|size| {
            repair::end(&self.file, size.len()).ok().map(|end| end.at == size.len())
        });
        error.kind() != io::ErrorKind::UnexpectedEof || end != Some(true)
    }
}
