//! The machine on which the figures were measured, and the date.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::exec;

/// The beginning of a sentence that ends with the command that measured, for example `Measured 2026-01-31 on 2 × Some CPU @
/// 2.50GHz (virtual), Linux 6.18.44, by`. The date is in UTC; the number is that of logical CPUs; a processor without a model
/// name is an `unknown CPU`. Fails if /proc/cpuinfo cannot be read, or `uname` or `date` cannot be run.
pub(crate) fn describe() -> Result<String> {
    let path = "/proc/cpuinfo";
    let cpuinfo = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let kernel = exec::output(Command::new("uname").arg("-r"))?;
    let date = exec::output(Command::new("date").args(["-u", "+%F"]))?;
    let (cores, model, kind) = processor(&cpuinfo);
    let (date, kernel) = (date.trim(), kernel.trim());
    Ok(format!("Measured {date} on {cores} × {model}{kind}, Linux {kernel}, by"))
}

fn processor(cpuinfo: &str) -> (usize, &str, &str) {
    let field = |name| {
        cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.split_once(": ").map(|one| one.1))
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let flags = field("flags").unwrap_or_default();
    let kind = if flags.split(' ').any(|flag| flag == "hypervisor") { " (virtual)" } else { "" };
    (cores, field("model name").unwrap_or("unknown CPU"), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_processor_is_marked() {
        let cpuinfo = "processor\t: 0\nmodel name\t: X @ 2.50GHz\nflags\t\t: fpu hypervisor\n\n\
                       processor\t: 1\nmodel name\t: X @ 2.50GHz\n";
        assert_eq!(processor(cpuinfo), (2, "X @ 2.50GHz", " (virtual)"));
    }
}
