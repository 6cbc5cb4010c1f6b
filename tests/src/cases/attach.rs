//! `attach::*`: what is left of the tracer's powers once it has attached.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    privileges::{BPF, SYS_ADMIN, SYS_PTRACE},
    tracer::watch::Watch,
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("attach::main_thread_keeps_bpf_at_most", main_thread),
        Case::new("attach::no_thread_keeps_more_than_it_uses", every_thread),
    ]
}

fn effective(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Ok(u64::from_str_radix(line.context("no CapEff")?.trim(), 16)?)
}

fn main_thread() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    let status = fs::read_to_string(format!("/proc/{}/status", watch.id()))?;
    let left = effective(&status)? & !(1 << BPF);
    ensure!(left == 0, "the main thread still has capabilities {left:#x} beside CAP_BPF");
    ensure!(status.contains("NoNewPrivs:\t1"), "no_new_privs is not set");
    watch.stop()
}

/// The thread that enters network namespaces to read their sockets keeps what that takes, and no
/// other thread more than what maps are read with.
fn every_thread() -> Result<()> {
    let watch = Watch::start("auto", &[])?;
    let mut visitors = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", watch.id()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let name =
            status.lines().find_map(|line| line.strip_prefix("Name:\t")).context("no Name")?;
        let visits = name == "netns";
        visitors += u32::from(visits);
        let used = if visits { 1 << SYS_ADMIN | 1 << SYS_PTRACE } else { 1 << BPF };
        let left = effective(&status)? & !used;
        ensure!(left == 0, "thread {name} still has capabilities {left:#x}");
    }
    ensure!(visitors == 1, "{visitors} threads are called netns");
    watch.stop()
}
