//! Reads which users and groups the user namespace of this process has (user_namespaces(7)).

use std::fs;

/// What a thread with CAP_SETUID and CAP_SETGID can become in its user namespace.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) users: Ids,
    pub(super) groups: Ids,
    /// Whether a thread may drop its supplementary groups.
    pub(super) drops_groups: bool,
}

/// User or group ids. Setting another one fails with EINVAL.
#[derive(Debug)]
pub(super) struct Ids {
    /// Each run's first id and length; `None`: not known, so all.
    runs: Option<Vec<(u64, u64)>>,
}

impl Mapped {
    /// What /proc says; what cannot be read is taken to be allowed, so that the kernel decides.
    pub(super) fn read() -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Self::of(file("uid_map"), file("gid_map"), file("setgroups"))
    }

    /// By the texts of these files; `None`: one cannot be read.
    fn of(users: Option<String>, groups: Option<String>, setgroups: Option<String>) -> Self {
        let groups = Ids::of(groups);
        // kernel: userns_may_setgroups() asks for a map of groups, too.
        let denied = setgroups.is_some_and(|text| text.trim() == "deny") || groups.is_none();
        Self { users: Ids::of(users), groups, drops_groups: !denied }
    }
}

impl Ids {
    /// By lines of `first id, first id outside of the namespace, number of ids`.
    fn of(text: Option<String>) -> Self {
        let run = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(|it| it.parse().ok());
            let (first, _outside, length) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some((first, length))
        };
        Self { runs: text.map(|text| text.lines().filter_map(run).collect()) }
    }

    /// Whether the namespace has this id; true if that is not known.
    pub(super) fn has(&self, id: u32) -> bool {
        let in_run = |(first, length): &(u64, u64)| {
            u64::from(id).checked_sub(*first).is_some_and(|offset| offset < *length)
        };
        self.runs.as_ref().is_none_or(|runs| runs.iter().any(in_run))
    }

    /// Whether it is known that there are none.
    fn is_none(&self) -> bool {
        self.runs.as_ref().is_some_and(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = 65_534;
    const ALL: &str = "         0          0 4294967295\n";

    fn mapped(users: &str, groups: &str, setgroups: &str) -> Mapped {
        Mapped::of(Some(users.into()), Some(groups.into()), Some(setgroups.into()))
    }

    #[test]
    fn the_first_user_namespace_has_every_user_and_group() {
        let all = mapped(ALL, ALL, "allow\n");
        assert!(all.users.has(0) && all.users.has(NOBODY) && all.groups.has(NOBODY));
        assert!(all.drops_groups);
    }

    #[test]
    fn one_that_was_made_without_privileges_has_its_maker_only_and_drops_no_groups() {
        // As `unshare -Ur` by user 1000.
        let one = mapped("0 1000 1\n", "0 1000 1\n", "deny\n");
        assert_eq!([0, 1, 1_000, NOBODY].map(|id| one.users.has(id)), [true, false, false, false]);
        assert!(!one.groups.has(NOBODY) && !one.drops_groups);
        let no_groups = mapped("0 0 1\n", "", "allow\n");
        assert!(!no_groups.groups.has(0) && !no_groups.drops_groups);
        assert!(!mapped("", "", "allow\n").users.has(0), "not mapped yet");
    }

    #[test]
    fn one_of_a_container_engine_has_several_runs() {
        let map = "0 1000 1\n1 100000 65536\n";
        let container = mapped(map, map, "allow\n");
        assert!(container.users.has(NOBODY) && container.groups.has(NOBODY));
        assert!(container.users.has(65_536) && !container.users.has(65_537));
        assert!(container.drops_groups);
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_kernel() {
        let unknown = Mapped::of(None, None, None);
        assert!(unknown.users.has(NOBODY) && unknown.groups.has(0) && unknown.drops_groups);
        assert!(!mapped("0 a 5\n0 0\n18446744073709551615 0 9\n", "", "").users.has(3));
    }
}
