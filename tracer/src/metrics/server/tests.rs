use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{super::test_reading::snapshot, *};

/// How long anything may take here: much longer than the limits of the server.
const BOUND: Duration = Duration::from_secs(30);

struct Started {
    server: Server,
    slot: Arc<Slot>,
    address: SocketAddr,
}

/// A server with a reading.
fn started() -> Started {
    let slot = Arc::new(Slot::default());
    slot.put(snapshot(), Instant::now());
    let server =
        Server::start(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), Arc::clone(&slot)).unwrap();
    let address = server.address().unwrap();
    Started { server, slot, address }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, BOUND).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}

/// What comes until the server closes the connection; a reset counts as closed, silence for [`BOUND`] fails.
fn rest(stream: &mut impl io::Read) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), vec![0; 65_536]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return all,
            Ok(bytes) => all.extend_from_slice(&part[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error} after {} bytes", all.len()),
        }
    }
}

/// The answer to these bytes, up to the end of the connection.
fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    // The server may have closed the connection before all is sent.
    _ = stream.write_all(request);
    String::from_utf8(rest(&mut stream)).unwrap()
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    ask(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").as_bytes(),
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let Started { server: _server, address, .. } = started();
    let text = get(address, "/metrics", "");
    assert_eq!(status(&text), "200");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    assert!(text.contains("\n# TYPE tracer_ports_opened_total counter\n"), "{text}");
    let openmetrics =
        get(address, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(openmetrics.contains(kind) && openmetrics.ends_with("# EOF\n"), "{openmetrics}");
    let mut stream = connect(address);
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n")
        .unwrap();
    let packed = rest(&mut stream);
    let end = packed.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&packed[..end]).contains("content-encoding: gzip\r\n"));
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed[end..]).read_to_string(&mut unpacked).unwrap();
    assert!(text.ends_with(&unpacked) && !unpacked.is_empty());
}

#[test]
fn other_requests_have_answers_too() {
    let Started { server: _server, address, .. } = started();
    assert_eq!(status(&get(address, "/ready", "")), "200");
    assert_eq!(status(&get(address, "/", "")), "404");
    assert_eq!(status(&get(address, "/metrics/", "")), "404");
    assert_eq!(status(&get(address, "/metrics?x=1", "")), "200");
    let post = ask(
        address,
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(status(&post) == "405" && post.contains("allow: GET, HEAD\r\n"), "{post}");
    let head = ask(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(status(&head) == "200" && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn without_a_reading_it_is_not_ready() {
    let slot = Arc::new(Slot::default());
    let server = Server::start(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), slot).unwrap();
    let address = server.address().unwrap();
    assert_eq!(status(&get(address, "/ready", "")), "503");
    assert_eq!(status(&get(address, "/metrics", "")), "503");
}

#[test]
fn it_listens_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics");
    let slot = Arc::new(Slot::default());
    slot.put(snapshot(), Instant::now());
    let server = Server::start(&Listen::Unix(path.clone()), slot).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(status(&String::from_utf8(rest(&mut stream)).unwrap()), "200");
    assert_eq!(server.address(), None);
}

#[test]
fn what_is_no_request_is_answered_briefly_and_a_huge_header_is_refused() {
    let Started { server: _server, address, .. } = started();
    let mut huge = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    huge.resize(20_000, b'a');
    assert_eq!(status(&ask(address, &huge)), "431");
    let mut many = b"GET /metrics HTTP/1.1\r\nHost: x\r\n".to_vec();
    many.extend((0..100).flat_map(|_| *b"A: b\r\n"));
    many.extend_from_slice(b"\r\n");
    assert_eq!(status(&ask(address, &many)), "431");
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET /metrics\r\n\r\n",
        b"\0\0\0\0",
    ] {
        let answer = ask(address, garbage);
        assert!(matches!(status(&answer), "400" | ""), "{answer}");
    }
    assert_eq!(status(&get(address, "/metrics", "")), "200");
}

#[test]
fn a_silent_client_and_a_slow_one_are_cut_off_and_delay_nobody() {
    let Started { server: _server, address, .. } = started();
    let begun = Instant::now();
    let (mut silent, mut slow, mut idle) = (connect(address), connect(address), connect(address));
    let mut dripping = slow.try_clone().unwrap();
    let drip = thread::spawn(move || {
        for byte in
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                .iter()
                .cycle()
        {
            thread::sleep(Duration::from_millis(50));
            if dripping.write_all(&[*byte]).is_err() || begun.elapsed() > BOUND {
                return;
            }
        }
    });
    idle.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(status(&get(address, "/metrics", "")), "200");
    assert_eq!(rest(&mut silent), b"");
    assert!(!String::from_utf8(rest(&mut slow)).unwrap().starts_with("HTTP/1.1 200"));
    assert!(String::from_utf8(rest(&mut idle)).unwrap().starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() >= HEADER_TIME && begun.elapsed() < BOUND);
    drip.join().unwrap();
}

#[test]
fn a_pipeline_is_answered_in_order_and_one_that_is_not_read_ends() {
    let Started { server: _server, address, slot } = started();
    let one = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = ask(address, &one.repeat(50));
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 50);
    // It asks for far more than the socket's buffers hold, and reads nothing.
    let mut deaf = connect(address);
    let begun = Instant::now();
    deaf.set_write_timeout(Some(CONNECTION_TIME + BOUND)).unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    while deaf.write_all(&requests).is_ok() {
        assert!(begun.elapsed() < BOUND);
        assert_eq!(status(&get(address, "/metrics", "")), "200");
    }
    assert!(slot.is_ready(Instant::now()));
}

#[test]
fn of_two_thousand_connections_those_past_sixteen_are_closed_at_once() {
    let Started { server, address, slot: _ } = started();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let begun = Instant::now();
    let mut all: Vec<_> = (0..2000).map(|_| connect(address)).collect();
    let mut refused = 0;
    // Those with a place are closed after two seconds, too.
    for stream in &mut all {
        assert_eq!(rest(stream), b"");
        refused += usize::from(begun.elapsed() < HEADER_TIME);
    }
    drop(all);
    // Each time those are closed, as many more find a place.
    let rounds = begun.elapsed().as_secs() / HEADER_TIME.as_secs() + 2;
    let most = rounds * CONNECTIONS as u64;
    assert!(server.refused() >= 2000 - most, "{}, {refused}, {most}", server.refused());
    assert!(begun.elapsed() < BOUND);
    assert_eq!(status(&get(address, "/metrics", "")), "200");
}

#[test]
fn it_has_no_capabilities_and_ends_when_it_is_dropped() {
    let Started { server, address, slot: _ } = started();
    let id = server.thread.as_ref().map(|thread| thread.thread().id());
    assert!(id.is_some());
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let mut found = 0;
    for task in tasks {
        let folder = task.path().display().to_string();
        if text(&format!("{folder}/comm")) == "http\n" {
            let status = text(&format!("{folder}/status"));
            // Another test's server may be about to begin or to end.
            found += usize::from(
                [
                    "CapEff:\t0000000000000000",
                    "CapPrm:\t0000000000000000",
                    "NoNewPrivs:\t1",
                    "Seccomp:\t2",
                ]
                .iter()
                .all(|line| status.contains(line)),
            );
        }
    }
    assert!(found > 0);
    drop(server);
    let error = TcpStream::connect_timeout(&address, BOUND).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
