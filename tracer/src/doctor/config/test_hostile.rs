//! What a program can put where its configuration should be: each reader says that it was not read, what stands around it is
//! read, and nothing waits.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::{
    files::{Files, Memory},
    haproxy, nginx, squid,
};
use crate::{
    doctor::logs,
    host::{inside::Inside, limited::within},
};

/// A folder with files that are none.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("/dev/zero", path("device")).unwrap();
    symlink("/proc/kmsg", path("kernel")).unwrap();
    symlink("loop", path("loop")).unwrap();
    symlink("nothing", path("nowhere")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    folder
}

const NO_FILES: [&str; 6] = ["fifo", "device", "kernel", "loop", "nowhere", "folder"];

/// What `read` says about a file in the folder, which has this text and is read by this process.
fn read<T: Send + 'static>(
    folder: &Path,
    text: &str,
    read: impl FnOnce(&dyn Files, &Path) -> T + Send + 'static,
) -> T {
    let path = folder.join("config");
    fs::write(&path, text).unwrap();
    let result = within(Duration::from_mins(1), move || {
        let inside = Inside::of(process::id()).unwrap();
        read(&inside, &path)
    });
    result.expect("it waits")
}

fn server() -> SocketAddr {
    "10.0.1.7:8080".parse().unwrap()
}

/// Why nginx's configuration was not read, and how many ways to the server it has.
fn of_nginx(files: &dyn Files, path: &Path) -> (Vec<String>, usize) {
    let facts = nginx::facts(files, path, "");
    let unread = facts.unread.iter().map(ToString::to_string).collect();
    (unread, nginx::routes(&facts, None, server()).routes.len())
}

/// The same of HAProxy. `more`: files after the first one.
fn of_haproxy(files: &dyn Files, path: &Path, more: &[PathBuf]) -> (Vec<String>, usize) {
    let paths: Vec<_> = [&[path.to_owned()], more].concat();
    let config = haproxy::read(files, &paths);
    let unread = config.unread.places.iter().map(|(at, why)| format!("{at}: {why}")).collect();
    (unread, config.towards(server()).len())
}

/// The same of Squid.
fn of_squid(files: &dyn Files, path: &Path) -> (Vec<String>, usize) {
    let config = squid::read(files, path);
    let unread = config.unread.places.iter().map(|(at, why)| format!("{at}: {why}")).collect();
    (unread, config.towards(server()).count())
}

const NGINX: &str = "http { server { location / { proxy_pass http://10.0.1.7:8080; } } }\n";
const HAPROXY: &str = "backend last\n server s 10.0.1.7:8080\n";
const SQUID: &str = "cache_peer 10.0.1.7 parent 8080 0\n";

#[test]
fn only_regular_files_are_read_and_the_rest_is_named() {
    let folder = folder();
    let path = folder.path();
    for name in NO_FILES {
        let place = path.join(name);
        let (unread, routes) = read(path, &format!("include {name};\n{NGINX}"), of_nginx);
        assert_eq!((unread.len(), routes), (1, 1), "{name}: {unread:?}");
        assert!(unread[0].contains(&format!("{}: ", place.display())), "{unread:?}");
        let more = [place.clone()];
        let (unread, servers) =
            read(path, HAPROXY, move |files, path| of_haproxy(files, path, &more));
        // A folder may be empty.
        let count = usize::from(name != "folder");
        assert_eq!((unread.len(), servers), (count, 1), "{name}: {unread:?}");
        let text = format!("include {}\n{SQUID}", place.display());
        let (unread, peers) = read(path, &text, of_squid);
        assert_eq!((unread.len(), peers), (1, 1), "{name}: {unread:?}");
        assert!(unread[0].ends_with("config:1: the file cannot be read"), "{unread:?}");
        let log = read(path, "", move |files, _| {
            let asked = logs::Asked { from_s: 0, to_s: i64::MAX, offset_s: 0 };
            logs::read(files, &place, &asked).is_err()
        });
        assert!(log, "{name}");
    }
}

#[test]
fn patterns_and_folders_with_ten_thousand_files_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let many = path.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..10_000 {
        fs::write(many.join(format!("{number}.cfg")), "").unwrap();
    }
    let (unread, routes) = read(path, &format!("include many/*;\n{NGINX}"), of_nginx);
    assert_eq!(routes, 1);
    assert!(unread[0].ends_with("many has too many files"), "{unread:?}");
    let more = [many.clone()];
    let (unread, servers) = read(path, HAPROXY, move |files, path| of_haproxy(files, path, &more));
    assert_eq!((unread.len(), servers), (1, 1));
    assert!(unread[0].ends_with("there are too many files"), "{unread:?}");
    let of = |pattern: &str| {
        let text = format!("include {}/{pattern}\n{SQUID}", many.display());
        read(path, &text, of_squid)
    };
    let (unread, peers) = of("*");
    assert!(unread[0].ends_with("config:1: too many files are included"), "{unread:?}");
    assert_eq!(peers, 1);
    // Of very many files, some are read.
    assert_eq!(of("12*"), (Vec::new(), 1));
}

/// What a reader says about a text: as [`of_nginx`].
type Reader = fn(&dyn Files, &Path) -> (Vec<String>, usize);

const READERS: [(&str, Reader, &str); 3] = [
    ("nginx", of_nginx, NGINX),
    ("haproxy", |files, path| of_haproxy(files, path, &[]), HAPROXY),
    ("squid", of_squid, SQUID),
];

/// What each reader says about a text with this before what is sure, and how many servers it finds.
fn after(before: &[u8]) -> [(String, usize); 3] {
    READERS.map(|(_, reader, sure)| {
        let text = [before, b"\n", sure.as_bytes()].concat();
        let files = Memory([(PathBuf::from("/a"), text)].into());
        let (unread, found) = reader(&files, Path::new("/a"));
        (unread.join("; "), found)
    })
}

#[test]
fn bytes_that_are_no_text_and_comments_of_megabytes_harm_nothing() {
    let comment = [b"#", &b"\xff".repeat(3 << 20)[..]].concat();
    for before in [&b"# \0 \xff \xc3\x28"[..], b"#\r", b"\n\n\r\n", b"\xef\xbb\xbf", &comment] {
        // Only nginx and Squid skip the mark that some editors put at the beginning.
        let [nginx, haproxy, squid] = after(before);
        let shown = &before[..before.len().min(20)];
        assert_eq!(nginx, (String::new(), 1), "nginx: {shown:?}");
        assert_eq!(haproxy, (String::new(), 1), "haproxy: {shown:?}");
        assert_eq!(squid, (String::new(), 1), "squid: {shown:?}");
    }
    // In names they stay what they are, or become the sign for what is no text.
    let names = b"http { upstream \0\xff { server 10.0.1.7:8080; } server { location / { proxy_pass http://\0\xff; } } }";
    assert_eq!(after(names)[0], (String::new(), 2));
    let names = b"backend \0\xff\n server \0\xff 10.0.1.7:8080 \0\xff";
    assert_eq!(after(names)[1], (String::new(), 2));
    assert_eq!(after(b"cache_peer 10.0.1.7 \0\xff 8080 name=\0\xff")[2], (String::new(), 2));
}

#[test]
fn what_is_not_closed_is_said() {
    let [nginx, ..] = after(b"events {");
    assert_eq!(nginx.0, "/a:3: the file ends within a block");
    assert_eq!(after(b"http { upstream u { server \"x")[0].0, "/a:1: the file ends within a word");
    assert_eq!(
        after(b"init_by_lua_block { [[ ")[0],
        ("/a:1: a block of Lua does not end".into(), 0)
    );
    let [_, haproxy, _] = after(b".if defined(A)");
    assert_eq!(haproxy, ("/a:2: a condition decides whether this section counts; /a:4: a condition has no .endif".into(), 0));
    let [_, haproxy, _] = after(b"backend a\n server \"s 10.0.1.7:8080");
    assert_eq!(haproxy, ("/a:2: a quote is not closed, or the line is too long".into(), 1));
    let [.., squid] = after(b"if true");
    assert_eq!(squid, ("/a:3: a condition has no endif".into(), 1));
    let [.., squid] = after(b"if false");
    assert_eq!(squid, ("/a:3: a condition has no endif".into(), 0));
}

#[test]
fn a_line_of_megabytes_is_read_or_said_not_to_be() {
    let long = "x".repeat(3 << 20);
    // nginx has no lines, only words.
    let [nginx, ..] = after(format!("proxy_pass {long};").as_bytes());
    assert_eq!(nginx, ("/a:1: a word has more than 4,096 bytes".into(), 0));
    let words = "x ".repeat(1 << 20);
    assert_eq!(after(format!("proxy_pass {words};").as_bytes())[0], (String::new(), 1));
    let [_, haproxy, squid] = after(format!("server {long}").as_bytes());
    assert_eq!(haproxy, ("/a:1: a quote is not closed, or the line is too long".into(), 1));
    assert_eq!(squid, ("/a:1: the line is too long".into(), 1));
    // What is longer than all files may be is cut, and said to be.
    let [nginx, haproxy, squid] = after("#".repeat(4 << 20).as_bytes());
    assert_eq!(nginx, ("/a:1: the configuration has more than 4 MiB".into(), 0));
    assert_eq!(haproxy, ("/a:0: the files are too long".into(), 0));
    assert_eq!(squid, ("/a:0: the files are too long".into(), 0));
}
