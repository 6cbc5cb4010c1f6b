//! Scenes about what is on the way: queues, routes, reverse-path filters, and a NAT behind this host. `small_range`, which doctor
//! finds in most scenes, is never what is wrong.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::scene::{LOCAL, Scene};
use crate::{
    cases::doctor::edge::{begin, begin_with, listen},
    harness::sock::Sock,
};

/// Enough of the 100 ports that the sockets of the namespace are listed.
const FEW: usize = 12;
/// The value of the sysctl `net.core.somaxconn`: no accept queue is longer.
const SHORT: &str = "3";

/// 20 connections, from all 20 ports, to a destination that answers nothing: they stay in SYN_SENT. Doctor must find
/// `black_hole`.
pub(super) fn black_hole() -> Result<Scene> {
    let (mut scene, _) = Scene::with_network(20)?;
    // No interface has this hardware address: whatever is sent to it is dropped.
    scene.here.ip("neigh add 10.2.0.9 lladdr 02:00:00:00:00:09 dev t0")?;
    let peer: SocketAddr = "10.2.0.9:443".parse()?;
    let begin_all = || (0..20).map(|_| begin(peer)).collect::<Result<_>>();
    let waiting: Vec<Sock> = scene.here.run(begin_all)?;
    scene.keep(waiting);
    Ok(scene.counting(&[("ports.syn_sent", 20), ("ports.in_use", 20), ("ports.capacity", 20)]))
}

/// A service whose accept queue has room for three, and this many connections that it has not accepted.
fn with_queue(waiting: usize) -> Result<Scene> {
    let scene = Scene::new(40_000, 40_099)?.holding(FEW)?.sysctl("core/somaxconn", SHORT)?;
    let address: SocketAddr = format!("{LOCAL}:9000").parse()?;
    let service = Arc::new(scene.here.run(|| listen(address, 4_096))?);
    let begin_all = || (0..waiting).map(|_| begin(address)).collect::<Result<_>>();
    let clients: Vec<Sock> = scene.here.run(begin_all)?;
    let mut scene = scene;
    scene.keep((Arc::clone(&service), clients));
    // As the advice says: the program is started again, and sets the length of its queue.
    Ok(scene.and_then(move || Ok(service.listen(4_096)?)))
}

/// A service whose accept queue holds four connections, one more than its length (`sk_acceptq_is_full` of include/net/sock.h);
/// SYNs of two more are dropped. Doctor must find `upstream_queue`.
pub(super) fn upstream_queue() -> Result<Scene> {
    Ok(with_queue(6)?.counting(&[("queue.waiting", 4), ("queue.longest", 3)]))
}

/// A service whose accept queue, of length three, holds two connections. Doctor must find nothing wrong.
pub(super) fn queue_with_room() -> Result<Scene> {
    with_queue(2)
}

/// So many connections are begun at each step, and ended at the next one.
const BEGUN: usize = 20;
/// So many SYNs are not answered: five count, and on a busy machine some of them may be answered late.
const SILENT: usize = 8;
/// How long an answer may take that comes at once.
const AT_ONCE: Duration = Duration::from_millis(20);
/// How long a late answer is waited for.
const LATE: Duration = Duration::from_millis(300);
/// The most connections that are tried to find those that are not answered.
const TRIES: usize = 60;

/// A server of the internet that answers some connections; `all`: each of them.
fn global_server(all: bool) -> Result<Scene> {
    let (scene, there) = Scene::with_other(200)?;
    let mut scene = scene.holding(20)?;
    there.ip("addr add 203.0.113.7/32 dev lo")?;
    scene.here.ip("route add 203.0.113.7/32 via 10.2.0.2")?;
    let address: SocketAddr = "203.0.113.7:443".parse()?;
    // The kernel chooses the socket by the addresses and ports, whether or not its queue is full.
    let shares = |backlog: i32| -> Result<Sock> {
        let sock = Sock::tcp(address)?;
        sock.set_reuse_port()?;
        sock.bind(address)?;
        sock.listen(backlog)?;
        Ok(sock)
    };
    let listeners = there.run(|| -> Result<_> {
        let full = if all { None } else { Some(shares(0)?) };
        Ok((full, shares(4_096)?))
    })?;
    scene.keep((there, listeners));
    if !all {
        let (silent, answered) = scene.here.run(|| silent_ones(address))?;
        scene.keep((silent, answered));
    }
    let begun: Mutex<Vec<Sock>> = Mutex::default();
    Ok(scene.acting(move |scene| {
        let begin_all = || (0..BEGUN).map(|_| begin(address)).collect::<Result<Vec<_>>>();
        let new = scene.here.run(begin_all)?;
        for sock in &new {
            sock.set_reset_on_close()?;
        }
        *begun.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }))
}

/// Opens connections until [`SILENT`] of them have got no answer: these, and the others. On a busy machine an answer can be late.
fn silent_ones(address: SocketAddr) -> Result<(Vec<Sock>, Vec<Sock>)> {
    let (mut silent, mut answered): (Vec<Sock>, Vec<Sock>) = (Vec::new(), Vec::new());
    while silent.len() < SILENT {
        ensure!(silent.len() + answered.len() < TRIES, "{TRIES} connections were answered");
        let sock = begin(address)?;
        match sock.wait_connected(AT_ONCE) {
            Ok(()) => answered.push(sock),
            Err(_) => silent.push(sock),
        }
        if silent.len() == SILENT {
            thread::sleep(LATE);
            let is_late = |sock: &mut Sock| sock.wait_connected(Duration::ZERO).is_ok();
            answered.extend(silent.extract_if(.., is_late));
        }
    }
    Ok((silent, answered))
}

/// A server of the internet (as if behind a NAT) has answered some connections, and eight SYNs not; new connections are begun over
/// and over. Doctor must find `nat_behind`.
pub(super) fn nat_behind() -> Result<Scene> {
    global_server(false)
}

/// The server of [`nat_behind`] answers all connections, and nothing is left in SYN_SENT. Doctor must find nothing wrong.
pub(super) fn all_answered() -> Result<Scene> {
    global_server(true)
}

/// A namespace in which programs may bind addresses that it does not have.
fn with_nonlocal_bind() -> Result<Scene> {
    let (scene, _) = Scene::with_network(100)?;
    let scene = scene.holding(FEW)?.sysctl("ipv4/ip_nonlocal_bind", "1")?;
    for interface in ["all", "t0"] {
        scene.here.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
    }
    Ok(scene)
}

/// Begins `count` connections to the scene's server from the address `source`, and does not wait for answers; `transparent`: with
/// IP_TRANSPARENT.
fn begin_from(scene: &Scene, source: &str, count: usize, transparent: bool) -> Result<Vec<Sock>> {
    let source = format!("{source}:0").parse()?;
    let one = |_| -> Result<Sock> {
        let sock = Sock::tcp(scene.server)?;
        sock.set_bind_address_no_port()?;
        sock.set_reset_on_close()?;
        if transparent {
            sock.set_transparent()?;
        }
        sock.bind(source)?;
        begin_with(&sock, scene.server)?;
        Ok(sock)
    };
    scene.here.run(|| (0..count).map(one).collect())
}

/// Three sockets of a program use an address that is not here (`ip_nonlocal_bind` is 1): their SYNs leave, and the answers go
/// elsewhere. Doctor must find `nonlocal_bind`.
pub(super) fn nonlocal_bind() -> Result<Scene> {
    let mut scene = with_nonlocal_bind()?;
    // Without IP_TRANSPARENT, connect() fails with ENETUNREACH: no SYN leaves.
    let waiting = begin_from(&scene, "10.2.0.77", 3, true)?;
    scene.keep(waiting);
    Ok(scene)
}

/// Programs may use an address that is not here (`ip_nonlocal_bind` is 1), and none does. Doctor must find nothing wrong, and
/// note `nonlocal_bind` (`info`).
pub(super) fn nonlocal_bind_unused() -> Result<Scene> {
    with_nonlocal_bind()
}

/// A namespace with two interfaces. Answers to 10.3.0.1 arrive at the second one, though their sender is reached by the first.
fn with_two_interfaces(filter: &str) -> Result<Scene> {
    let (scene, there) = Scene::with_other(100)?;
    let mut scene = scene.holding(FEW)?;
    for netns in [&scene.here, &there] {
        // The next pair has the same names.
        for step in ["link set t0 down", "link set t0 name first", "link set first up"] {
            netns.ip(step)?;
        }
    }
    scene.here.veth(&["10.3.0.1/24"], &there, &["10.3.0.2/24"])?;
    for interface in ["all", "first", "t0"] {
        let name = format!("ipv4/conf/{interface}/rp_filter");
        there.sysctl(&name, "0")?;
        scene.here.sysctl(&name, filter)?;
    }
    // Else the other host asks for 10.3.0.1 in the name of 10.2.0.2, and the filter drops that, too.
    there.sysctl("ipv4/conf/t0/arp_announce", "2")?;
    let waiting = begin_from(&scene, "10.3.0.1", 3, false)?;
    scene.keep((there, waiting));
    let newest: Mutex<Vec<Sock>> = Mutex::default();
    Ok(scene.acting(move |scene| {
        let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.clear();
        newest.extend(begin_from(scene, "10.3.0.1", 1, false)?);
        Ok(())
    }))
}

/// Answers arrive at another interface than the one that leads to their sender, and are dropped here (`rp_filter` 1, strict).
/// Doctor must find `reverse_path`.
pub(super) fn reverse_path() -> Result<Scene> {
    with_two_interfaces("1")
}

/// Answers arrive as in [`reverse_path`], and are not dropped (`rp_filter` 2, loose). Doctor must find nothing wrong.
pub(super) fn reverse_path_loose() -> Result<Scene> {
    with_two_interfaces("2")
}
