//! Scenes about ports in use: in which states, and who took them. `small_range`, which doctor finds in most scenes, is never what
//! is wrong.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::Result;

use super::scene::{LOCAL, Scene};
use crate::{cases::doctor::edge::listen, harness::sock::Sock};

/// The first port of a range.
const LOW: u16 = 40_000;

/// A scene with this many source ports.
fn of(ports: u16) -> Result<Scene> {
    Scene::new(LOW, LOW + ports - 1)
}

/// The load has ended, and left all 100 ports in TIME_WAIT. Doctor must find `ports_exhausted`.
pub(super) fn full_of_time_waits() -> Result<Scene> {
    let scene = of(100)?;
    scene.leave_time_waits(100)?;
    Ok(scene.counting(&[
        ("ports.in_use", 100),
        ("ports.held", 100),
        ("ports.capacity", 100),
        ("ports.time_wait", 100),
        ("ports.reusable", 0),
    ]))
}

/// All 100 ports are in TIME_WAIT, and connect() takes them over (tcp_tw_reuse is 1). Doctor must find nothing wrong.
pub(super) fn taken_over_time_waits() -> Result<Scene> {
    let scene = of(100)?.sysctl("ipv4/tcp_tw_reuse", "1")?;
    scene.leave_time_waits(100)?;
    Ok(scene)
}

/// The server closes first, and keeps a thousand TIME_WAITs on its own port; the 5,000 source ports are free. Doctor must find
/// nothing wrong.
pub(super) fn accepted_time_waits() -> Result<Scene> {
    let scene = of(5_000)?;
    for (client, server) in scene.open(1_000)? {
        drop(server);
        drop(client);
    }
    Ok(scene)
}

/// 80 % of the ports are in use, by connections that stay open. Doctor must find `ports_exhausted`.
pub(super) fn nearly_full() -> Result<Scene> {
    let scene = of(100)?.holding(80)?;
    Ok(scene.counting(&[("ports.in_use", 80), ("ports.capacity", 100), ("ports.time_wait", 0)]))
}

/// 79 % of the ports are in use, by connections that stay open. Doctor must find nothing wrong.
pub(super) fn less_than_nearly_full() -> Result<Scene> {
    of(100)?.holding(79)
}

/// A program that does not close what the server has closed: 20 of 100 ports are in CLOSE_WAIT. Doctor must find `held_open`.
pub(super) fn held_open() -> Result<Scene> {
    let mut scene = of(100)?;
    let (held, closed): (Vec<Sock>, Vec<Sock>) = scene.open(20)?.into_iter().unzip();
    drop(closed);
    scene.keep(held);
    Ok(scene.counting(&[("ports.close_wait", 20), ("ports.capacity", 100)]))
}

fn in_fin_wait2(scene: &Scene, count: usize) -> Result<Vec<Sock>> {
    let (closed, held): (Vec<Sock>, Vec<Sock>) = scene.open(count)?.into_iter().unzip();
    drop(closed);
    Ok(held)
}

/// A server that does not close what the program has closed: 20 of 100 ports are in FIN_WAIT2, until [`Scene::do_the_rest`].
/// Doctor must find `fin_wait2_held`.
pub(super) fn fin_wait2_held() -> Result<Scene> {
    let scene = of(100)?;
    let held = in_fin_wait2(&scene, 20)?;
    let scene = scene.counting(&[("ports.fin_wait2", 20), ("ports.capacity", 100)]);
    // The command is about connections that are closed from then on.
    Ok(scene.and_then(|| {
        drop(held);
        Ok(())
    }))
}

/// 2 of 200 ports are in FIN_WAIT2 as long as the scene, and 20 more are in use. Doctor must find nothing wrong.
pub(super) fn few_in_fin_wait2() -> Result<Scene> {
    let mut scene = of(200)?.holding(20)?;
    let held = in_fin_wait2(&scene, 2)?;
    scene.keep(held);
    Ok(scene)
}

/// One server has 46 of 100 ports, and no other has any. Doctor must find nothing wrong, and note `hot_spot` (`info`).
pub(super) fn hot_spot() -> Result<Scene> {
    Ok(of(100)?.holding(46)?.counting(&[("ports.in_use", 46)]))
}

/// Two servers have 46 of 100 ports each: no one of them stands out. Doctor must find nothing wrong.
pub(super) fn two_destinations() -> Result<Scene> {
    let mut scene = of(100)?.holding(46)?;
    let address = format!("{LOCAL}:8082").parse()?;
    let listener = scene.here.run(|| listen(address, 128))?;
    let connect = || (0..46).map(|_| Sock::connected(address)).collect::<rustix::io::Result<_>>();
    let clients: Vec<Sock> = scene.here.run(connect)?;
    scene.keep((listener, clients));
    Ok(scene)
}

/// `count` sockets that are bound to the local address and port 0, after `prepare`, and then connected if `connects`.
fn bound(
    scene: &Scene,
    count: usize,
    prepare: impl Fn(&Sock) -> rustix::io::Result<()> + Send + Sync,
    connects: bool,
) -> Result<Vec<Sock>> {
    let one = |_| -> Result<Sock> {
        let sock = Sock::tcp(scene.server)?;
        prepare(&sock)?;
        sock.bind(format!("{LOCAL}:0").parse()?)?;
        if connects {
            sock.connect(scene.server)?;
        }
        Ok(sock)
    };
    scene.here.run(|| (0..count).map(one).collect())
}

/// A program that lets bind() choose the port of each of 25 connections: only the ports' parity shows it. Doctor must find
/// `poisoned_ports`.
pub(super) fn bound_and_connected() -> Result<Scene> {
    let mut scene = of(100)?;
    let held = bound(&scene, 25, |_| Ok(()), true)?;
    scene.keep(held);
    Ok(scene.counting(&[("ports.bound", 25)]))
}

/// A program that holds 25 bound ports of 100 and does not connect from them; another 12 ports are in use. Doctor must find
/// `poisoned_ports`.
pub(super) fn bound_and_idle() -> Result<Scene> {
    let mut scene = of(100)?.holding(12)?;
    let held = bound(&scene, 25, |_| Ok(()), false)?;
    scene.keep(held);
    Ok(scene.counting(&[("ports.bound", 25)]))
}

/// A program that binds an address and leaves the port of its 25 connections to connect() (IP_BIND_ADDRESS_NO_PORT). Doctor must
/// find nothing wrong.
pub(super) fn bound_without_a_port() -> Result<Scene> {
    let mut scene = of(100)?;
    let held = bound(&scene, 25, Sock::set_bind_address_no_port, true)?;
    scene.keep(held);
    Ok(scene)
}

/// 90 ports of the range are bound by UDP sockets, which take none from TCP. Doctor must find nothing wrong.
pub(super) fn udp_in_range() -> Result<Scene> {
    let mut scene = of(100)?.holding(12)?;
    let ports = LOW..LOW + 90;
    let bind = |port| UdpSocket::bind((LOCAL, port));
    let held: Vec<UdpSocket> = scene.here.run(|| ports.map(bind).collect::<Result<_, _>>())?;
    scene.keep(held);
    Ok(scene)
}

/// Waits for 2.1 s, after which TIME_WAITs are old enough that connect() takes them over on every kernel.
pub(super) fn wait_for_take_over() {
    thread::sleep(Duration::from_millis(2_100));
}
