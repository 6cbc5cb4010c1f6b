//! Which pod and container a cgroup is, by the names that kubelet and Docker give to files: no API is asked.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Files;
use crate::doctor::finding::Pod;

/// Where kubelet keeps logs, as `NAMESPACE_NAME_UID/CONTAINER/N.log`.
const PODS: &str = "/var/log/pods";
/// Where kubelet keeps links to them, as `NAME_NAMESPACE_CONTAINER-ID.log`.
const CONTAINERS: &str = "/var/log/containers";
const DOCKER: &str = "/var/lib/docker/containers";
/// How many names of a folder are looked at. A host has some hundred pods at most.
const NAMES: usize = 20_000;
/// The most bytes of a configuration of Docker.
const CONFIG: usize = 1 << 20;

/// A container by its names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// `None`: it is in no pod.
    pub pod: Option<Pod>,
    /// `None`: it is not known which one of the pod it is.
    pub name: Option<String>,
    /// The newest file with what it writes; `None`: none was found.
    pub log: Option<PathBuf>,
}

impl Container {
    /// Its name, as users read it: `NAMESPACE/POD/CONTAINER`, or Docker's name; empty if neither is known. It can have any
    /// characters.
    pub fn shown(&self) -> String {
        let pod = self.pod.iter().flat_map(|pod| [pod.namespace.as_str(), pod.name.as_str()]);
        let parts: Vec<_> = pod.chain(self.name.as_deref()).collect();
        parts.join("/")
    }
}

/// The uid of the pod that a cgroup belongs to, by its path: `…/kubepods-burstable-podUID.slice/…` (systemd, with underscores in
/// the UID) or `…/kubepods/burstable/podUID/…`. `None`: it is in no pod. Whether a name can be trusted is for the caller to know:
/// see [`crate::host::cgroups::Name::container`].
pub fn pod_uid(cgroup: &str) -> Option<String> {
    let of = |part: &str| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let uid = name.rsplit_once("-pod").map(|(_, uid)| uid).or_else(|| name.strip_prefix("pod"));
        let uid = uid?.replace('_', "-");
        is_uid(&uid).then_some(uid)
    };
    cgroup.contains("kubepods").then(|| cgroup.rsplit('/').find_map(of))?
}

/// The container with this id (64 hexadecimal digits), of the pod with this uid if it is in one. `files`: those of the host.
/// `None`: neither kubelet nor Docker has files of that name, or they cannot be read. Of a folder, the first 20,000 names are
/// looked at.
pub fn find(files: &dyn Files, id: &str, pod_uid: Option<&str>) -> Option<Container> {
    is_id(id).then_some(())?;
    in_pod(files, id, pod_uid).or_else(|| docker(files, id))
}

fn in_pod(files: &dyn Files, id: &str, uid: Option<&str>) -> Option<Container> {
    let end = format!("-{id}.log");
    let names = |folder: &Path| files.names(folder, NAMES).map(|(names, _)| names);
    let links = names(Path::new(CONTAINERS)).unwrap_or_default();
    let link = links.iter().find_map(|link| of_link(link.strip_suffix(&end)?));
    let is_it = |folder: &Folder<'_>| match (uid, &link) {
        (Some(uid), _) => folder.uid == uid,
        (None, Some((pod, _))) => folder.namespace == pod.namespace && folder.name == pod.name,
        (None, None) => false,
    };
    let folders = names(Path::new(PODS)).unwrap_or_default();
    let folder = folders.iter().find(|name| folder_of(name).is_some_and(|it| is_it(&it)));
    let Some(found) = folder else {
        let (pod, name) = link?;
        return Some(Container { pod: Some(pod), name: Some(name), log: None });
    };
    let Folder { namespace, name, .. } = folder_of(found)?;
    let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned() };
    let inside = Path::new(PODS).join(found);
    let container = link.map(|(_, container)| container).or_else(|| {
        let all = names(&inside).ok()?;
        // Without a link, only the only one can be it.
        <[String; 1]>::try_from(all).ok().map(|[only]| only)
    });
    let log = container.as_ref().and_then(|container| {
        let inside = inside.join(container);
        let last = names(&inside).ok()?.iter().filter_map(|name| number(name)).max()?;
        Some(inside.join(format!("{last}.log")))
    });
    Some(Container { pod: Some(pod), name: container, log })
}

/// The parts of `NAMESPACE_NAME_UID`.
struct Folder<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

fn folder_of(text: &str) -> Option<Folder<'_>> {
    let (namespace, rest) = text.split_once('_')?;
    let (name, uid) = rest.split_once('_')?;
    (!namespace.is_empty() && !name.is_empty() && is_uid(uid)).then_some(Folder {
        namespace,
        name,
        uid,
    })
}

/// Pod and container of `NAME_NAMESPACE_CONTAINER`.
fn of_link(text: &str) -> Option<(Pod, String)> {
    let (name, rest) = text.split_once('_')?;
    let (namespace, container) = rest.split_once('_')?;
    let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned() };
    (![name, namespace, container].contains(&"")).then(|| (pod, container.to_owned()))
}

/// N of `N.log`: how often the container was restarted before.
fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn docker(files: &dyn Files, id: &str) -> Option<Container> {
    /// The part of a container's configuration that is read.
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "Name")]
        name: String,
    }
    let folder = Path::new(DOCKER).join(id);
    let config = files.head(&folder.join("config.v2.json"), CONFIG).ok();
    let config = config.and_then(|it| serde_json::from_slice::<Config>(&it.bytes).ok());
    let name = config.map(|it| it.name.trim_start_matches('/').to_owned());
    let log = format!("{id}-json.log");
    let has_log = files.names(&folder, NAMES).is_ok_and(|(names, _)| names.contains(&log));
    let log = has_log.then(|| folder.join(log));
    (name.is_some() || log.is_some()).then_some(Container { pod: None, name, log })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it can be the uid of a pod: a UUID, or for a static pod the hash of its file.
fn is_uid(text: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    matches!(text.len(), 32 | 36) && text.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::logs::Memory;

    const UID: &str = "0a1b2c3d-0000-1111-2222-333344445555";

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn pod() -> Pod {
        Pod { namespace: "web".into(), name: "proxy-7d9f".into() }
    }

    fn of(paths: &[String], uid: Option<&str>) -> Option<Container> {
        let files: Vec<_> = paths.iter().map(|path| (path.as_str(), "")).collect();
        find(&Memory::of(&files), &id(), uid)
    }

    #[test]
    fn both_drivers_of_cgroups_name_the_pod() {
        let other = UID.replace('-', "_");
        for path in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{other}.slice/cri-containerd-1.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{other}.slice"),
            format!("/kubepods/besteffort/pod{UID}/{}", id()),
            format!("/system.slice/k3s.service/kubepods/pod{UID}"),
        ] {
            assert_eq!(pod_uid(&path).as_deref(), Some(UID), "{path}");
        }
        let fixed = "0123456789abcdef0123456789abcdef";
        assert_eq!(pod_uid(&format!("/kubepods/pod{fixed}")).as_deref(), Some(fixed));
        for none in [
            format!("/machine/pod{UID}"),
            "/kubepods/podx".into(),
            "/kubepods.slice".into(),
            String::new(),
        ] {
            assert_eq!(pod_uid(&none), None, "{none}");
        }
    }

    #[test]
    fn a_pod_is_found_by_its_uid_and_the_containers_link() {
        let folder = format!("{PODS}/web_proxy-7d9f_{UID}");
        let link = format!("{CONTAINERS}/proxy-7d9f_web_nginx-{}.log", id());
        let paths = [
            format!("{folder}/nginx/9.log"),
            format!("{folder}/nginx/10.log"),
            format!("{folder}/nginx/10.log.20261129-191515"),
            format!("{folder}/side/0.log"),
            format!("{PODS}/web_other_{}/nginx/0.log", UID.replace('0', "9")),
        ];
        let log = Some(PathBuf::from(format!("{folder}/nginx/10.log")));
        let expected = Container { pod: Some(pod()), name: Some("nginx".into()), log };
        let linked = [&paths[..], &[link]].concat();
        assert_eq!(of(&linked, Some(UID)), Some(expected.clone()));
        assert_eq!(of(&linked, None).as_ref(), Some(&expected));
        assert_eq!(expected.shown(), "web/proxy-7d9f/nginx");
        // Without the link, two containers could be it.
        let unknown = Container { pod: Some(pod()), name: None, log: None };
        assert_eq!(of(&paths, Some(UID)), Some(unknown));
        assert_eq!(of(&paths[..3], Some(UID)), Some(expected));
        assert_eq!(of(&paths, None), None);
    }

    #[test]
    fn a_link_alone_gives_the_names() {
        let link = format!("{CONTAINERS}/proxy-7d9f_web_my-nginx-{}.log", id());
        let expected = Container { pod: Some(pod()), name: Some("my-nginx".into()), log: None };
        assert_eq!(of(&[link], None), Some(expected));
    }

    #[test]
    fn docker_has_the_name_in_its_configuration() {
        let (config, log) = (
            format!("{DOCKER}/{0}/config.v2.json", id()),
            format!("{DOCKER}/{0}/{0}-json.log", id()),
        );
        let of = |text: &str| find(&Memory::of(&[(&config, text), (&log, "")]), &id(), None);
        let expected = Container { pod: None, name: Some("web".into()), log: Some((&log).into()) };
        assert_eq!(
            of(r#"{"StreamConfig":{},"Name":"/web","LogPath":"/etc/shadow"}"#),
            Some(expected)
        );
        let nameless = Container { pod: None, name: None, log: Some((&log).into()) };
        assert_eq!(of("{"), Some(nameless));
        assert_eq!(find(&Memory::default(), &id(), None), None);
        for id in ["", "../../etc", &id()[1..]] {
            assert_eq!(find(&Memory::default(), id, None), None);
        }
    }
}
