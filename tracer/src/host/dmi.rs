//! Reads the maker of this machine, as its firmware says: a cloud's virtual machines name the cloud.

use std::{fs::File, io::Read};

/// The most bytes of the name that are read.
const LONGEST: u64 = 256;

/// The maker's name in the firmware's tables, for example `Amazon EC2`, 256 bytes at most; `None`: there is none, or it cannot be
/// read. Not every machine has these tables.
pub fn sys_vendor() -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open("/sys/class/dmi/id/sys_vendor").ok()?;
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!name.is_empty()).then_some(name)
}
