//! Formats the keys of an event's line that say which process called. A proxy's threads are few and call often, so the text for
//! each is cached.

use tracer_common::Event;

use crate::{
    format::{json, text::until_nul},
    host::{cgroups::Name, process::Called},
};

/// Number of threads in the cache. A power of two: the low bits of a thread's id are its index.
const PLACES: usize = 64;

/// A cache of the text for the threads that called last.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    places: Vec<Thread>,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    /// The id of its process; 0: nothing is cached here, because no thread had this index yet, or its cgroup's name was not
    /// known.
    pid: u32,
    called: Called,
    cgroup: u64,
    text: Vec<u8>,
}

impl Default for Processes {
    fn default() -> Self {
        Self { places: vec![Thread::default(); PLACES] }
    }
}

impl Processes {
    /// The keys for the caller of an event, each with a comma before it; empty if the caller is unknown (process id 0).
    /// `name` returns the cgroup's name (`None`: not known; then the text has no keys of a cgroup, container or unit); it is
    /// called only if the caller's text is not cached.
    #[inline]
    pub(super) fn text<'a>(
        &mut self,
        event: &Event,
        called: &Called,
        name: impl FnOnce() -> Option<&'a Name>,
    ) -> &[u8] {
        if event.pid == 0 {
            return &[];
        }
        let Some(place) = self.places.get_mut(event.tid as usize % PLACES) else { return &[] };
        let same =
            place.pid == event.pid && place.called == *called && place.cgroup == event.cgroup;
        if !same {
            place.replace(event, called, name());
        }
        &place.text
    }
}

impl Thread {
    #[cold]
    fn replace(&mut self, event: &Event, called: &Called, name: Option<&Name>) {
        // A name that is unknown now may be known later: process id 0 has the next event ask again.
        self.pid = if name.is_some() { event.pid } else { 0 };
        self.called = *called;
        self.cgroup = event.cgroup;
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(b",\"process.pid\":");
        text.extend_from_slice(event.pid.to_string().as_bytes());
        text.extend_from_slice(b",\"process.executable.name\":\"");
        json::text(text, until_nul(&called.name));
        text.push(b'"');
        if let Some(word) = called.of.word() {
            text.extend_from_slice(b",\"process.executable.name.source\":\"");
            text.extend_from_slice(word.as_bytes());
            text.push(b'"');
        }
        if called.thread != [0; 16] {
            text.extend_from_slice(b",\"thread.name\":\"");
            json::text(text, until_nul(&called.thread));
            text.push(b'"');
        }
        let Some(name) = name else { return };
        text.extend_from_slice(b",\"process.linux.cgroup\":\"");
        json::text(text, name.path.as_bytes());
        text.push(b'"');
        if let Some(container) = &name.container {
            text.extend_from_slice(b",\"container.id\":\"");
            json::text(text, container.as_bytes());
            text.push(b'"');
        }
        if let Some(unit) = &name.unit {
            text.extend_from_slice(b",\"systemd.unit\":\"");
            json::text(text, unit.as_bytes());
            text.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::process::NameOf;

    #[test]
    fn a_process_that_changes_its_name_or_cgroup_is_written_anew() {
        let mut processes = Processes::default();
        let mut text = |pid, comm: &[u8; 16], cgroup, name: Option<(&str, Option<&str>)>| {
            let event = Event { pid, tid: 3, cgroup, ..Event::default() };
            let called = Called { name: *comm, ..Called::default() };
            let name = name.map(|(path, container)| Name {
                path: path.into(),
                container: container.map(Into::into),
                unit: None,
            });
            String::from_utf8(processes.text(&event, &called, || name.as_ref()).to_vec()).unwrap()
        };
        let (sh, nginx) = (b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        let pid_and_name = |pid: u32, name: &str| {
            format!(",\"process.pid\":{pid},\"process.executable.name\":\"{name}\"")
        };
        let in_a = |text: String| text + ",\"process.linux.cgroup\":\"/a\"";
        assert_eq!(text(7, sh, 1, None), pid_and_name(7, "sh"));
        // Text without a cgroup's name is not cached: the name that is known now is written.
        assert_eq!(text(7, sh, 1, Some(("/a", None))), in_a(pid_and_name(7, "sh")));
        assert_eq!(text(7, nginx, 1, Some(("/a", None))), in_a(pid_and_name(7, "nginx")));
        // The text comes from the cache: the name is not asked for.
        assert_eq!(text(7, nginx, 1, None), in_a(pid_and_name(7, "nginx")));
        // 7 and 71 have the same low bits, so they replace each other.
        assert_eq!(text(71, nginx, 1, None), pid_and_name(71, "nginx"));
        assert_eq!(text(7, nginx, 1, Some(("/a", None))), in_a(pid_and_name(7, "nginx")));
        let with = in_a(pid_and_name(7, "nginx")) + ",\"container.id\":\"c\"";
        assert_eq!(text(7, nginx, 2, Some(("/a", Some("c")))), with);
        assert_eq!(text(0, sh, 1, Some(("/a", None))), "");
    }

    #[test]
    fn a_thread_is_written_beside_its_process_and_never_taken_for_it() {
        let mut processes = Processes::default();
        let (java, pool) = (*b"java\0\0\0\0\0\0\0\0\0\0\0\0", *b"pool-1\0\0\0\0\0\0\0\0\0\0");
        let event = Event { pid: 7, tid: 9, comm: pool, ..Event::default() };
        let mut text = |called: Called| {
            String::from_utf8(processes.text(&event, &called, || None).to_vec()).unwrap()
        };
        assert_eq!(
            text(Called { name: java, of: NameOf::Process, thread: pool }),
            r#","process.pid":7,"process.executable.name":"java","thread.name":"pool-1""#
        );
        assert_eq!(
            text(Called::from(&event)),
            r#","process.pid":7,"process.executable.name":"pool-1","process.executable.name.source":"thread","thread.name":"pool-1""#
        );
    }
}
