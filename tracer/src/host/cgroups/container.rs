//! Finds the container or systemd unit of a cgroup by the names that container engines and systemd use. No I/O.

use rustix::fs::Stat;

/// The id of the container whose cgroup has this name: the 64 hexadecimal digits that Docker, containerd, CRI-O and
/// Podman put into it. `None` for any other name, and for the engines' own monitor processes (conmon).
///
/// Forms: `ID`, `PREFIX-ID`, `PREFIX:ID`, each with or without `.scope`.
pub(super) fn id_of(component: &str) -> Option<&str> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    let is_id = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !prefix.contains("conmon")).then_some(id)
}

/// The systemd unit whose cgroup has this name: of a kind that has processes (systemd.unit(5)), without the
/// underscore with which systemd prefixes a name that a file of a cgroup could have, such as `cpu.service`. `None`: it is
/// not a unit.
pub(super) fn unit_of(component: &str) -> Option<&str> {
    let name = component.strip_prefix('_').unwrap_or(component);
    is_unit(name).then_some(name)
}

/// Whether this is the name of a systemd unit that has processes: it ends in `.service`, `.scope`, `.socket`, `.mount` or
/// `.swap`, with something before that. False for the id of a container.
pub fn is_unit(name: &str) -> bool {
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    kinds.iter().any(|kind| name.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()))
}

/// Whether only root can make cgroups in this directory. If others can, a name in it proves nothing.
pub(super) fn is_roots(directory: &Stat) -> bool {
    let others = directory.st_mode & 0o002 != 0;
    let group = directory.st_mode & 0o020 != 0 && directory.st_gid != 0;
    directory.st_uid == 0 && !others && !group
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of the innermost container.
    fn container_id(path: &str) -> Option<String> {
        path.rsplit('/').find_map(id_of).map(str::to_owned)
    }

    #[test]
    fn a_unit_has_a_name_and_a_kind() {
        for unit in ["nginx.service", "session-3.scope", "user@1000.service", "a b.mount"] {
            assert_eq!(unit_of(unit), Some(unit));
        }
        assert_eq!(unit_of("_cpu.service"), Some("cpu.service"));
        let id = "0123456789abcdef".repeat(4);
        for none in ["", ".service", "system.slice", "nginx", "service", &id] {
            assert_eq!(unit_of(none), None, "{none}");
        }
    }

    #[test]
    fn paths_of_all_engines_have_the_id_and_no_others_do() {
        let id = "0123456789abcdef".repeat(4);
        let other = "f".repeat(64);
        for (path, expected) in [
            (format!("/docker/{id}"), true),
            (format!("/system.slice/docker-{id}.scope"), true),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), true),
            (format!("/kubepods.slice/kubepods-pod1.slice/crio-{id}.scope"), true),
            (format!("/kubepods/burstable/pod-uid/{id}"), true),
            (format!("/system.slice/kubepods-pod1.slice:cri-containerd:{id}"), true),
            (format!("/machine.slice/libpod-{id}.scope/container"), true),
            (format!("/user.slice/user-1000.slice/libpod-payload-{id}"), true),
            (format!("/docker/{id}/system.slice/nginx.service"), true),
            (format!("/docker/{other}/docker/{id}"), true),
            (format!("/machine.slice/libpod-conmon-{id}.scope"), false),
            (format!("/crio-conmon-{id}.scope"), false),
            (format!("/docker/{}", &id[1..]), false),
            (format!("/docker/{id}0"), false),
            (format!("/docker/{}", id.to_uppercase()), false),
            ("/system.slice/nginx.service".into(), false),
            ("/".into(), false),
            (String::new(), false),
        ] {
            let expected = expected.then(|| id.clone());
            assert_eq!(container_id(&path), expected, "{path}");
        }
    }
}
