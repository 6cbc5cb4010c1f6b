//! Where processes run: a container, a pod, a systemd unit.

use crate::host::cgroups::is_unit;

/// The name of a Kubernetes pod, and the Kubernetes namespace in which it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
}

/// Where processes run: the ids and names that are known. Names can have any characters: whoever prints them makes them safe for
/// a terminal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Home {
    /// Id of the container: 64 hexadecimal digits; `None`: there is none, or it is not known.
    pub container: Option<String>,
    /// The container's name: in its pod if it has one, else in its container engine; `None`: not known.
    pub container_name: Option<String>,
    /// Uid of the pod; `None`: there is no pod, or it is not known.
    pub pod_uid: Option<String>,
    /// The pod's names; `None`: there is no pod, or its names are not known.
    pub pod: Option<Pod>,
    /// Name of the systemd unit; `None`: there is a container, or no unit is known.
    pub unit: Option<String>,
}

/// How many digits of a container's id are shown to people, as container engines do.
const SHOWN: usize = 12;

impl Home {
    /// The home with this systemd unit, if it is the name of one ([`is_unit`]), else with the container of this id.
    pub fn of(container_or_unit: &str) -> Self {
        let name = Some(container_or_unit.to_owned());
        if is_unit(container_or_unit) {
            Self { unit: name, ..Self::default() }
        } else {
            Self { container: name, ..Self::default() }
        }
    }

    /// What all of these have in common: the same home, or else the same pod. `None`: nothing, one of them is not known, or there
    /// are none.
    pub fn common(homes: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        let mut common: Option<Self> = None;
        for home in homes {
            let home = home?;
            common = match common {
                None => Some(home),
                Some(before) if before == home => Some(before),
                Some(before) if before.pod_uid.is_some() && before.pod_uid == home.pod_uid => {
                    let Self { pod_uid, pod, .. } = before;
                    Some(Self { pod_uid, pod: pod.or(home.pod), ..Self::default() })
                }
                Some(_) => return None,
            };
        }
        common
    }

    /// The home as people read it, without control characters: `pod shop/cart-7f9 (web)`, `container web`, `nginx.service`. Of an
    /// id, the first 12 characters. `None`: there is nothing to show.
    pub fn shown(&self) -> Option<String> {
        let safe = |name: &str| name.escape_debug().to_string();
        let id = self.container.as_deref().map(|id| safe(id.get(..SHOWN).unwrap_or(id)));
        let container = self.container_name.as_deref().map(safe).or(id);
        let pod = match (&self.pod, &self.pod_uid) {
            (Some(Pod { namespace, name }), _) => {
                Some(format!("pod {}/{}", safe(namespace), safe(name)))
            }
            (None, Some(uid)) => Some(format!("pod {}", safe(uid))),
            (None, None) => None,
        };
        match (pod, container) {
            (Some(pod), Some(container)) => Some(format!("{pod} ({container})")),
            (Some(pod), None) => Some(pod),
            (None, Some(container)) => Some(format!("container {container}")),
            (None, None) => self.unit.as_deref().map(safe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(container: &str) -> Home {
        Home {
            container: Some(container.repeat(64)),
            container_name: Some(container.to_owned()),
            pod_uid: Some("1-2".into()),
            pod: Some(Pod { namespace: "shop".into(), name: "cart-7f9".into() }),
            unit: None,
        }
    }

    #[test]
    fn the_best_known_name_is_shown() {
        let shown = |home: &Home| home.shown();
        assert_eq!(shown(&pod("a")).as_deref(), Some("pod shop/cart-7f9 (a)"));
        let unnamed = Home { pod: None, container_name: None, ..pod("a") };
        assert_eq!(shown(&unnamed).as_deref(), Some("pod 1-2 (aaaaaaaaaaaa)"));
        assert_eq!(shown(&Home::of(&"b".repeat(64))).as_deref(), Some("container bbbbbbbbbbbb"));
        assert_eq!(shown(&Home::of("nginx.service")).as_deref(), Some("nginx.service"));
        assert_eq!(shown(&Home::default()), None);
        let hostile = Home { container_name: Some("a\u{1b}[2J\nb".into()), ..Home::default() };
        assert_eq!(shown(&hostile).as_deref(), Some("container a\\u{1b}[2J\\nb"));
        let short = Home { container: Some("é".into()), ..Home::default() };
        assert_eq!(shown(&short).as_deref(), Some("container é"));
    }

    #[test]
    fn several_processes_have_a_container_a_pod_or_nothing_in_common() {
        let common = |all: Vec<Option<Home>>| Home::common(all);
        assert_eq!(common(vec![]), None);
        assert_eq!(common(vec![Some(pod("a")), Some(pod("a"))]), Some(pod("a")));
        let both = common(vec![Some(pod("a")), Some(pod("b"))]).unwrap();
        assert_eq!((both.shown().as_deref(), both.container), (Some("pod shop/cart-7f9"), None));
        assert_eq!(common(vec![Some(pod("a")), Some(Home::of("x.service"))]), None);
        assert_eq!(common(vec![Some(pod("a")), None]), None, "one of them is not known");
    }
}
