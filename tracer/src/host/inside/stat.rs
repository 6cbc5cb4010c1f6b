//! Reads from /proc/PID/stat when a process began, and its parent.

use std::{
    fs, io,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

use crate::runtime::clock;

/// Resolution of the time at which a process began (USER_HZ).
const TICK_MS: u64 = 10;

/// When the process with this id began, by the wall clock, to 10 ms.
///
/// # Errors
/// There is no such process, or it is hidden.
pub fn began(pid: u32) -> io::Result<SystemTime> {
    began_of(&fs::read(format!("/proc/{pid}/stat"))?)
}

/// When the process began whose /proc/PID/stat has this text, by the wall clock, to 10 ms.
///
/// # Errors
/// It is no such text.
pub(super) fn began_of(text: &[u8]) -> io::Result<SystemTime> {
    let ticks = field(text, 22).ok_or(io::ErrorKind::InvalidData)?;
    let since_boot = Duration::from_millis(ticks.saturating_mul(TICK_MS));
    let up = Duration::from_nanos(clock::ns(clock_gettime(ClockId::Boottime)));
    let age = up.saturating_sub(since_boot);
    Ok(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// Id of the parent of the process whose /proc/PID/stat has this text; 0: it has none.
///
/// # Errors
/// It is no such text.
pub fn parent_of(text: &[u8]) -> io::Result<u32> {
    let parent = field(text, 4).and_then(|parent| u32::try_from(parent).ok());
    parent.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A number of `4711 (name) S 1 …` (proc(5)). The name may have any bytes, so the fields are counted from its end: the one after
/// it is number 3.
fn field(text: &[u8], number: usize) -> Option<u64> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let text = b"7 (a) S 9 (b) S 42 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0\n";
        assert_eq!(field(text, 4), Some(42));
        assert_eq!(field(text, 22), Some(12_345));
        for text in [&b""[..], b"7 (a", b"7 (a) S", b"7 (a) S x"] {
            assert_eq!(field(text, 4), None);
        }
    }

    #[test]
    fn a_process_that_just_began_is_young() {
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let age = SystemTime::now().duration_since(began(child.id()).unwrap()).unwrap();
        let text = fs::read(format!("/proc/{}/stat", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(age < Duration::from_secs(30), "{age:?}");
        assert_eq!(parent_of(&text).unwrap(), process::id());
    }
}
