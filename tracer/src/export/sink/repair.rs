//! Finds where the valid part of a file ends whose writer may have been killed while it wrote.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Where the valid part of a file of zstd frames ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct End {
    /// Bytes up to the end of the last whole block or frame. (If the last frame lacks only its checksum: up to the begin
    /// of that frame. tracer writes no checksums.)
    pub(crate) at: u64,
    /// Whether `at` is within a frame, which lacks its last block.
    pub(super) in_frame: bool,
    /// Offset in bytes of the begin of the last frame whose header is whole; 0 if there is none.
    pub(crate) frame: u64,
}

/// The last byte of a file of `size` bytes, which must be more than 0.
///
/// # Errors
/// The file cannot be read, or has become shorter.
pub(super) fn last_byte(file: &File, size: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, size.saturating_sub(1))?;
    Ok(byte[0])
}

/// Finds the [`End`] of a file of `size` bytes: walks its frames by their headers (RFC 8878 §3.1), without decompressing.
///
/// # Errors
/// Reading fails; this is not a file of zstd frames, or a block's header is damaged.
pub(crate) fn end(file: &File, size: u64) -> io::Result<End> {
    let (mut at, mut frame) = (0, 0);
    while at < size {
        let Some(mut header) = Header::read(file, at, size)? else {
            return Ok(End { at, in_frame: false, frame });
        };
        frame = at;
        loop {
            let Some(block) = block(file, header.end, size)? else {
                return Ok(End { at: header.end, in_frame: true, frame });
            };
            header.end = block.end;
            if block.last {
                break;
            }
        }
        let end = header.end + if header.checksum { 4 } else { 0 };
        if end > size {
            return Ok(End { at, in_frame: false, frame });
        }
        at = end;
    }
    Ok(End { at, in_frame: false, frame })
}

struct Header {
    end: u64,
    checksum: bool,
}

impl Header {
    /// The frame header at `at`; `None` if the file ends within it. An error: this is no frame, or reading fails.
    fn read(file: &File, at: u64, size: u64) -> io::Result<Option<Self>> {
        let Some([magic @ .., descriptor]) = read::<5>(file, at, size)? else { return Ok(None) };
        if u32::from_le_bytes(magic) != 0xfd2f_b528 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a zstd file"));
        }
        let single_segment = descriptor & 0x20 != 0;
        let window = u64::from(!single_segment);
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content_size = match descriptor >> 6 {
            0 => u64::from(single_segment),
            bits => 1 << bits,
        };
        let end = at + 5 + window + dictionary + content_size;
        Ok((end <= size).then_some(Self { end, checksum: descriptor & 4 != 0 }))
    }
}

struct Block {
    end: u64,
    last: bool,
}

/// The block at `at`; `None` if the file ends within it. An error: the block's type is reserved, or reading fails.
fn block(file: &File, at: u64, size: u64) -> io::Result<Option<Block>> {
    let Some([a, b, c]) = read::<3>(file, at, size)? else { return Ok(None) };
    let header = u32::from_le_bytes([a, b, c, 0]);
    let length = match header >> 1 & 3 {
        // An RLE block: one byte, which is to be repeated.
        1 => 1,
        3 => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is a damaged zstd file")),
        _ => u64::from(header >> 3),
    };
    let end = at + 3 + length;
    Ok((end <= size).then_some(Block { end, last: header & 1 != 0 }))
}

fn read<const N: usize>(file: &File, at: u64, size: u64) -> io::Result<Option<[u8; N]>> {
    if at + N as u64 > size {
        return Ok(None);
    }
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_cut_anywhere_can_be_decompressed_up_to_where_its_end_is_found() {
        let mut bytes = zstd::encode_all(&b"first frame\n"[..], 1).unwrap();
        let first = bytes.len();
        let mut encoder = zstd::stream::write::Encoder::new(&mut bytes, 1).unwrap();
        for number in 0..20 {
            writeln!(encoder, "line {number}").unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap();
        for cut in 0..=bytes.len() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes[..cut]).unwrap();
            let end = end(&file, cut as u64).unwrap();
            let at = usize::try_from(end.at).unwrap();
            assert!(at <= cut && cut - at < 40, "{cut}: {end:?}");
            assert_eq!(end.in_frame, ![0, first, bytes.len()].contains(&at), "{cut}: {end:?}");
            let mut whole = bytes[..at].to_vec();
            if end.in_frame {
                whole.extend_from_slice(super::super::frame::LAST_BLOCK);
            }
            if at > 0 {
                let text = zstd::decode_all(&whole[..]).unwrap();
                assert!(text.is_empty() || text.ends_with(b"\n"));
            }
        }
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"{\"v\":1}\n").unwrap();
        assert_eq!(end(&file, 8).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
