//! `spread::programs`: a program without shared libraries is spread, too: nothing has to be preloaded.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{Case, Host, POOL, PORTS, Plan};
use crate::harness::process::Process;

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("spread::programs")
        .once(&[("static_program", static_program)])
        .unless(no_static_program())
        .cases()
}

/// The path where `cargo xtask test` puts the program, whether it is there or not.
fn static_dialer() -> Result<PathBuf> {
    let folder = env::current_exe()?;
    let folder = folder.parent().context("a program without a folder")?;
    Ok(folder.join("examples").join("static-dialer"))
}

/// Whether a 64-bit ELF program needs a dynamic linker (PT_INTERP); `None` if the file is too short for an ELF header. That it is
/// ELF is not checked.
fn is_dynamic(program: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = program.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // The header of 64-bit ELF: e_phoff, e_phentsize, e_phnum.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut kinds = (0..count).map(|it| number(usize::try_from(table + it * size).ok()?, 4));
    Some(kinds.any(|kind| kind == Some(u64::from(PT_INTERP))))
}

fn no_static_program() -> Option<String> {
    let there = static_dialer().ok().and_then(|path| fs::read(path).ok());
    there.is_none().then(|| "static-dialer is not built; `cargo xtask test` does it".to_owned())
}

/// A program without a dynamic linker, in the rule's cgroup, opens as many connections as the pool has ports: each address gets
/// as many, within 1 %, half-way and at the end.
fn static_program() -> Result<()> {
    let path = static_dialer()?;
    ensure!(is_dynamic(&fs::read(&path)?) == Some(false), "{} is dynamic", path.display());
    let mut host = Host::new()?;
    let server = host.server("10.1.0.1:7000")?;
    let spread = host.spread(&POOL, &[])?;
    let mut command = Command::new(path);
    command.arg(server.address.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut dialer = host.stage.netns.run(|| Process::spawn(&mut command))?;
    host.cgroup.add(dialer.id())?;
    let mut stdin = dialer.child.stdin.take().context("no stdin")?;
    let mut stdout = BufReader::new(dialer.child.stdout.take().context("no stdout")?).lines();
    for part in 1..=2 {
        writeln!(stdin, "{}", PORTS * 2)?;
        let held = stdout.next().context("it ended")??;
        ensure!(held == (PORTS * 2 * part).to_string(), "it holds {held}");
        check_even(&host, server.address, PORTS * part / 2)?;
    }
    drop(dialer);
    spread.stop()?;
    host.rule.check_nothing_left()
}

/// Checks that each address of the pool has `each` ports in use, within 1 %.
fn check_even(host: &Host, peer: std::net::SocketAddr, each: u64) -> Result<()> {
    let counts = host.in_use(&POOL, peer)?;
    let even = counts.iter().all(|count| count.abs_diff(each) * 100 <= each);
    ensure!(even, "{counts:?} ports are in use, not {each} of each address");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_dynamic() {
        let mut program = vec![0; 64 + 2 * 56];
        program[32] = 64;
        program[54] = 56;
        program[56] = 2;
        program[64] = 1;
        assert_eq!(is_dynamic(&program), Some(false));
        program[64 + 56] = 3;
        assert_eq!(is_dynamic(&program), Some(true));
        assert_eq!(is_dynamic(b"#!/bin/sh"), None);
    }
}
