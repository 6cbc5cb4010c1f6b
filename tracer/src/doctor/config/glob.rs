//! Paths with patterns of the shell (glob(7)), and the files that they stand for.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    str::Chars,
};

use super::files::Files;

/// The longest pattern of a name: no name of a file is longer.
const LONGEST: usize = 255;
/// The longest path: the kernel opens no longer one.
const LONGEST_PATH: usize = 4096;

/// Whether a path, or a part of it, is a pattern: it has a `*`, `?` or `[`, as nginx checks it (`ngx_conf_include`,
/// src/core/ngx_conf_file.c).
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The limits for all patterns of a configuration, of which [`expand`] subtracts what it uses: another process chooses both the
/// patterns and the names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most names that one folder may have. Nothing is subtracted from it.
    pub(super) folder: usize,
    /// Names that may still be read, those of a folder that is read several times counted each time; each folder that is read
    /// counts as one more.
    pub(super) names: usize,
    /// Bytes that the paths may still have that are found, those of folders on the way included.
    pub(super) bytes: usize,
}

/// Why the files of a pattern are not known.
#[derive(Debug)]
pub(super) enum Refused {
    /// A name with a pattern is longer than 255 bytes, or the whole path with a pattern longer than 4,096.
    TooLong,
    /// A limit of [`Limits`] is reached at this folder.
    TooMany(PathBuf),
    /// This folder cannot be read, for another reason than that it does not exist or is no folder.
    Unread(PathBuf, io::Error),
}

/// The paths that an absolute path with or without patterns stands for, those of a folder sorted. A path without a pattern is
/// itself, whether there is such a file or not, and uses no limit. After a pattern, a plain last name stands only for files that
/// exist. A folder that does not exist has no paths; if nothing fits, the list is empty.
///
/// # Errors
/// See [`Refused`]. Limits stay used then.
pub(super) fn expand(
    files: &dyn Files,
    path: &Path,
    limits: &mut Limits,
) -> Result<Vec<PathBuf>, Refused> {
    if !is_pattern(&path.to_string_lossy()) {
        return Ok(vec![path.to_owned()]);
    }
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(Refused::TooLong);
    }
    let mut found = vec![PathBuf::new()];
    // What comes after the last pattern: added to each folder at once.
    let mut plain = PathBuf::new();
    let mut after_pattern = false;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let text = part.as_os_str().to_string_lossy();
        let is_pattern = is_pattern(&text);
        // The name of a file after a pattern of its folder stands for the files that there are.
        if !is_pattern && (!after_pattern || parts.peek().is_some()) {
            plain.push(part);
            continue;
        }
        after_pattern |= is_pattern;
        let pattern = Pattern::new(&text).ok_or(Refused::TooLong)?;
        let mut next = Vec::new();
        for mut folder in found {
            if plain != Path::new("") {
                folder.push(&plain);
            }
            for name in names(files, &folder, limits)? {
                if pattern.fits(&name) {
                    let path = folder.join(name);
                    let left = limits.bytes.checked_sub(path.as_os_str().len());
                    limits.bytes = left.ok_or_else(|| Refused::TooMany(folder.clone()))?;
                    next.push(path);
                }
            }
        }
        found = next;
        plain = PathBuf::new();
    }
    Ok(found)
}

/// The names in a folder; none if there is no such folder.
fn names(files: &dyn Files, folder: &Path, limits: &mut Limits) -> Result<Vec<String>, Refused> {
    let too_many = || Refused::TooMany(folder.to_owned());
    limits.names = limits.names.checked_sub(1).ok_or_else(too_many)?;
    match files.names(folder, limits.names.min(limits.folder)) {
        Ok((names, more)) => {
            limits.names = limits.names.saturating_sub(names.len());
            if more { Err(too_many()) } else { Ok(names) }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(Refused::Unread(folder.to_owned(), error)),
    }
}

/// A pattern of a name.
struct Pattern(Vec<char>);

impl Pattern {
    /// `None`: it is too long.
    fn new(text: &str) -> Option<Self> {
        (text.len() <= LONGEST).then(|| Self(text.chars().collect()))
    }

    /// Whether a name fits: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before a letter that stands for itself. A point at the
    /// beginning of a name fits a point only. The time is at most in proportion to the product of both lengths.
    fn fits(&self, name: &str) -> bool {
        let mut pattern = self.0.as_slice();
        if name.starts_with('.') && pattern.first() != Some(&'.') {
            return false;
        }
        let mut name = name.chars();
        // What is tried next if the rest does not fit: the last `*` stands for one letter more.
        let mut retry: Option<(&[char], Chars<'_>)> = None;
        loop {
            if let ['*', rest @ ..] = pattern {
                retry = Some((rest, name.clone()));
                pattern = rest;
                continue;
            }
            let mut after = name.clone();
            let Some(letter) = after.next() else { return pattern.is_empty() };
            if let Some(rest) = one(pattern, letter) {
                (pattern, name) = (rest, after);
                continue;
            }
            let Some((rest, taken)) = &mut retry else { return false };
            taken.next();
            (pattern, name) = (*rest, taken.clone());
        }
    }
}

/// The rest of the pattern after what stands for one letter; `None`: it does not fit this one.
fn one(pattern: &[char], letter: char) -> Option<&[char]> {
    match pattern {
        ['?', rest @ ..] => Some(rest),
        ['[', set @ ..] => match in_set(set, letter) {
            Some((fits, rest)) => fits.then_some(rest),
            // Without an end it is no set.
            None => (letter == '[').then_some(set),
        },
        ['\\', it, rest @ ..] | [it, rest @ ..] => (*it == letter).then_some(rest),
        [] => None,
    }
}

/// Whether a letter is in the set that begins here, after its `[`, and what follows the set; `None`: it does not end.
fn in_set(set: &[char], letter: char) -> Option<(bool, &[char])> {
    let (without, mut rest) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut found = false;
    let mut first = true;
    loop {
        rest = match rest {
            [']', rest @ ..] if !first => return Some((found != without, rest)),
            [low, '-', high, rest @ ..] if *high != ']' => {
                found |= (*low..=*high).contains(&letter);
                rest
            }
            [it, rest @ ..] => {
                found |= *it == letter;
                rest
            }
            [] => return None,
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;
    use crate::{
        doctor::config::files::{Contents, Memory},
        host::test_mutations::cpu_time,
    };

    const LIMITS: Limits = Limits { folder: 10_000, names: 65_536, bytes: 1 << 20 };

    fn fits(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().fits(name)
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            (".*.conf", ".a.conf", true),
            ("*.conf", "a.conf~", false),
            ("*", "", true),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
            ("*a*b", "xaxb", true),
            ("*a*b", "xbxa", false),
            ("?.conf", "a.conf", true),
            ("?.conf", "ab.conf", false),
            ("[a-c]1", "b1", true),
            ("[a-c]1", "d1", false),
            ("[!a-c]1", "d1", true),
            ("[]a]", "]", true),
            ("[a", "[a", true),
            ("[a-]", "-", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a", "ab", false),
            ("ab", "a", false),
            ("a*", "a", true),
            ("a**b", "a", false),
            ("", "a", false),
            ("*ä?", "xäö", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert!(is_pattern("a*") && is_pattern("[") && !is_pattern("a.conf"));
        assert!(Pattern::new(&"*".repeat(LONGEST + 1)).is_none());
    }

    #[test]
    fn a_pattern_of_many_stars_takes_bounded_time() {
        let took = cpu_time(|| {
            let pattern = "*a".repeat(LONGEST / 2);
            for _ in 0..100 {
                assert!(!fits(&pattern, &"a".repeat(LONGEST / 3)));
                assert!(!fits(&format!("*{}b", "a".repeat(100)), &"a".repeat(LONGEST)));
                assert!(!fits(&format!("*{}[", "[a".repeat(100)), &"[a".repeat(LONGEST / 2)));
            }
        });
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn paths_are_expanded_in_every_folder_and_hidden_files_are_not() {
        let files = Memory::of(&[
            ("/etc/squid/conf.d/b.conf", ""),
            ("/etc/squid/conf.d/a.conf", ""),
            ("/etc/squid/conf.d/.c.conf", ""),
            ("/etc/squid/x.d/d.conf", ""),
            ("/etc/squid/x.d/on/d.conf", ""),
        ]);
        let of = |pattern: &str| {
            let paths = expand(&files, Path::new(pattern), &mut { LIMITS }).unwrap();
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let conf_d = ["/etc/squid/conf.d/a.conf", "/etc/squid/conf.d/b.conf"];
        assert_eq!(of("/etc/squid/conf.d/*.conf"), conf_d);
        assert_eq!(of("/etc/squid/*.d/[ad].conf").len(), 2);
        assert_eq!(of("/etc/*/x.d/on/d.conf"), ["/etc/squid/x.d/on/d.conf"]);
        assert_eq!(of("/etc/squid/*/d.conf"), ["/etc/squid/x.d/d.conf"]);
        assert_eq!(of("/none/*"), [""; 0]);
        assert_eq!(of("/none/a.conf"), ["/none/a.conf"]);
    }

    /// Folders that each have this many folders.
    struct Many(usize, Cell<usize>);

    impl Files for Many {
        fn head(&self, _: &Path, _: usize) -> io::Result<Contents> {
            Err(ErrorKind::NotFound.into())
        }

        fn tail(&self, _: &Path, _: usize) -> io::Result<Contents> {
            Err(ErrorKind::NotFound.into())
        }

        fn names(&self, _: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
            self.1.set(self.1.get() + 1);
            Ok(((0..self.0.min(most)).map(|at| at.to_string()).collect(), self.0 > most))
        }
    }

    #[test]
    fn folders_with_very_many_names_are_bounded_for_all_patterns_together() {
        let ten_thousand = Many(10_000, Cell::default());
        let mut limits = LIMITS;
        let one = |limits: &mut Limits| expand(&ten_thousand, Path::new("/d/1234*"), limits);
        assert_eq!(one(&mut limits).unwrap(), [Path::new("/d/1234")]);
        while let Ok(found) = one(&mut limits) {
            assert_eq!(found.len(), 1);
        }
        assert!(
            matches!(one(&mut limits), Err(Refused::TooMany(folder)) if folder == Path::new("/d"))
        );
        // Once the limit is reached, no folder is read any more.
        let count = ten_thousand.1.get();
        assert!(one(&mut limits).is_err() && count <= 8, "{count}");
        assert_eq!(ten_thousand.1.get(), count);
        let more = Many(10_001, Cell::default());
        assert!(expand(&more, Path::new("/d/1*"), &mut { LIMITS }).is_err());
        let deep = Many(20, Cell::default());
        assert!(expand(&deep, Path::new("/*/*/*/*/*/*/*"), &mut { LIMITS }).is_err());
        assert!(deep.1.get() < 10_000);
        let long = format!("/*/{}", "x/".repeat(2_100));
        assert!(matches!(expand(&deep, Path::new(&long), &mut { LIMITS }), Err(Refused::TooLong)));
    }
}
