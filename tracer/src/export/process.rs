//! The keys that say who called. A proxy's processes are few and call often, so what was written
//! for each is kept.

use tracer_common::Event;

use super::{json, line::Context};
use crate::text::until_nul;

/// Processes that are kept. A power of two: the low bits of a pid are its place.
const PLACES: usize = 64;

/// What was written for the processes that called last.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    places: Vec<Process>,
}

#[derive(Clone, Debug, Default)]
struct Process {
    pid: u32,
    comm: [u8; 16],
    cgroup: Option<String>,
    container: Option<String>,
    text: Vec<u8>,
}

impl Default for Processes {
    fn default() -> Self {
        Self { places: vec![Process::default(); PLACES] }
    }
}

impl Processes {
    /// The keys for the caller of an event, each with a comma before it. None for an unknown one.
    #[inline]
    pub(super) fn text(&mut self, event: &Event, context: &Context<'_>) -> &[u8] {
        if event.pid == 0 {
            return &[];
        }
        let Some(place) = self.places.get_mut(event.pid as usize % PLACES) else { return &[] };
        let same = place.pid == event.pid
            && place.comm == event.comm
            && place.cgroup.as_deref() == context.cgroup
            && place.container.as_deref() == context.container;
        if !same {
            place.replace(event, context);
        }
        &place.text
    }
}

impl Process {
    #[cold]
    fn replace(&mut self, event: &Event, context: &Context<'_>) {
        self.pid = event.pid;
        self.comm = event.comm;
        self.cgroup = context.cgroup.map(ToOwned::to_owned);
        self.container = context.container.map(ToOwned::to_owned);
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(b",\"process.pid\":");
        json::number(text, event.pid);
        text.extend_from_slice(b",\"process.executable.name\":\"");
        json::text(text, until_nul(&event.comm));
        text.push(b'"');
        if let Some(cgroup) = context.cgroup {
            text.extend_from_slice(b",\"process.linux.cgroup\":\"");
            json::text(text, cgroup.as_bytes());
            text.push(b'"');
        }
        if let Some(container) = context.container {
            text.extend_from_slice(b",\"container.id\":\"");
            json::text(text, container.as_bytes());
            text.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_changes_its_name_cgroup_or_container_is_written_anew() {
        let mut processes = Processes::default();
        let mut text = |pid, comm: &[u8; 16], cgroup, container| {
            let event = Event { pid, comm: *comm, ..Event::default() };
            let context = Context { cgroup, container, ..Context::default() };
            String::from_utf8(processes.text(&event, &context).to_vec()).unwrap()
        };
        let (sh, nginx) = (b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        let pid_and_name = |pid: u32, name: &str| {
            format!(",\"process.pid\":{pid},\"process.executable.name\":\"{name}\"")
        };
        assert_eq!(text(7, sh, None, None), pid_and_name(7, "sh"));
        assert_eq!(text(7, nginx, None, None), pid_and_name(7, "nginx"));
        // The same place.
        assert_eq!(text(71, nginx, None, None), pid_and_name(71, "nginx"));
        assert_eq!(text(7, nginx, None, None), pid_and_name(7, "nginx"));
        let with = pid_and_name(7, "nginx") + ",\"process.linux.cgroup\":\"/a\"";
        assert_eq!(text(7, nginx, Some("/a"), None), with);
        assert_eq!(text(7, nginx, Some("/a"), Some("c")), with + ",\"container.id\":\"c\"");
        assert_eq!(text(0, sh, Some("/a"), None), "");
    }
}
