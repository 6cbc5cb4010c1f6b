use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
    thread,
};

use super::*;

/// What is at the other end: gets each connection.
type Peer = fn(UnixStream);

/// A socket in a folder that is a root folder, at `run/a.sock`, and the folder.
fn served(peer: Peer) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("run")).unwrap();
    let listener = UnixListener::bind(root.path().join("run/a.sock")).unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(peer));
    root
}

/// Reads the commands: a connection that is closed before ends with a reset.
fn read_commands(stream: &mut UnixStream) {
    let mut commands = [0; COMMANDS.len()];
    stream.read_exact(&mut commands).unwrap();
    assert_eq!(commands, *b"show stat;show info\n");
}

fn try_ask(root: &Path, path: &str) -> io::Result<Vec<u8>> {
    ask(File::open(root).unwrap(), Path::new(path))
}

fn kind(root: &Path, path: &str) -> io::ErrorKind {
    try_ask(root, path).unwrap_err().kind()
}

#[test]
fn the_answer_is_all_that_comes_after_the_commands() {
    let root = served(|mut stream| {
        read_commands(&mut stream);
        stream.write_all(b"one ").unwrap();
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"two").unwrap();
    });
    assert_eq!(try_ask(root.path(), "/run/a.sock").unwrap(), b"one two");
}

#[test]
fn links_lead_to_places_in_the_root_folder_only() {
    let root = served(|mut stream| {
        read_commands(&mut stream);
        stream.write_all(b"inside").unwrap();
    });
    let link =
        |to: &str, name: &str| std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
    link("/run", "absolute");
    link("../../../../run/a.sock", "up");
    assert_eq!(try_ask(root.path(), "/absolute/a.sock").unwrap(), b"inside");
    assert_eq!(try_ask(root.path(), "/../up").unwrap(), b"inside");
    let outside = served(|_| ());
    link(&outside.path().join("run/a.sock").display().to_string(), "out");
    assert_eq!(kind(root.path(), "/out"), io::ErrorKind::NotFound);
}

#[test]
fn what_is_no_socket_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    // Opening a FIFO for use would wait for the other end.
    rustix::fs::mknodat(rustix::fs::CWD, root.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0)
        .unwrap();
    for path in ["/file", "/fifo", "/"] {
        assert_eq!(kind(root.path(), path), io::ErrorKind::InvalidInput, "{path}");
    }
    drop(UnixListener::bind(root.path().join("dead")).unwrap());
    assert_eq!(kind(root.path(), "/dead"), io::ErrorKind::ConnectionRefused);
    assert_eq!(kind(root.path(), "/none"), io::ErrorKind::NotFound);
}

#[test]
fn a_peer_that_does_not_end_is_left_in_time() {
    let silent = served(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let slow = served(|mut stream| {
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    for root in [silent, slow] {
        let begin = Instant::now();
        assert_eq!(kind(root.path(), "/run/a.sock"), io::ErrorKind::TimedOut);
        assert!((PATIENCE..PATIENCE * 4).contains(&begin.elapsed()));
    }
}

#[test]
fn a_full_queue_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.sock");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let held: Vec<_> = (0..3)
        .map(|_| open(File::open(root.path()).unwrap().as_fd(), Path::new("/a.sock")))
        .collect();
    assert!(held[0].is_ok());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(kind(root.path(), "/a.sock")).unwrap());
    assert_eq!(receiver.recv_timeout(Duration::from_secs(10)).unwrap(), io::ErrorKind::WouldBlock);
}

#[test]
fn an_answer_without_end_is_cut() {
    let root = served(|mut stream| while stream.write_all(&[b'x'; 8 << 10]).is_ok() {});
    assert_eq!(try_ask(root.path(), "/run/a.sock").unwrap().len(), MOST_BYTES);
}
