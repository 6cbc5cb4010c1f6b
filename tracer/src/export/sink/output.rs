//! Writes whole units (lines, or blocks of a frame) to an output that can run out of room within a unit.

use std::io::{self, ErrorKind};

use super::Closed;

/// Something that bytes can be appended to.
pub(super) trait Append {
    /// Appends bytes as write(2) does: returns how many were written, which can be fewer than all. An error: none were.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Removes the last `bytes` bytes; fails if the output cannot be truncated (it is a pipe, or others write to it, too).
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

/// What must not stay half-written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unit {
    /// A line.
    Line,
    /// All bytes of one call.
    Whole,
}

/// How much of the bytes of a call was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Put {
    /// Nothing of earlier calls remains to be written: what they left torn is whole now.
    pub(super) settled: bool,
    /// How many bytes, from the start, are written as whole units.
    pub(super) done: usize,
    /// Length in bytes of the unit after them, if it is torn: written in part, cannot be cut off again, and is
    /// completed before anything else is written. 0: none is torn.
    pub(super) torn: usize,
}

/// An output that completes a unit that it wrote in part before it writes anything else.
#[derive(Debug)]
pub(super) struct Output<A> {
    medium: A,
    /// What has to be written before anything else.
    rest: Vec<u8>,
    /// The newest error because of which something could not be written; `None`: none yet.
    refused: Option<io::Error>,
}

impl<A: Append> Output<A> {
    /// An output that writes to `medium`. `rest`: what is written before anything else; empty: nothing.
    pub(super) const fn new(medium: A, rest: Vec<u8>) -> Self {
        Self { medium, rest, refused: None }
    }

    pub(super) const fn medium(&self) -> &A {
        &self.medium
    }

    /// The newest error because of which something could not be written, even if writing works again; `None`: none yet.
    pub(super) const fn refused(&self) -> Option<&io::Error> {
        self.refused.as_ref()
    }

    /// Notes a new error; `None` leaves the one before.
    pub(super) fn refuse(&mut self, refused: Option<io::Error>) {
        self.refused = refused.or(self.refused.take());
    }

    /// The newest error because of which something could not be written; `None`: none since the last call. [`Self::refused`] is
    /// `None` then, until the next error.
    pub(super) fn take_refused(&mut self) -> Option<io::Error> {
        self.refused.take()
    }

    /// Has the next [`Self::put`] write `bytes` before anything else.
    pub(super) fn promise(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// Writes as many whole units of `bytes` as there is room for, after what earlier calls left over; if that does not fit,
    /// nothing of `bytes`. A unit that was written in part is cut off again; if it cannot be, it is torn ([`Put::torn`]).
    ///
    /// # Errors
    /// [`Closed`]: the reader is gone. Any other failure to write is no error here: [`Put`] says how far it got, and
    /// [`Self::refused`] why.
    pub(super) fn put(&mut self, bytes: &[u8], unit: Unit) -> Result<Put, Closed> {
        if !self.rest.is_empty() {
            let (written, refused) = write(&mut self.medium, &self.rest)?;
            self.refuse(refused);
            self.rest.drain(..written);
            if !self.rest.is_empty() {
                return Ok(Put { settled: false, done: 0, torn: 0 });
            }
        }
        let (written, refused) = write(&mut self.medium, bytes)?;
        self.refuse(refused);
        if written == bytes.len() {
            return Ok(Put { settled: true, done: written, torn: 0 });
        }
        let (done, end) = match unit {
            Unit::Whole => (0, bytes.len()),
            Unit::Line => around(bytes, written),
        };
        let partial = written - done;
        if partial == 0 || self.medium.cut(partial as u64).is_ok() {
            return Ok(Put { settled: true, done, torn: 0 });
        }
        self.rest.extend_from_slice(&bytes[written..end]);
        Ok(Put { settled: true, done, torn: end - done })
    }
}

/// Where the line that contains the byte `at` begins and ends (after its newline, or if it has none, at the end of `bytes`).
fn around(bytes: &[u8], at: usize) -> (usize, usize) {
    let newline = |byte: &u8| *byte == b'\n';
    let begin = bytes[..at].iter().rposition(newline).map_or(0, |newline| newline + 1);
    let end = bytes[at..].iter().position(newline).map_or(bytes.len(), |index| at + index + 1);
    (begin, end)
}

/// Writes until there is no room. Returns how many bytes were written, and the error if these are not all. A full disk, a
/// quota, a size limit and a failing disk are treated alike: all may pass, and the next call tries again. [`Closed`]: the
/// reader is gone.
fn write(medium: &mut impl Append, mut bytes: &[u8]) -> Result<(usize, Option<io::Error>), Closed> {
    let all = bytes.len();
    let mut refused = None;
    while !bytes.is_empty() {
        match medium.append(bytes) {
            Ok(0) => {
                refused = Some(ErrorKind::WriteZero.into());
                break;
            }
            Ok(written) => bytes = &bytes[written..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::BrokenPipe => return Err(Closed),
                _ => {
                    refused = Some(error);
                    break;
                }
            },
        }
    }
    Ok((all - bytes.len(), refused))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A disk with `room` free bytes.
    #[derive(Debug, Default)]
    pub(crate) struct Disk {
        pub(crate) bytes: Vec<u8>,
        pub(crate) room: usize,
        pub(crate) can_cut: bool,
    }

    impl Append for Disk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Short writes, as a signal makes them.
            let written = bytes.len().min(self.room).min(7);
            if written == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= written;
            self.bytes.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            if !self.can_cut {
                return Err(ErrorKind::Unsupported.into());
            }
            let cut = usize::try_from(bytes).unwrap();
            self.bytes.truncate(self.bytes.len() - cut);
            self.room += cut;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn the_medium_holds_exactly_the_units_that_were_done_and_the_torn_ones(
            puts in prop::collection::vec(
                (prop::collection::vec("[a-z]{0,12}", 1..5), 0_usize..60, any::<bool>()), 1..12,
            ),
            can_cut: bool,
        ) {
            let mut output = Output::new(Disk { can_cut, ..Disk::default() }, Vec::new());
            let mut expected = Vec::new();
            for (lines, room, whole) in puts {
                let chunk: Vec<u8> =
                    lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
                output.medium.room += room;
                let unit = if whole { Unit::Whole } else { Unit::Line };
                let put = output.put(&chunk, unit).unwrap();
                expected.extend_from_slice(&chunk[..put.done + put.torn]);
                prop_assert!(put.torn == 0 || !can_cut);
                let all = put.done == chunk.len();
                prop_assert!(all || output.refused().unwrap().kind() == ErrorKind::StorageFull);
                prop_assert!(expected.is_empty() || expected.ends_with(b"\n"));
                if can_cut {
                    prop_assert_eq!(&output.medium.bytes, &expected);
                }
            }
            output.medium.room = usize::MAX;
            prop_assert!(output.put(b"", Unit::Line).unwrap().settled);
            prop_assert_eq!(&output.medium.bytes, &expected);
        }
    }
}
