//! Finds out whether the kernel takes programs on trampolines (fentry) before tables are made for them: a backend that is refused
//! only with its first program has cost the tables, and the time to fill them with zeros.

use std::io;

use super::{btf::Btf, open_files::unlimited, sys};

/// A function at whose entry the fexit backend needs a program.
const FUNCTION: &str = "inet_twsk_kill";
/// `r0 = 0; exit`
const PROGRAM: [u64; 2] = [0xb7, 0x95];

/// Why the kernel refuses a program that does nothing at the entry of a function at which the fexit backend needs one; `None`: it
/// accepts that, or it is not certain that it would refuse it again. Nothing is attached.
pub fn refusal(btf: &Btf) -> Option<io::Error> {
    let function = btf.function_id(FUNCTION)?;
    unlimited(|| sys::load_fentry(&PROGRAM, function)).err().filter(is_lasting)
}

/// Whether the error says that the kernel does not do this or does not allow it: not that a signal came, or that memory is short.
fn is_lasting(error: &io::Error) -> bool {
    /// ENOTSUPP, which the kernel returns and no header has.
    const NOT_SUPPORTED: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP | NOT_SUPPORTED)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_that_would_come_again_counts() {
        let of = io::Error::from_raw_os_error;
        for errno in [libc::EPERM, libc::EACCES, libc::EINVAL, libc::EOPNOTSUPP, 524] {
            assert!(is_lasting(&of(errno)), "{errno}");
        }
        for errno in [libc::EAGAIN, libc::EINTR, libc::ENOMEM] {
            assert!(!is_lasting(&of(errno)), "{errno}");
        }
        assert!(!is_lasting(&io::Error::other("no errno")));
    }
}
