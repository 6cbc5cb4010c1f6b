//! `cargo xtask test parsers`: gives each parser of what others write a million damaged inputs, optimized, in a process of its own.

use std::process::Command;

use anyhow::{Result, ensure};

use super::follow;
use crate::{build, exec, report::Suite, workspace};

/// What the names of these tests contain, those of their modules included.
const MARK: &str = "::tests::mutations";
/// The value of `TRACER_TEST_MUTATIONS`: how many inputs each parser gets.
const INPUTS: &str = "1000000";
/// The value of `TRACER_TEST_LIMIT`: how long one parser may take for all of them, in seconds. It takes some minutes at most.
const SECONDS: &str = "900";
/// The value of `TRACER_TEST_MEMORY`: by how many MiB a parser's process may grow.
const MEMORY: &str = "64";

/// Runs the tests whose names contain one of `filters`, or all if there are none, one after the other; returns a suite for each.
/// The damaged inputs are the same in each run.
///
/// # Errors
/// The build fails, no test has such a name, or cargo cannot be started. A test that fails is in its suite.
pub(super) fn test(filters: &[String]) -> Result<Vec<Suite>> {
    exec::run(cargo().arg("--no-run"))?;
    let list = exec::output(cargo().args(["--", "--list", MARK]))?;
    let names = names(&list, filters);
    ensure!(!names.is_empty(), "no test of a parser has such a name:\n{list}");
    let run = |name: &&str| {
        let mut command = cargo();
        command
            .env("TRACER_TEST_MUTATIONS", INPUTS)
            .env("TRACER_TEST_LIMIT", SECONDS)
            .env("TRACER_TEST_MEMORY", MEMORY)
            .args(["--", "--exact", name, "--nocapture", "--test-threads=1"]);
        follow(parser(name), &mut command)
    };
    names.iter().map(run).collect()
}

/// Cargo with the unit tests of `tracer`, optimized. A number that overflows ends them nevertheless, as in a test that is not.
fn cargo() -> Command {
    let mut command = workspace::cargo("test");
    command.args(["--release", "--config", "profile.release.package.tracer.overflow-checks=true"]);
    command.args(["--package", "tracer", "--lib"]);
    build::embed(&mut command);
    command
}

/// The names in libtest's list that contain one of `filters`.
fn names<'a>(list: &'a str, filters: &[String]) -> Vec<&'a str> {
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| filters.is_empty() || filters.iter().any(|it| name.contains(it))).collect()
}

/// The module of a test: the last one before `tests`.
fn parser(name: &str) -> &str {
    let module = name.split("::tests::").next().unwrap_or(name);
    module.rsplit("::").next().unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_chosen_by_name_and_named_by_their_module() {
        let list = "doctor::logs::tests::mutations::no_input: test\n\
            host::sockdiag::tests::mutations_of_answers: test\n\n2 tests, 0 benchmarks\n";
        let all = names(list, &[]);
        assert_eq!(all.iter().map(|name| parser(name)).collect::<Vec<_>>(), ["logs", "sockdiag"]);
        assert_eq!(names(list, &["logs".to_owned()]), [all[0]]);
        assert_eq!(names(list, &["x".to_owned()]), [""; 0]);
    }
}
