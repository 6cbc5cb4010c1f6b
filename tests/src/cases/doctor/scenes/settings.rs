//! Scenes about settings: of the range, of services in it, of TIME_WAITs, of descriptors. `small_range`, which doctor finds in
//! most scenes, is what is wrong in the scene of this name only.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::scene::{LOCAL, Scene};
use crate::{
    cases::doctor::edge::listen,
    harness::{process::Helper, sock::Sock},
};

/// Enough of the 100 ports that the sockets of the namespace are listed.
const FEW: usize = 12;

fn of_hundred() -> Result<Scene> {
    Scene::new(40_000, 40_099)?.holding(FEW)
}

fn local(port: u16) -> Result<SocketAddr> {
    Ok(format!("{LOCAL}:{port}").parse()?)
}

fn with_listener(port: u16) -> Result<Scene> {
    let mut scene = of_hundred()?;
    let address = local(port)?;
    let listener = scene.here.run(|| listen(address, 16))?;
    scene.keep(listener);
    Ok(scene)
}

/// A service on a port of the range, which is not reserved: connect() could take the port before the service starts. Doctor must
/// find `listeners_in_range`.
pub(super) fn listener_in_range() -> Result<Scene> {
    Ok(with_listener(40_051)?.counting(&[("ports.count", 1)]))
}

/// A service on the port just below the range. Doctor must find nothing wrong.
pub(super) fn listener_below_range() -> Result<Scene> {
    with_listener(39_999)
}

/// A range of 100 ports, of which 12 are in use. Doctor must find `small_range`.
pub(super) fn small_range() -> Result<Scene> {
    Ok(of_hundred()?.counting(&[("ports.usable", 100)]))
}

/// A range that is large enough (32,535 ports), of an odd number of ports, in which something connects. Doctor must find nothing
/// wrong.
pub(super) fn odd_sized_range() -> Result<Scene> {
    Ok(Scene::new(33_001, 65_535)?.acting(|scene| scene.open(1).map(drop)))
}

/// A socket that is connected to itself, because connect() was given the port of a service that did not run;
/// [`Scene::do_the_rest`] closes it. Doctor must find `self_connect`.
pub(super) fn self_connect() -> Result<Scene> {
    let scene = Scene::new(40_000, 40_099)?;
    let address = local(40_050)?;
    let looped = scene.here.run(|| -> Result<Sock> {
        let sock = Sock::tcp(address)?;
        sock.set_reset_on_close()?;
        sock.bind(address)?;
        sock.connect(address)?;
        Ok(sock)
    })?;
    let scene = scene.holding(FEW)?.counting(&[("port", 40_050)]);
    // As the advice says: restart the program that holds the port.
    Ok(scene.and_then(|| {
        drop(looped);
        Ok(())
    }))
}

/// Programs connect to a local port on which nothing listens. It is one that connect() does not try first.
fn refused(port: u16) -> Result<Scene> {
    let address = local(port)?;
    Ok(of_hundred()?.acting(move |scene| {
        // It is refused.
        scene.here.run(|| Sock::connected(address).ok());
        Ok(())
    }))
}

/// Programs connect to a local port of the range on which nothing listens. Doctor must find nothing wrong, and note
/// `self_connect` (`info`).
pub(super) fn refused_in_range() -> Result<Scene> {
    Ok(refused(40_051)?.counting(&[("port", 40_051)]))
}

/// Programs connect to a local port below the range on which nothing listens. Doctor must find nothing wrong.
pub(super) fn refused_below_range() -> Result<Scene> {
    refused(39_999)
}

/// tcp_tw_reuse is 1, and TCP timestamps, without which it has no effect, are off. Doctor must find `reuse_ineffective`.
pub(super) fn reuse_ineffective() -> Result<Scene> {
    let scene = of_hundred()?.sysctl("ipv4/tcp_tw_reuse", "1")?;
    let scene = scene.sysctl("ipv4/tcp_timestamps", "0")?;
    Ok(scene.counting(&[("tcp_tw_reuse", 1), ("tcp_timestamps", 0)]))
}

/// tcp_tw_reuse is 1, and TCP timestamps are on. Doctor must find nothing wrong.
pub(super) fn reuse_effective() -> Result<Scene> {
    of_hundred()?.sysctl("ipv4/tcp_tw_reuse", "1")
}

/// A namespace that may have `most` TIME_WAITs and has 10, and in which more connections are closed while doctor looks. Those
/// that stay open make the namespace worth a look.
fn with_time_waits(most: &str) -> Result<Scene> {
    let scene = Scene::new(40_000, 40_999)?.holding(110)?;
    let scene = scene.sysctl("ipv4/tcp_max_tw_buckets", most)?;
    scene.leave_time_waits(10)?;
    Ok(scene.acting(|scene| scene.leave_time_waits(1)))
}

/// Connections end without TIME_WAIT, because the namespace has as many as tcp_max_tw_buckets allows: 10. Doctor must find
/// `time_wait_overflow`.
pub(super) fn time_wait_overflow() -> Result<Scene> {
    Ok(with_time_waits("10")?.counting(&[("time_waits", 10), ("time_waits.most", 10)]))
}

/// Connections end in TIME_WAIT: the namespace has 10 and a few more, and may have 1,000. Doctor must find nothing wrong.
pub(super) fn time_waits_below_the_most() -> Result<Scene> {
    with_time_waits("1000")
}

/// A program with connections, which may have `share` times as many descriptors as it has.
fn program_with_descriptors(share: f64) -> Result<(Scene, u64, u64)> {
    let mut scene = Scene::new(40_000, 40_999)?;
    let server = scene.server.to_string();
    let mut program = scene.here.run(|| Helper::spawn(&["hold", &server, "250"]))?;
    program.ready()?;
    let open = fs::read_dir(format!("/proc/{}/fd", program.id()))?.count();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a small number"
    )]
    let limit = (open as f64 * share).ceil() as u64;
    let pid = Pid::from_raw(i32::try_from(program.id())?).context("no such process")?;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(4_096) })?;
    scene.keep(program);
    Ok((scene, u64::try_from(open)?, limit))
}

/// A program has about 96 % of the descriptors that it may have open (250 connections and a few more). Doctor must find
/// `descriptors`.
pub(super) fn descriptors() -> Result<Scene> {
    let (scene, open, limit) = program_with_descriptors(1.04)?;
    let counts = [
        ("descriptors.open", open),
        ("descriptors.limit", limit),
        ("descriptors.limit.hard", 4_096),
    ];
    Ok(scene.counting(&counts))
}

/// A program has at most 79 % of the descriptors that it may have open. Doctor must find nothing wrong.
pub(super) fn descriptors_left() -> Result<Scene> {
    Ok(program_with_descriptors(1.0 / 0.79)?.0)
}
