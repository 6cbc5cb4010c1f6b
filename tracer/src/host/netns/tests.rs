//! Tests with namespaces that they make with ip(8) and delete.

use std::{
    net::TcpListener,
    process::{self, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::host::{capacity::PortRange, sockdiag, test_netns};

/// A named namespace, deleted on drop.
struct Named(String);

impl Named {
    fn new(test: &str) -> Self {
        let name = format!("tracer-{test}-{}", process::id());
        Self::ip(&["netns", "add", &name]);
        Self(name)
    }

    fn ip(arguments: &[&str]) {
        assert!(Command::new("ip").args(arguments).status().unwrap().success());
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.0]).status());
    }
}

#[test]
fn a_named_namespace_is_found_by_name_path_and_inode_number() {
    let named = Named::new("find");
    let netns = resolve(&named.0).unwrap();
    assert_eq!(netns.name.as_deref(), Some(named.0.as_str()));
    assert_ne!(netns.inum, own().unwrap().inum);
    let by_path = resolve(netns.path().to_str().unwrap()).unwrap();
    assert_eq!((by_path.inum, by_path.name), (netns.inum, None));
    // By its inode number, the namespace is found with all its paths.
    let by_inum = resolve(&netns.inum.to_string()).unwrap();
    assert_eq!((by_inum.inum, &by_inum.name), (netns.inum, &netns.name));
    assert_eq!(by_inum.path(), netns.path());
    let all = Worker::spawn().unwrap().discover().unwrap().found;
    assert_eq!(all[0].inum, own().unwrap().inum);
    assert_eq!(all.iter().filter(|found| found.inum == netns.inum).count(), 1);
}

#[test]
fn what_is_not_a_network_namespace_is_an_error_that_says_what_is_expected() {
    let message = |spec: &str| resolve(spec).unwrap_err().to_string();
    assert!(message("no-such-name").contains("give a name in /run/netns"));
    assert!(message("").contains("give a name"));
    assert!(message("..").contains("give a name"));
    assert!(message("4294967295").contains("inode number 4294967295"));
    assert!(message("/no/such/file").contains("cannot open network namespace /no/such/file"));
    assert!(message("/etc/passwd").contains("is not a network namespace"));
    assert!(message("/proc/self/ns/mnt").contains("is not a network namespace"));
}

#[test]
fn the_worker_enters_a_namespace_and_returns() {
    let named = Named::new("visit");
    let netns = resolve(&named.0).unwrap();
    let worker = Worker::spawn().unwrap();
    let here = || inum(&fs::metadata("/proc/thread-self/ns/net")?);
    assert_eq!(worker.run_in(&netns, here).unwrap(), netns.inum);
    assert_eq!(worker.run(here).unwrap(), own().unwrap().inum);

    let range =
        |range: &'static str| move || fs::write("/proc/sys/net/ipv4/ip_local_port_range", range);
    worker.run_in(&netns, range("42000 42999")).unwrap();
    let inside = worker.run_in(&netns, PortRange::read).unwrap();
    assert_eq!((inside.low, inside.high), (42_000, 42_999));
    assert_ne!(PortRange::read().unwrap().low, 42_000);

    let listening = || {
        let listener = TcpListener::bind("0.0.0.0:7100").unwrap();
        let sockets = sockdiag::dump_all(1 << sockdiag::tcp_state::LISTEN).unwrap();
        drop(listener);
        Ok(sockets.len())
    };
    assert_eq!(worker.run_in(&netns, listening).unwrap(), 1);

    let panicked = worker.run_in(&netns, || std::panic::resume_unwind(Box::new(())));
    let panicked: io::Result<()> = panicked;
    assert!(panicked.is_err());
    assert_eq!(worker.run(here).unwrap(), own().unwrap().inum);
}

#[test]
fn a_namespace_that_is_gone_is_not_found_and_was_not_kept_alive() {
    let worker = Worker::spawn().unwrap();
    let netns = {
        let named = Named::new("vanish");
        let netns = resolve(&named.0).unwrap();
        worker.run_in(&netns, || sockdiag::dump_all(sockdiag::ALL_STATES)).unwrap();
        netns
    };
    let error = worker.run_in(&netns, || Ok(())).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    assert!(matches!(resolve(&netns.inum.to_string()), Err(NetnsError::NoInum(_))));

    // A namespace that only a thread was in is gone with the thread, too.
    let netns = test_netns::run(|| {
        let id = rustix::thread::gettid().as_raw_nonzero();
        let path = PathBuf::from(format!("/proc/{id}/ns/net"));
        let netns = at_path(path, None).unwrap();
        assert_eq!(worker.run_in(&netns, || Ok(())).ok(), Some(()));
        netns
    });
    let end = Instant::now() + Duration::from_secs(5);
    while worker.run_in(&netns, || Ok(())).is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(worker.run_in(&netns, || Ok(())).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn the_next_path_is_tried_if_the_first_leads_elsewhere() {
    let named = Named::new("paths");
    let mut netns = resolve(&named.0).unwrap();
    let worker = Worker::spawn().unwrap();
    // In order: the process is gone; the path leads to another namespace; to a device; to a namespace of another type.
    for stale in ["/proc/4194304/ns/net", OWN, "/dev/null", "/proc/self/ns/mnt"] {
        netns.paths.insert(0, stale.into());
    }
    let here = || inum(&fs::metadata("/proc/thread-self/ns/net")?);
    assert_eq!(worker.run_in(&netns, here).unwrap(), netns.inum);
    netns.paths.pop();
    let error = worker.run_in(&netns, here).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains(&named.0), "{error}");
}

#[test]
fn a_visit_that_does_not_end_blocks_its_namespace_only() {
    let (bad, good) = (Named::new("stuck"), Named::new("free"));
    let (bad, good) = (resolve(&bad.0).unwrap(), resolve(&good.0).unwrap());
    let worker = Worker::spawn().unwrap().with_patience(Duration::from_millis(100));
    let (release, wait) = mpsc::channel::<()>();
    let began = Instant::now();
    let error = worker.run_in(&bad, move || wait.recv().map_err(io::Error::other)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains(bad.name.as_deref().unwrap()), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(worker.stuck(), std::slice::from_ref(&bad));
    // While the visit lasts, the namespace is not entered again, and another visit fails at once.
    assert_eq!(worker.run_in(&bad, || Ok(())).unwrap_err().kind(), io::ErrorKind::TimedOut);
    worker.run_in(&good, || Ok(())).unwrap();

    // A visit that takes long and has a heartbeat is waited for.
    let slow = || {
        for _ in 0..6 {
            thread::sleep(Duration::from_millis(40));
            crate::runtime::beat::beat();
        }
        Ok(())
    };
    worker.run_in(&good, slow).unwrap();

    // The first visit ends after all.
    release.send(()).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while !worker.stuck().is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    worker.run_in(&bad, || Ok(())).unwrap();
}

#[test]
fn when_no_thread_is_left_there_is_an_error_at_once() {
    let named = ["none-0", "none-1", "none-2", "none-3"].map(Named::new);
    let worker = Worker::spawn().unwrap().with_patience(Duration::from_millis(50));
    let (release, wait) = mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let kinds = named.each_ref().map(|named| {
        let wait = std::sync::Arc::clone(&wait);
        let visit = move || {
            drop(wait.lock().map(|wait| wait.recv()));
            Ok(())
        };
        worker.run_in(&resolve(&named.0).unwrap(), visit).unwrap_err().kind()
    });
    let late = io::ErrorKind::TimedOut;
    assert_eq!(kinds, [late, late, late, io::ErrorKind::BrokenPipe]);
    drop(release);
    let end = Instant::now() + Duration::from_secs(5);
    while worker.run(|| Ok(())).is_err() && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    worker.run_on_all(|| Ok(())).unwrap();
}
