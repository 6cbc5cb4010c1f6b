use std::{
    fs,
    os::unix::fs::symlink,
    process,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

use rustix::fs::{FileType, mknodat};
use tempfile::TempDir;

use super::*;

/// A process that has this folder as its root.
fn rooted(folder: &Path) -> Inside {
    let root = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Inside { root, ..own() }
}

fn own() -> Inside {
    Inside::of(process::id()).unwrap()
}

/// A folder with a root folder in it, and a file outside of that one.
fn folders() -> (TempDir, Inside) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("root/etc")).unwrap();
    fs::write(folder.path().join("secret"), "outside").unwrap();
    let inside = rooted(&folder.path().join("root"));
    (folder, inside)
}

fn text(inside: &Inside, path: &str) -> io::Result<String> {
    Ok(String::from_utf8(inside.head(Path::new(path), 100)?.bytes).unwrap())
}

#[test]
fn no_link_leads_out_of_the_root() {
    let (folder, inside) = folders();
    let root = folder.path().join("root");
    symlink(folder.path().join("secret"), root.join("etc/absolute")).unwrap();
    symlink("../../secret", root.join("etc/up")).unwrap();
    symlink("../../../../../../../..", root.join("etc/top")).unwrap();
    assert!(text(&inside, "/etc/absolute").is_err());
    assert!(text(&inside, "/../secret").is_err());
    assert!(text(&inside, "/etc/up").is_err());
    // The same paths lead to the process's own files.
    fs::write(root.join("secret"), "inside").unwrap();
    for path in ["/secret", "secret", "/../secret", "/etc/up", "/etc/top/secret"] {
        assert_eq!(text(&inside, path).unwrap(), "inside", "{path}");
    }
    symlink("/secret", root.join("etc/own")).unwrap();
    assert_eq!(text(&inside, "/etc/own").unwrap(), "inside");
}

#[test]
fn only_regular_files_with_data_are_opened_and_nothing_waits() {
    let (folder, inside) = folders();
    let root = folder.path().join("root");
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("/etc", root.join("folder")).unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let of_root = ["/fifo", "/etc", "/folder", "/none", "/etc/none", "a\0b"];
        for path in of_root {
            sender.send((path, text(&inside, path).is_err())).unwrap();
        }
        let of_host = ["/dev/null", "/dev/tty", "/proc/kmsg", "/proc/version", "/sys/kernel/mm"];
        for path in of_host.into_iter().chain(["/sys/kernel/notes", "/proc/self/exe"]) {
            sender.send((path, text(&own(), path).is_err())).unwrap();
        }
        drop(folder);
    });
    for _ in 0..13 {
        let (path, refused) = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(refused, "{path}");
    }
    let error = text(&own(), "/proc/version").unwrap_err();
    assert_eq!(error.to_string(), "is a file of the kernel, not of a disk");
    assert_eq!(text(&own(), "/dev/null").unwrap_err().to_string(), "is no regular file");
}

#[test]
fn the_head_and_the_tail_are_bounded() {
    let (folder, inside) = folders();
    let path = Path::new("/log");
    fs::write(folder.path().join("root/log"), "0123456789").unwrap();
    let of = |contents: Contents| (String::from_utf8(contents.bytes).unwrap(), contents.whole);
    assert_eq!(of(inside.head(path, 4).unwrap()), ("0123".into(), false));
    assert_eq!(of(inside.tail(path, 4).unwrap()), ("6789".into(), false));
    for most in [10, 11, usize::MAX] {
        assert_eq!(of(inside.head(path, most).unwrap()), ("0123456789".into(), true));
        assert_eq!(of(inside.tail(path, most).unwrap()), ("0123456789".into(), true));
    }
    assert!(inside.head(path, 1).unwrap().modified > UNIX_EPOCH);
    fs::write(folder.path().join("root/log"), "").unwrap();
    assert_eq!(of(inside.tail(path, 4).unwrap()), (String::new(), true));
}

#[test]
fn a_file_that_grows_while_it_is_read_ends() {
    let (folder, inside) = folders();
    let path = folder.path().join("root/log");
    fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) && file.metadata().unwrap().len() < 64 << 20 {
                io::Write::write_all(&mut file, &[b'y'; 4096]).unwrap();
            }
        });
        for _ in 0..20 {
            let before = path.metadata().unwrap().len();
            let contents = inside.head(Path::new("/log"), 2 << 20).unwrap();
            assert!(contents.bytes.len() as u64 >= before.min(2 << 20));
            assert!(contents.bytes.len() <= 2 << 20);
            let file = File::open(&path).unwrap();
            let size = file.metadata().unwrap().len();
            assert!(part(file, usize::MAX, false).unwrap().bytes.len() as u64 >= size);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn names_are_sorted_and_bounded() {
    let (folder, inside) = folders();
    for name in ["b", "a", ".c"] {
        fs::write(folder.path().join("root/etc").join(name), "").unwrap();
    }
    let names = |most| inside.names(Path::new("/etc"), most).unwrap();
    assert_eq!(names(3), (vec![".c".to_owned(), "a".to_owned(), "b".to_owned()], false));
    assert_eq!(names(2).0.len(), 2);
    assert!(names(2).1);
    assert!(inside.names(Path::new("/etc/a"), 3).is_err());
    assert!(own().names(Path::new("/proc"), 3).is_err());
}

#[test]
fn once_a_process_has_ended_nothing_is_read_of_another() {
    let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
    let inside = Inside::of(child.id()).unwrap();
    assert_eq!(inside.parent().unwrap(), process::id());
    // It has none until the kernel has finished execve(2).
    while inside.command_line().unwrap().is_empty() {
        thread::yield_now();
    }
    assert_eq!(inside.command_line().unwrap(), b"sleep\x0060\0");
    assert!(inside.began().unwrap() > UNIX_EPOCH);
    let mut magic = [0; 4];
    inside.program().unwrap().read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"\x7fELF");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(inside.command_line().is_err());
    assert!(inside.program().is_err());
    assert!(Inside::of(child.id()).is_err());
}
