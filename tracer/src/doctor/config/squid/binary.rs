//! What Squid's program file says of itself. It is read, never run.

use std::path::{Path, PathBuf};

use memchr::memmem;

/// Bytes of a text in the program that are looked at.
const LONGEST: usize = 255;

/// A version of Squid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    /// As it stands there: `5.7`, `6.0.0-20220412-rb706999c1`.
    pub text: String,
    /// Its first three numbers; those that are missing are 0.
    pub numbers: [u32; 3],
}

impl Version {
    /// Whether bind() of an address, without a port, leaves the choice of the port to connect() (IP_BIND_ADDRESS_NO_PORT): from
    /// 6.0.1 on.
    pub fn leaves_port_to_connect(&self) -> bool {
        self.numbers >= [6, 0, 1]
    }
}

/// The first version in a program file (`squid/5.7`, a text of at most 254 bytes that NULs enclose). `program`: the bytes of the
/// file. `None`: it is not there, so it may be no Squid.
pub fn version(program: &[u8]) -> Option<Version> {
    let begin = b"\0squid/";
    let texts = memmem::find_iter(program, begin).filter_map(|at| {
        let rest = program.get(at + begin.len()..)?;
        let text = rest.get(..rest.iter().take(LONGEST).position(|byte| *byte == 0)?)?;
        let version =
            text.first().is_some_and(u8::is_ascii_digit) && text.iter().all(u8::is_ascii_graphic);
        version.then(|| String::from_utf8_lossy(text).into_owned())
    });
    let text = texts.into_iter().next()?;
    let mut numbers = [0; 3];
    let digits = text.split(|letter: char| letter != '.' && !letter.is_ascii_digit()).next();
    for (number, digits) in numbers.iter_mut().zip(digits.unwrap_or_default().split('.')) {
        *number = digits.parse().unwrap_or_default();
    }
    Some(Version { text, numbers })
}

/// The configuration that a Squid reads: that of `-f` on its command line, else the first path in its program file that ends with
/// `/squid.conf`. `arguments`: of /proc/PID/cmdline, the program's name first. `folder`: where relative paths begin. `program`:
/// the bytes of its program file. `None`: neither is known, or `-f` has no argument.
pub fn path(arguments: &[String], folder: &Path, program: &[u8]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("-f") {
            Some("") => return Some(folder.join(arguments.next()?)),
            Some(path) => return Some(folder.join(path)),
            None => {}
        }
    }
    let end = b"/squid.conf\0";
    memmem::find_iter(program, end).find_map(|at| {
        let before = program.get(at.saturating_sub(LONGEST)..at + end.len() - 1)?;
        let begin = before.iter().rposition(|byte| *byte == 0)?;
        let path = std::str::from_utf8(before.get(begin + 1..)?).ok()?;
        (path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the program of Debian 12: the texts, each with its end.
    const PROGRAM: &[u8] = b"x\0from squid.conf\0squid/\0squid/5.7\0squid/9\0see /squid.conf\0/etc/squid/squid.conf\0-f\0";

    #[test]
    fn the_version_is_a_text_of_its_own() {
        let expected = Version { text: "5.7".into(), numbers: [5, 7, 0] };
        assert_eq!(version(PROGRAM), Some(expected));
        for other in
            [&b"squid/5.7\0"[..], b"\0squid/5.7", b"\0squid/x\0", b"\0squid/5.7 (Debian)\0", b""]
        {
            assert_eq!(version(other), None, "{other:?}");
        }
    }

    #[test]
    fn from_6_0_1_on_the_port_is_left_to_connect() {
        let of = |text: &str| {
            version(format!("\0squid/{text}\0").as_bytes()).unwrap().leaves_port_to_connect()
        };
        let old = ["3.5.27", "5.7", "5.99", "6.0.0-20220412-rb706999c1", "6"].map(of);
        assert_eq!(old, [false; 5]);
        assert_eq!(["6.0.1", "6.1", "6.13", "7.0.0-VCS", "10.2"].map(of), [true; 5]);
    }

    #[test]
    fn the_command_line_says_more_than_the_program() {
        let path = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            path(&arguments, Path::new("/srv"), PROGRAM)
        };
        assert_eq!(path(&["(squid-1)", "--kid", "squid-1"]), Some("/etc/squid/squid.conf".into()));
        assert_eq!(path(&["squid", "-sYC", "-f", "/a.conf"]), Some("/a.conf".into()));
        assert_eq!(path(&["squid", "-fb.conf"]), Some("/srv/b.conf".into()));
        assert_eq!(path(&["squid", "-f"]), None);
        assert_eq!(super::path(&[], Path::new("/"), b"\0/squid.conf"), None);
    }
}
