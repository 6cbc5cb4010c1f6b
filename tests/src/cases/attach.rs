//! `attach::*`: what is left of the tracer's powers once it has attached.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::tracer::watch::Watch;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("attach::main_thread_keeps_bpf_at_most", main_thread),
        Case::new("attach::no_thread_keeps_more_than_it_uses", every_thread),
    ]
}

/// Numbers of include/uapi/linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

fn effective(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Ok(u64::from_str_radix(line.context("no CapEff")?.trim(), 16)?)
}

fn main_thread() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    let status = fs::read_to_string(format!("/proc/{}/status", watch.id()))?;
    let left = effective(&status)? & !BPF;
    ensure!(left == 0, "the main thread still has capabilities {left:#x} beside CAP_BPF");
    ensure!(status.contains("NoNewPrivs:\t1"), "no_new_privs is not set");
    watch.stop()
}

/// A thread that enters network namespaces to read their sockets needs some of them; none needs
/// to change users, files, modules or devices.
fn every_thread() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    let used = NET_ADMIN | SYS_PTRACE | SYS_ADMIN | SYSLOG | PERFMON | BPF;
    for thread in fs::read_dir(format!("/proc/{}/task", watch.id()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let left = effective(&status)? & !used;
        let name = status.lines().next().unwrap_or_default();
        ensure!(left == 0, "thread {name} still has capabilities {left:#x}");
    }
    watch.stop()
}
