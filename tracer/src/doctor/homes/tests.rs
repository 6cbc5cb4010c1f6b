use tracer_common::Addr;

use super::*;
use crate::{
    doctor::{
        finding::{Id, Pod, Process, Severity},
        tuples::{Ends, Listener, Settings, Tuple, Tuples},
        window::Activities,
    },
    host::{
        capacity::{PortRange, Reuse},
        files::Memory,
    },
};

const ENDS: Ends =
    Ends { source: Addr::v4([10, 0, 0, 8]), destination: Addr::v4([10, 0, 1, 7]), port: 80 };

fn place() -> Place {
    Place { inum: 1, ..Place::default() }
}

fn seen(tuple: Option<Tuple>) -> Seen {
    let range = PortRange { low: 40_000, high: 40_999, reserved: Vec::new() };
    let reuse = Reuse { setting: 0, delay_ms: None, timestamps: true };
    let by_ends = tuple.map(|tuple| (ENDS, tuple)).into_iter().collect();
    let listener = Listener {
        port: 81,
        address: ENDS.source,
        accepts: [true, false],
        inode: 9,
        queue: 0,
        longest: 1,
    };
    Seen {
        place: place(),
        settings: Settings { range, reuse },
        now: Tuples { by_ends, listeners: vec![listener], ..Tuples::default() },
        before: None,
        time_wait_s: 62.0,
        activity: BTreeMap::new(),
        bound: Vec::new(),
        details: None,
        growth: None,
    }
}

fn about(subject: Subject, tuple: Option<Tuple>, caller: Option<u64>) -> About {
    let owner = |pid| {
        let process = Process { pid, name: String::new(), container: None };
        Owner { process, age: None }
    };
    let owners = HashMap::from([(7, owner(70)), (9, owner(90))]);
    let cgroups = caller.map(|cgroup| (ENDS, cgroup)).into_iter().collect();
    let here = Activities { cgroups, ..Activities::default() };
    let watched = Watched { namespaces: BTreeMap::from([(1, here)]), ..Watched::default() };
    let seen = [seen(tuple)];
    let round = Round { seen: &seen, owners: &owners, watched: Some(&watched) };
    round.about(&Finding::new(Id::PortsExhausted, Severity::Critical, subject, ""))
}

fn tuple() -> Subject {
    Subject::Tuple { place: place(), source: ENDS.from(), destination: ENDS.peer() }
}

#[test]
fn a_tuple_is_of_who_has_its_sockets_open_or_else_of_who_connected_last() {
    let of = |cgroups: &[u64], inodes: &[u32]| {
        let tuple =
            Tuple { cgroups: cgroups.to_vec(), inodes: inodes.to_vec(), ..Tuple::default() };
        about(self::tuple(), Some(tuple), Some(5))
    };
    let cgroups =
        |all: &[u64]| About { cgroups: all.iter().copied().collect(), ..About::default() };
    assert_eq!(of(&[3, 4], &[7]), cgroups(&[3, 4]));
    assert_eq!(of(&[], &[7, 8]), About { pids: BTreeSet::from([70]), ..About::default() });
    assert_eq!(of(&[], &[]), cgroups(&[5]));
    assert_eq!(about(tuple(), None, Some(5)), cgroups(&[5]), "all of its ports are taken");
    assert_eq!(about(tuple(), None, None), About::default());
}

#[test]
fn a_listener_is_of_its_process_and_a_namespace_of_all_in_it() {
    let address = SocketAddr::new(ENDS.from(), 81);
    let listener = about(Subject::Address { place: place(), address }, None, None);
    assert_eq!(listener, About { pids: BTreeSet::from([90]), ..About::default() });
    let both = Tuple { cgroups: vec![3, 4], ..Tuple::default() };
    let all = about(Subject::Netns(place()), Some(both), None);
    assert_eq!(all, About { cgroups: BTreeSet::from([3, 4]), ..About::default() });
    assert_eq!(about(Subject::Host, None, None), About::default());
}

#[test]
fn a_container_has_the_names_that_kubelet_gives_to_files() {
    let (id, uid) = ("0123456789abcdef".repeat(4), "0b1a3c5d-1111-2222-3333-444455556666");
    let path = format!("/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{id}.scope", {
        uid.replace('-', "_")
    });
    let name = Name { path: path.into(), container: Some(id.as_str().into()), unit: None };
    let home = home(&name);
    assert_eq!(home.pod_uid.as_deref(), Some(uid));
    let log = format!("/var/log/pods/shop_cart-7f9_{uid}/web/0.log");
    let named = named(&Memory::of(&[(&log, "")]), home.clone());
    let pod = Pod { namespace: "shop".into(), name: "cart-7f9".into() };
    assert_eq!((named.pod, named.container_name.as_deref()), (Some(pod), Some("web")));
    assert_eq!(super::named(&Memory::default(), home.clone()), home, "without such files");
}

#[test]
fn a_name_that_others_than_root_can_make_is_no_pod() {
    let uid = "0b1a3c5d-1111-2222-3333-444455556666";
    let path = format!("/user.slice/kubepods/pod{uid}/x").into();
    assert_eq!(home(&Name { path, container: None, unit: None }), Home::default());
}
