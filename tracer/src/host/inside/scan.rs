//! Searches a program for texts that say what it is: its version, its paths.

use std::io::{self, Read};

use memchr::memmem;

/// Bytes that are searched at a time.
const PIECE: usize = 256 << 10;
/// The most bytes of a text after its beginning.
const LONGEST: usize = 256;
/// Bytes of a piece that are searched again with the next one, so that no text is cut: its beginning and [`LONGEST`].
const OVERLAP: usize = LONGEST + 64;

/// A text to search for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// How it begins; 64 bytes at most.
    pub begins: &'static str,
    /// Whether what follows the beginning is what is wanted; if not, the search goes on. It is called with the text up to the
    /// next space, quote, or byte that is no printable ASCII character: 256 bytes at most.
    pub fits: fn(&str) -> bool,
}

/// For each wanted text, what follows its first occurrence that fits, up to the end that [`Wanted::fits`] names; `None`: there is
/// none in the first `most` bytes.
///
/// # Errors
/// It cannot be read.
pub fn find<const N: usize>(
    mut from: impl Read,
    most: u64,
    wanted: [Wanted; N],
) -> io::Result<[Option<String>; N]> {
    let mut found = [const { None }; N];
    let mut piece = Vec::new();
    let mut left = most;
    loop {
        let room = PIECE.saturating_sub(piece.len());
        let part = left.min(u64::try_from(room).unwrap_or(u64::MAX));
        let count = from.by_ref().take(part).read_to_end(&mut piece)?;
        left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        let last = count < room;
        // Texts that begin in the overlap may go on in the next piece.
        let end = if last { piece.len() } else { piece.len().saturating_sub(OVERLAP) };
        for (found, wanted) in found.iter_mut().zip(&wanted).filter(|(found, _)| found.is_none()) {
            *found = first(&piece, end, wanted);
        }
        if last || found.iter().all(Option::is_some) {
            return Ok(found);
        }
        piece.drain(..end);
    }
}

/// What follows the first occurrence that begins before `end`.
fn first(piece: &[u8], end: usize, wanted: &Wanted) -> Option<String> {
    let begins = memmem::find_iter(piece, wanted.begins).take_while(|at| *at < end);
    let texts = begins.map(|at| {
        let after = piece.get(at + wanted.begins.len()..).unwrap_or_default();
        let letters = after.iter().take(LONGEST).take_while(|byte| byte.is_ascii_graphic());
        letters.map(|byte| char::from(*byte)).take_while(|it| !matches!(it, '\'' | '"'))
    });
    texts.map(Iterator::collect::<String>).find(|text| (wanted.fits)(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Wanted = Wanted { begins: "nginx/1.", fits: |it| it.starts_with("22.") };
    const PATH: Wanted = Wanted { begins: "--conf-path=", fits: |it| it.starts_with('/') };

    /// A reader that returns few bytes at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let most = to.len().min(1000);
            self.0.read(&mut to[..most])
        }
    }

    #[test]
    fn texts_are_found_at_every_place_of_a_piece() {
        for before in (0..60).map(|step| PIECE - OVERLAP - 50 + step * 7) {
            let mut bytes = vec![0; before];
            bytes.extend(b"nginx/1.html\0nginx/1.22.1\0 --conf-path=/etc/nginx.conf --x");
            bytes.resize(before + PIECE, b'x');
            let found = find(Slow(&bytes), u64::MAX, [VERSION, PATH]).unwrap();
            assert_eq!(found.map(Option::unwrap), ["22.1", "/etc/nginx.conf"], "{before}");
        }
    }

    #[test]
    fn the_search_ends_at_the_limit_and_texts_are_short() {
        let mut bytes = vec![0; 1000];
        bytes.extend(b"nginx/1.22.");
        bytes.extend([b'9'; 1000]);
        assert_eq!(find(&bytes[..], 1000, [VERSION]).unwrap(), [None]);
        let [found] = find(&bytes[..], 3000, [VERSION]).unwrap();
        assert_eq!(found.unwrap().len(), LONGEST);
        assert_eq!(find(&b""[..], 3000, [VERSION]).unwrap(), [None]);
    }
}
