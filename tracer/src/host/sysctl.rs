//! Reads files below /proc/sys.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Longer than the longest of these files: `ip_local_reserved_ports` with two of every three ports, as ranges, has 249 KiB.
const LONGEST: usize = 256 * 1024;

/// The text of a file below /proc/sys, in one read.
///
/// Most of these files answer only the first read: a second one, at the offset where the first ended, returns "end of
/// file" and not the rest (`proc_do_large_bitmap` and `proc_dointvec` in `kernel/sysctl.c`). So a small first read,
/// such as the 32 bytes with which [`std::fs::read_to_string`] begins, returns these 32 bytes and no more.
///
/// # Errors
/// As [`File::open`] and [`Read::read`]; a text that may be longer than 256 KiB; one that is not UTF-8.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = vec![0; LONGEST];
    let length = loop {
        match file.read(&mut text) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if length == LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 256 KiB"));
    }
    text.truncate(length);
    String::from_utf8(text)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::test_netns;

    #[test]
    fn a_list_of_any_length_is_read_to_its_end() {
        let path = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        test_netns::run(|| {
            // A write is a page at most: 101 bytes, and 4,001.
            for last in [40_032, 41_600] {
                let ports = (40_000..=last).step_by(2).map(|port: u16| port.to_string());
                let wanted = ports.collect::<Vec<_>>().join(",");
                fs::write(path, &wanted).unwrap();
                assert_eq!(read(path).unwrap().trim(), wanted);
            }
        });
    }

    #[test]
    fn a_number_is_read() {
        let osrelease = read("/proc/sys/kernel/osrelease").unwrap();
        assert!(!osrelease.trim().is_empty());
        assert_eq!(read("/proc/sys/no-such").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
