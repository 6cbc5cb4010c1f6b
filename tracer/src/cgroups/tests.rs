//! On this host's cgroup2 hierarchy, in directories that the tests make and take away again.

use std::{fs, os::unix::fs::MetadataExt, process, time::Duration};

use std::time::Instant;

use super::*;

/// `tracer-TEST-PID/inner` below the mounted root.
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
fn what_is_not_a_cgroup2_directory_is_refused_with_what_is_expected() {
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
    let root_id = resolve_arg("/").unwrap().id;
    assert_eq!(path_of(&mut names, root_id, begun), Some("/".to_owned()));

    let made = Made::new("names");
    let (id, path) = (made.inner_id(), format!("/{}/inner", made.name));
    assert_eq!(path_of(&mut names, id, begun + Duration::from_millis(999)), None);
    assert_eq!(path_of(&mut names, id, begun + Duration::from_secs(1)), Some(path.clone()));
    drop(made);
    assert_eq!(path_of(&mut names, id, begun + Duration::from_secs(9)), Some(path.clone()));
    assert_eq!(path_of(&mut names, u64::MAX, begun + Duration::from_secs(9)), None);
}

#[test]
fn names_are_bounded() {
    let _made = Made::new("bound");
    let mut names = Names::new(root().unwrap()).with_limit(2);
    let now = Instant::now();
    for second in 0..5 {
        path_of(&mut names, u64::MAX, now + Duration::from_secs(second));
        assert!(names.len() <= 2);
    }
}

fn path_of(names: &mut Names, id: u64, now: Instant) -> Option<String> {
    names.get(id, now).map(|name| name.path.to_string())
}
