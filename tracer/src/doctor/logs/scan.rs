//! Takes lines apart: into words, at marks, and reads numbers and addresses.

use std::net::{IpAddr, SocketAddr};

use memchr::{memchr, memmem};

/// The text up to the first space, and what follows that space. Without a space, all of it, and nothing.
pub(super) fn word(text: &[u8]) -> (&[u8], &[u8]) {
    split(text, b' ').unwrap_or((text, &[]))
}

/// The text before and after the first byte of this value; `None`: there is none.
pub(super) fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = memchr(at, text)?;
    Some((text.get(..end)?, text.get(end.saturating_add(1)..)?))
}

/// The text before and after the first `mark`; `None`: there is none.
pub(super) fn split_at<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let end = memmem::find(text, mark)?;
    Some((text.get(..end)?, text.get(end.saturating_add(mark.len())..)?))
}

/// The text before and after the last `mark`; `None`: there is none.
pub(super) fn split_last<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let end = memmem::rfind(text, mark)?;
    Some((text.get(..end)?, text.get(end.saturating_add(mark.len())..)?))
}

/// A decimal number of at most 32 bits and 10 digits at the beginning, and what follows; `None`: there is none, or it is larger.
pub(super) fn digits(text: &[u8]) -> Option<(u32, &[u8])> {
    const MOST: usize = 10;
    let end = text.iter().take(MOST + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if end > MOST {
        return None;
    }
    let number = std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    Some((number, text.get(end..)?))
}

/// The errno at the beginning of a text such as `99: …`, which is what follows `failed (`. `end`: the byte that must come after
/// the number. `None`: there is no number (see [`digits`]), or another byte comes after it.
pub(super) fn errno(text: &[u8], end: u8) -> Option<u32> {
    let (number, rest) = digits(text)?;
    (rest.first() == Some(&end)).then_some(number)
}

/// An address, with or without a port, as [`SocketAddr`]; port 0: it has none. `None`: it is no address.
pub(super) fn address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = || {
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inside.unwrap_or(text).parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0))
    };
    text.parse().ok().or_else(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_or_none() {
        let port = |text: &str| address(text.as_bytes()).map(|it| it.port());
        let of = ["10.0.0.1", "10.0.0.1:80", "[::1]", "::1", "[::1]:80"].map(port);
        assert_eq!(of, [Some(0), Some(80), Some(0), Some(0), Some(80)]);
        for none in ["", "unix:/run/a", "host:80", "10.0.0.1:", "10.0.0.1:99999", "[10.0.0.1"] {
            assert_eq!(port(none), None, "{none}");
        }
    }

    #[test]
    fn the_number_of_an_error_ends_where_it_should() {
        assert_eq!(errno(b"99: x", b':'), Some(99));
        assert_eq!(errno(b"99) x", b')'), Some(99));
        for none in ["", "9", "99", ":", "x99:", "9999999999:", "99999999999:", "00000000099:"] {
            assert_eq!(errno(none.as_bytes(), b':'), None, "{none}");
        }
    }
}
