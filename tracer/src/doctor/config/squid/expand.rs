//! Paths with wildcards, as glob(7).

use std::path::{Component, Path, PathBuf};

use crate::doctor::config::files::Files;

/// Paths that are made at most, and names of a folder that are looked at.
const MOST: usize = 1_000;
const MOST_NAMES: usize = 10_000;

/// The paths that a pattern from the root folder on matches, sorted within each folder; and whether these are all: not if
/// there are more than 1,000, or a folder has more than 10,000 names. A path without wildcards is itself, whether or not
/// it exists.
pub(super) fn expand(files: &dyn Files, pattern: &Path) -> (Vec<PathBuf>, bool) {
    let mut paths = vec![PathBuf::from("/")];
    let mut all = true;
    for component in pattern.components() {
        let Component::Normal(name) = component else {
            // `..` is left to whoever opens the path, in the process's root folder.
            push(&mut paths, Path::new(&component));
            continue;
        };
        let name = name.to_string_lossy();
        if !name.contains(['*', '?', '[']) {
            push(&mut paths, Path::new(&*name));
            continue;
        }
        let mut found = Vec::new();
        for folder in &paths {
            let Ok((names, more)) = files.names(folder, MOST_NAMES) else { continue };
            all &= !more;
            // A point at the beginning is matched by a point only.
            let seen = |it: &&String| !it.starts_with('.') || name.starts_with('.');
            found.extend(
                names.iter().filter(seen).filter(|it| matches(&name, it)).map(|it| folder.join(it)),
            );
            if found.len() > MOST {
                found.truncate(MOST);
                all = false;
                break;
            }
        }
        paths = found;
    }
    (paths, all)
}

fn push(paths: &mut [PathBuf], component: &Path) {
    for path in paths {
        path.push(component);
    }
}

/// Whether a pattern matches a name. Takes time in proportion to both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut pattern, mut name) = (&pattern[..], &name[..]);
    // What to go back to: after the last `*`, and one more letter taken by it.
    let mut back: Option<(&[char], &[char])> = None;
    loop {
        if let ['*', rest @ ..] = pattern {
            back = Some((rest, name));
            pattern = rest;
            continue;
        }
        let Some((letter, after)) = name.split_first() else { return pattern.is_empty() };
        if let Some(rest) = one(pattern, *letter) {
            (pattern, name) = (rest, after);
            continue;
        }
        let Some((rest, [_, taken @ ..])) = back else { return false };
        back = Some((rest, taken));
        (pattern, name) = (rest, taken);
    }
}

/// What is left of a pattern after one letter; `None`: the letter does not match.
fn one(pattern: &[char], letter: char) -> Option<&[char]> {
    match pattern {
        ['?', rest @ ..] => Some(rest),
        ['\\', escaped, rest @ ..] => (*escaped == letter).then_some(rest),
        ['[', rest @ ..] => match set(rest, letter) {
            Some((matched, rest)) => matched.then_some(rest),
            None => (letter == '[').then_some(rest),
        },
        [first, rest @ ..] => (*first == letter).then_some(rest),
        [] => None,
    }
}

/// Whether a letter is in a set, and what is after it. `None`: the set is not closed.
fn set(pattern: &[char], letter: char) -> Option<(bool, &[char])> {
    let (negated, mut rest) = match pattern {
        ['!' | '^', rest @ ..] => (true, rest),
        other => (false, other),
    };
    let mut matched = false;
    let mut first = true;
    loop {
        match rest {
            [']', after @ ..] if !first => return Some((matched != negated, after)),
            [low, '-', high, after @ ..] if *high != ']' => {
                matched |= (*low..=*high).contains(&letter);
                rest = after;
            }
            [single, after @ ..] => {
                matched |= *single == letter;
                rest = after;
            }
            [] => return None,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::config::files::Memory;

    #[test]
    fn patterns_match_as_glob_does() {
        let yes = [
            ("*.conf", "a.conf"),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[!a]", "b"),
            ("*a*b", "xaxb"),
            ("*", ""),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        let no = [
            ("*.conf", "a.confx"),
            ("a?c", "ac"),
            ("[a-c]x", "dx"),
            ("[!a]", "a"),
            ("*a*b", "xbxa"),
            ("", "a"),
        ];
        for (pattern, name) in no {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(
            matches("[a", "[a")
                && matches(r"\*", "*")
                && !matches(r"\*", "x")
                && matches("[]]", "]")
        );
    }

    #[test]
    fn many_stars_take_no_more_time_than_one() {
        assert!(!matches(&"*a".repeat(100), &"a".repeat(99)));
        assert!(!matches(&format!("{}b", "*a".repeat(50)), &"a".repeat(10_000)));
    }

    #[test]
    fn paths_are_expanded_in_every_folder_and_hidden_files_are_not() {
        let files = Memory::of(&[
            ("/etc/squid/conf.d/b.conf", ""),
            ("/etc/squid/conf.d/a.conf", ""),
            ("/etc/squid/conf.d/.c.conf", ""),
            ("/etc/squid/x.d/d.conf", ""),
        ]);
        let of = |pattern: &str| {
            let (paths, all) = expand(&files, Path::new(pattern));
            assert!(all);
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            of("/etc/squid/conf.d/*.conf"),
            ["/etc/squid/conf.d/a.conf", "/etc/squid/conf.d/b.conf"]
        );
        assert_eq!(of("/etc/squid/*.d/[ad].conf").len(), 2);
        assert_eq!(of("/none/*"), [""; 0]);
        assert_eq!(of("/none/a.conf"), ["/none/a.conf"]);
    }
}
