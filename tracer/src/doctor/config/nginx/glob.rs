//! Names that a pattern of the shell stands for (glob(7)).

/// The longest pattern of a name, in bytes: no name of a file is longer (NAME_MAX).
pub(super) const LONGEST: usize = 255;

/// Whether a part of a path is a pattern, as nginx decides it.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a name fits a pattern: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before a letter that stands for itself. A point at
/// the beginning of a name fits a point only.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut pattern, mut name) = (pattern.as_slice(), name.as_slice());
    // What is tried next if the rest does not fit: the last `*` stands for one letter more.
    let mut retry: Option<(&[char], &[char])> = None;
    loop {
        let fitted = match (pattern, name) {
            ([], []) => return true,
            (['*', rest @ ..], _) => {
                retry = Some((rest, name));
                pattern = rest;
                continue;
            }
            (_, [letter, ..]) => one(pattern, *letter),
            _ => None,
        };
        if let (Some(rest), [_, tail @ ..]) = (fitted, name) {
            (pattern, name) = (rest, tail);
            continue;
        }
        let Some((rest, [_, tail @ ..])) = retry else { return false };
        retry = Some((rest, tail));
        (pattern, name) = (rest, tail);
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
    use super::*;

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
            ("*ä?", "xäö", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert!(is_pattern("a*") && is_pattern("[") && !is_pattern("a.conf"));
    }

    #[test]
    fn a_pattern_of_many_stars_takes_bounded_time() {
        let began = std::time::Instant::now();
        let pattern = "*a".repeat(LONGEST / 2);
        for _ in 0..100 {
            assert!(!fits(&pattern, &"a".repeat(LONGEST / 3)));
            assert!(!fits(&format!("*{}b", "a".repeat(100)), &"a".repeat(LONGEST)));
        }
        assert!(began.elapsed().as_secs() < 10);
    }
}
