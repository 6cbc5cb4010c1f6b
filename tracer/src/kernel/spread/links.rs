//! Makes and takes over links of the spreader's programs to cgroups. Each is pinned by the name of the hook and the cgroup's id.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, links::FdLink},
};

use super::programs::{CgroupTarget, program, text};
use crate::kernel::{spread::pinned::Pins, sys};

/// A link of the spreader. It exists as long as this or its pin.
#[derive(Debug)]
pub(crate) struct Link {
    /// Name under which it is pinned: `HOOK@CGROUP_ID`, such as `connect4@4711`.
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

impl Link {
    /// Whether its cgroup still exists: without it, the link has no effect. False also if the kernel does not say.
    pub(crate) fn is_alive(&self) -> bool {
        sys::cgroup_of(self.fd.as_fd()).is_ok_and(|id| id != 0)
    }
}

/// Takes over the link that is pinned as `name`: from now on it runs the program of the name `form`. `None`: there is no such
/// link or program, or the link cannot be taken over, and is removed if that is possible. `id`: the id of the cgroup that it
/// must be attached to.
pub(crate) fn adopt(ebpf: &mut Ebpf, pins: &Pins, name: &str, form: &str, id: u64) -> Option<Link> {
    let fd = pins.open_link(name).ok()?;
    let program = program(ebpf, form).ok()?;
    let adopted = sys::cgroup_of(fd.as_fd()).is_ok_and(|found| found == id)
        && program.fd().is_ok_and(|program| sys::update_link(fd.as_fd(), program.as_fd()).is_ok());
    if !adopted {
        // It is a link to a cgroup that is gone, or cannot run the new program.
        pins.remove_link(name).ok()?;
        return None;
    }
    Some(Link { name: name.to_owned(), fd })
}

/// Attaches the program of the name `form` to a cgroup, and pins the link as `name`.
///
/// # Errors
/// The reason, as a text for people: the program cannot be attached, or the link not pinned.
pub(crate) fn create(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &str,
    form: &str,
    target: &CgroupTarget,
) -> Result<Link, String> {
    let program = program(ebpf, form)?;
    // As in attach/one.rs: a cgroup link allows other programs in every mode.
    let id = program.attach(&target.directory, CgroupAttachMode::Single).map_err(text)?;
    let link: FdLink = program.take_link(id).map_err(text)?.try_into().map_err(text)?;
    let path = pins.link_path(name).map_err(text)?;
    drop(link.pin(&path).map_err(text)?);
    let fd = pins.open_link(name).map_err(text)?;
    Ok(Link { name: name.to_owned(), fd })
}
