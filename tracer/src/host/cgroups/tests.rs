//! Tests on this host's cgroup2 hierarchy, in directories that they make and remove.

use std::{fs, os::unix::fs::MetadataExt, process, time::Duration};

use super::*;

/// The cgroups `tracer-TEST-PID` and `tracer-TEST-PID/inner` below the mounted root, removed on drop.
struct Made {
    outer: PathBuf,
    name: String,
}

impl Made {
    fn new(test: &str) -> Self {
        let name = format!("tracer-{test}-{}", process::id());
        let mountinfo = fs::read("/proc/self/mountinfo").unwrap();
        let mut points = mounts::parse(&mountinfo).into_iter().filter(|it| it.is_root_of(CGROUP2));
        let mounted = points.next().expect("this test needs cgroup2 mounted").path;
        let outer = mounted.join(&name);
        fs::create_dir_all(outer.join("inner")).unwrap();
        Self { outer, name }
    }

    fn inner(&self) -> PathBuf {
        self.outer.join("inner")
    }

    fn inner_id(&self) -> u64 {
        fs::metadata(self.inner()).unwrap().ino()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        drop(fs::remove_dir(self.inner()));
        drop(fs::remove_dir(&self.outer));
    }
}

#[test]
fn a_cgroup_is_found_by_either_path() {
    let made = Made::new("arg");
    let path = PathBuf::from(format!("/{}/inner", made.name));
    let expected = Cgroup { id: made.inner_id(), level: 2, path };
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("link");
    std::os::unix::fs::symlink(made.inner(), &link).unwrap();
    for value in [
        made.inner().to_str().unwrap(),
        &format!("{}/inner", made.name),
        &format!("/{}/inner", made.name),
        &format!("/{}/inner/", made.name),
        link.to_str().unwrap(),
    ] {
        assert_eq!(resolve_arg(value).unwrap(), expected, "{value}");
    }
    let root = resolve_arg("/").unwrap();
    assert_eq!((root.level, root.path), (0, PathBuf::from("/")));
}

#[test]
fn what_is_not_a_cgroup2_directory_is_an_error_that_says_what_is_expected() {
    for (value, expected) in [
        ("", "there is no cgroup"),
        ("no/such/cgroup", "there is no cgroup no/such/cgroup: give the path"),
        ("/no/such/cgroup", "there is no cgroup /no/such/cgroup"),
        ("/tmp", "/tmp is not in the cgroup2 file system"),
        ("../..", "there is no cgroup"),
        ("/etc/passwd", "cannot open cgroup /etc/passwd: Not a directory"),
    ] {
        let message = resolve_arg(value).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn names_are_read_again_at_most_once_a_second_and_outlive_their_cgroup() {
    let mut names = Names::new(root().unwrap());
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let root_id = resolve_arg("/").unwrap().id;
    assert_eq!(path_of(&mut names, root_id, begun), Some("/".to_owned()));

    let made = Made::new("names");
    let (id, path) = (made.inner_id(), format!("/{}/inner", made.name));
    assert_eq!(path_of(&mut names, id, begun + Duration::from_millis(999)), None);
    // After a reading that takes long, the pause is longer than a second, but at most 15 s.
    assert_eq!(path_of(&mut names, id, after(15)), Some(path.clone()));
    drop(made);
    assert_eq!(path_of(&mut names, id, after(60)), Some(path.clone()));
    assert_eq!(path_of(&mut names, u64::MAX, after(60)), None);
}

#[test]
fn a_cgroup_that_is_gone_is_searched_for_once() {
    let mut names = Names::new(root().unwrap());
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    let made = Made::new("gone");
    let (gone, outer) = (made.inner_id(), made.outer.clone());
    fs::remove_dir(made.inner()).unwrap();
    for second in 0..100 {
        assert_eq!(path_of(&mut names, gone, after(second)), None);
    }
    assert_eq!(names.walks(), 1);
    // Other ids are searched for at once, the id of the removed cgroup only after five minutes.
    let id = fs::metadata(&outer).unwrap().ino();
    assert!(path_of(&mut names, u64::MAX - 1, after(100)).is_none());
    assert!(path_of(&mut names, id, after(100)).is_some());
    assert_eq!(names.walks(), 2);
    assert_eq!(path_of(&mut names, gone, after(400)), None);
    assert_eq!(names.walks(), 3);
}

#[test]
fn a_container_is_known_only_if_root_made_its_cgroup() {
    let id = "0123456789abcdef".repeat(4);
    let made = Made::new("claim");
    let claims = |name: &str| {
        let scope = made.outer.join(name);
        fs::create_dir(&scope).unwrap();
        let inner = fs::metadata(&scope).unwrap().ino();
        let mut names = Names::new(root().unwrap());
        let found = names.get(inner, Instant::now()).cloned().unwrap();
        fs::remove_dir(&scope).unwrap();
        assert_eq!(*found.path, *format!("/{}/{name}", made.name));
        found.container.map(|container| container.to_string())
    };
    let engines = [format!("docker-{id}.scope"), format!("cri-containerd-{id}.scope"), id.clone()];
    let set_mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&made.outer, fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in &engines {
        assert_eq!(claims(name), Some(id.clone()));
        // systemd delegates a cgroup to a user like this.
        std::os::unix::fs::chown(&made.outer, Some(65534), None).unwrap();
        assert_eq!(claims(name), None);
        std::os::unix::fs::chown(&made.outer, Some(0), None).unwrap();
        set_mode(0o777);
        assert_eq!(claims(name), None);
        set_mode(0o755);
    }
}

#[test]
fn a_unit_is_the_innermost_that_only_root_could_have_made() {
    let made = Made::new("unit");
    let id = "0123456789abcdef".repeat(4);
    let unit = |path: &str| {
        let mut names = Names::new(root().unwrap());
        let inner = fs::metadata(made.outer.join(path)).unwrap().ino();
        names.get(inner, Instant::now()).unwrap().unit.as_ref().map(ToString::to_string)
    };
    let user = "user@1000.service";
    let docker = format!("docker-{id}.scope");
    let folders = [
        user.to_owned(),
        format!("{user}/sub"),
        format!("{user}/forged.service"),
        docker.clone(),
        format!("{docker}/app.service"),
    ];
    for folder in &folders {
        fs::create_dir(made.outer.join(folder)).unwrap();
    }
    let before = unit(&folders[2]);
    // systemd delegates a cgroup to a user like this.
    std::os::unix::fs::chown(made.outer.join(user), Some(1000), None).unwrap();
    let units = folders.each_ref().map(|folder| unit(folder));
    for folder in folders.iter().rev() {
        fs::remove_dir(made.outer.join(folder)).unwrap();
    }
    assert_eq!(before.as_deref(), Some("forged.service"));
    let of_user = Some(user.to_owned());
    assert_eq!(units, [of_user.clone(), of_user.clone(), of_user, None, None]);
}

#[test]
fn names_are_bounded() {
    let _made = Made::new("bound");
    let mut names = Names::new(root().unwrap()).with_limit(2);
    let (now, turn_pause) = (Instant::now(), Duration::from_secs(15));
    for turn in 0..5 {
        path_of(&mut names, u64::MAX - turn, now + turn_pause * u32::try_from(turn).unwrap());
        assert!(names.len() <= 2);
    }
}

fn path_of(names: &mut Names, id: u64, now: Instant) -> Option<String> {
    names.get(id, now).map(|name| name.path.to_string())
}

#[test]
fn a_cgroup_has_its_processes_and_those_below_and_is_gone_once_it_is_removed() {
    let made = Made::new("members");
    let opened = Opened::open(&format!("/{}", made.name)).unwrap();
    assert_eq!(opened.path, PathBuf::from(format!("/{}", made.name)));
    let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(made.inner().join("cgroup.procs"), child.id().to_string()).unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    let members = opened.members(until).unwrap();
    let of_child = of_process(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let outer = fs::metadata(&made.outer).unwrap().ino();
    assert_eq!(members.pids.iter().copied().collect::<Vec<_>>(), [child.id()]);
    assert_eq!(members.cgroups, [outer, made.inner_id()].into());
    assert!(!members.cut_short);
    assert_eq!(of_child, Some(made.inner_id()));
    assert_eq!(of_process(child.id()), None);
    let late = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    assert!(opened.members(late).unwrap().cut_short);
    drop(made);
    let error = opened.members(until).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)), "{error}");
    let again = Opened::open("/no/such/cgroup").unwrap_err();
    assert!(matches!(again, CgroupError::NotFound(_)), "{again}");
}
