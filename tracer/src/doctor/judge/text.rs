//! Formats what the findings show: numbers, times, rates, names and subjects; and the options and commands in their advice, with
//! names quoted for a shell.

use std::fmt::Write as _;

use crate::doctor::finding::{Place, Process, Subject};
pub(super) use crate::{doctor::tuples::ip, format::number::number};

/// A number of something, or a factor: one digit after the point below 10, else none; `unlimited` if it is not finite.
pub(super) fn short(number: f64) -> String {
    if !number.is_finite() {
        return "unlimited".to_owned();
    }
    if number < 10.0 {
        return format!("{number:.1}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    self::number(number.round() as u64)
}

/// `1 packet`, `28 packets`. `one`, `many`: what is counted, in singular and plural.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// A rate per second: without decimals from 100 on, with one from 1 on, else with two; below 0.01 with as many (6 at
/// most) as show one that is not 0.
pub(super) fn rate(rate: f64) -> String {
    match rate {
        0.000_001..0.01 => {
            let digits = (2..=6).find(|digits| rate * 10_f64.powi(*digits) >= 1.0).unwrap_or(6);
            format!("{rate:.*}", usize::try_from(digits).unwrap_or(6))
        }
        ..1.0 => format!("{rate:.2}"),
        1.0..100.0 => format!("{rate:.1}"),
        _ => short(rate),
    }
}

/// A time in seconds, as people say it: `0.4 ms`, `0.02 s`, `4.5 s`, `62 s` (rounded up from 10 s on), `9 min` (from 120 s on),
/// `3 h` (from 2 h on); `0 s` below 0.05 ms.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.000_05 => "0 s".to_owned(),
        0.000_05..0.01 => format!("{:.1} ms", seconds * 1e3),
        ..1.0 => format!("{seconds:.2} s"),
        1.0..10.0 => format!("{} s", format!("{seconds:.1}").trim_end_matches(".0")),
        10.0..120.0 => format!("{:.0} s", seconds.ceil()),
        120.0..7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3_600.0),
    }
}

/// A time in nanoseconds, as people say it: `42.0 µs`, `740 µs`, `2.1 ms`.
pub(super) fn duration_ns(ns: f64) -> String {
    match ns {
        ..1e5 => format!("{:.1} µs", ns / 1e3),
        1e5..1e6 => format!("{:.0} µs", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

/// A number with four digits after the point, for programs.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// A share (1 is all of it; more is allowed) in percent: `97 %`. Never 100 % for less than all, nor 0 % for more than none.
pub(super) fn percent(share: f64) -> String {
    let rounded = (share * 100.0).round();
    let shown = if share < 1.0 && rounded >= 100.0 {
        99.0
    } else if share > 0.0 && rounded < 1.0 {
        1.0
    } else {
        rounded
    };
    format!("{shown} %")
}

/// The option that leads a command of `tracer` to this namespace, by its name or else its inode number, with a space before it;
/// empty for the namespace of this process.
pub(super) fn netns_option(place: &Place) -> String {
    if place.own {
        return String::new();
    }
    let name = place.name.clone().unwrap_or_else(|| place.inum.to_string());
    // What begins with a hyphen would be an option of its own.
    let between = if name.starts_with('-') { '=' } else { ' ' };
    format!(" --netns{between}{}", quoted(&name))
}

/// The command that looks at this namespace again: `tracer doctor`, with `--netns` unless it is the namespace of this process.
pub(crate) fn look_again(place: &Place) -> String {
    format!("tracer doctor{}", netns_option(place))
}

/// The option of `tracer spread` that names the programs of this cgroup (a path from the root of the hierarchy); `--all` for all
/// programs if it is the root, not known (`None`), longer than 250 bytes, or has a name that a line cannot show.
pub(super) fn cgroup_option(path: Option<&str>) -> String {
    let shown = |path: &&str| path.len() <= LONGEST_PATH && !path.contains(is_unprintable);
    match path.filter(shown) {
        None | Some("" | "/") => "--all".to_owned(),
        Some(path) => format!("--cgroup {}", quoted(path)),
    }
}

/// A longer path is not put into a command, in bytes.
const LONGEST_PATH: usize = 250;

/// Whether a character of a name is replaced when it is shown, or was when it was read.
pub(super) fn is_unprintable(letter: char) -> bool {
    letter == char::REPLACEMENT_CHARACTER || crate::format::text::is_harmful(letter)
}

/// This command, to be run in a shell in the namespace of this process, so that it runs in `place`. `None`: nothing is known by
/// which `place` can be entered, and in the namespace of the shell the command would change the wrong one.
pub(super) fn command_in(place: &Place, command: &str) -> Option<String> {
    match (&place.name, &place.path) {
        _ if place.own => Some(command.to_owned()),
        (Some(name), _) => Some(format!("ip netns exec {} {command}", quoted(name))),
        (None, Some(path)) => Some(format!("nsenter --net={} {command}", quoted(path))),
        (None, None) => None,
    }
}

/// A word as a shell reads it: as it is, or in single quotes if it is empty, begins with a hyphen, or has other characters than
/// letters, digits and `/._-:@`. Whoever may name a namespace must not choose what is pasted into a shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:@".contains(letter);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `10.0.0.8 → 10.0.1.7:8080 in netns proxy`; empty for the whole host, and for the namespace of this process.
pub(in crate::doctor) fn subject(subject: &Subject) -> String {
    let mut text = match subject {
        Subject::Host | Subject::Netns(_) => String::new(),
        Subject::Tuple { source, destination, .. } => format!("{source} → {destination}"),
        Subject::Address { address, .. } if address.port() == 0 => address.ip().to_string(),
        Subject::Address { address, .. } => address.to_string(),
        Subject::Process(process) => self::process(process),
    };
    if let Some(place) = subject.place().filter(|place| !place.own) {
        let space = if text.is_empty() { "" } else { " in " };
        write!(text, "{space}netns {}", name(place)).unwrap_or_default();
    }
    text
}

/// `nginx (process 123, nginx.service)`.
fn process(process: &Process) -> String {
    let container = process.container.as_deref();
    let container = container.map_or_else(String::new, |it| format!(", {}", it.escape_debug()));
    format!("{} (process {}{container})", process.name.escape_debug(), process.pid)
}

/// The name of a namespace, or its inode number.
fn name(place: &Place) -> String {
    match &place.name {
        Some(name) => name.escape_debug().to_string(),
        None => place.inum.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(
            [0.04, 9.96, 454.9, f64::INFINITY].map(short),
            ["0.0", "10.0", "455", "unlimited"]
        );
        assert_eq!([0.016, 15.94, 454.9].map(rate), ["0.02", "15.9", "455"]);
        assert_eq!(
            [0.0, 1e-9, 0.000_2, 0.005, 0.01].map(rate),
            ["0.00", "0.00", "0.0002", "0.005", "0.01"]
        );
        assert_eq!([0.02, 62.05, 600.0].map(seconds), ["0.02 s", "63 s", "10 min"]);
        assert_eq!([0.0, 0.000_4, 0.009].map(seconds), ["0 s", "0.4 ms", "9.0 ms"]);
        assert_eq!(
            [0, 1, 2_000].map(|it| counted(it, "SYN", "SYNs")),
            ["0 SYNs", "1 SYN", "2,000 SYNs"]
        );
        assert_eq!([9_000.0, 740_000.0, 2.1e6].map(duration_ns), ["9.0 µs", "740 µs", "2.1 ms"]);
        assert_eq!(
            [0.0, 0.001, 0.5, 0.999, 1.0].map(percent),
            ["0 %", "1 %", "50 %", "99 %", "100 %"]
        );
    }

    #[test]
    fn programs_are_named_by_their_cgroup_if_it_can_be_written() {
        let of = cgroup_option;
        assert_eq!(
            of(Some("/system.slice/nginx@1.service")),
            "--cgroup /system.slice/nginx@1.service"
        );
        assert_eq!(of(Some("/a b;id")), "--cgroup '/a b;id'");
        for path in
            [None, Some("/"), Some(""), Some("/a\u{1b}[2J"), Some("/a\u{fffd}"), Some("/a\nid")]
        {
            assert_eq!(of(path), "--all", "{path:?}");
        }
        assert_eq!(of(Some(&"/a".repeat(200))), "--all");
    }

    #[test]
    fn a_namespace_cannot_put_a_command_into_a_shell() {
        let place = |name: &str| Place { inum: 7, name: Some(name.to_owned()), ..Place::default() };
        assert_eq!(netns_option(&place("blue-1")), " --netns blue-1");
        assert_eq!(netns_option(&place("a;rm -rf 'x'")), r" --netns 'a;rm -rf '\''x'\'''");
        assert_eq!(netns_option(&place("-h")), " --netns='-h'");
        assert_eq!(netns_option(&Place { own: true, ..place("blue") }), "");
        assert_eq!(netns_option(&Place { name: None, ..place("") }), " --netns 7");
        let of = |place: &Place| command_in(place, "sysctl x");
        assert_eq!(of(&place("blue")).as_deref(), Some("ip netns exec blue sysctl x"));
        assert_eq!(of(&Place { own: true, ..place("blue") }).as_deref(), Some("sysctl x"));
    }

    #[test]
    fn a_command_for_a_namespace_without_a_name_enters_it_by_a_file_or_is_not_given() {
        let at = |path: Option<&str>| Place {
            inum: 7,
            path: path.map(str::to_owned),
            ..Place::default()
        };
        let of = |path| command_in(&at(path), "sysctl x");
        let entered = of(Some("/proc/12/ns/net"));
        assert_eq!(entered.as_deref(), Some("nsenter --net=/proc/12/ns/net sysctl x"));
        assert_eq!(of(Some("/a b")).as_deref(), Some("nsenter --net='/a b' sysctl x"));
        // The shell that it is pasted into is in another namespace.
        assert_eq!(of(None), None);
    }
}
