//! The version of nginx, and what depends on it.

use std::fmt;

use super::value::number;

/// A version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    /// Parses `1.22.1`; what follows after a further point is ignored. `None`: it does not begin with three numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(number);
        let [major, minor, patch] = [numbers.next()??, numbers.next()??, numbers.next()??];
        Some(Self { major, minor, patch })
    }

    /// Whether connections to servers of an `upstream` are kept by default, with HTTP/1.1 and without `Connection: close`: from
    /// 1.29.7 on.
    pub fn keeps_by_default(self) -> bool {
        self >= Self { major: 1, minor: 29, patch: 7 }
    }

    /// After how many requests a kept connection is closed by default: 1,000 from 1.19.10 on, 100 before.
    pub fn requests(self) -> u64 {
        if self >= (Self { major: 1, minor: 19, patch: 10 }) { 1000 } else { 100 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_changed_with_some_versions() {
        let of = |text| Version::parse(text).unwrap();
        assert_eq!(of("1.22.1").to_string(), "1.22.1");
        assert_eq!(
            ["1.29.6", "1.29.7", "1.30.0", "2.0.0"].map(|it| of(it).keeps_by_default()),
            [false, true, true, true]
        );
        assert_eq!(["1.19.9", "1.19.10"].map(|it| of(it).requests()), [100, 1000]);
        assert_eq!(of("1.25.3.1"), of("1.25.3"));
        for text in ["", "1", "1.2", "1.x.3", "1.2.3-4", "a.b.c"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
