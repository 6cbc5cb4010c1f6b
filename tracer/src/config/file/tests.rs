mod defaults;
mod documents;
mod faults;
mod mutations;

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<AgentConfig, Vec<String>> {
    let faults = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect();
    AgentConfig::parse(text.as_bytes(), Path::new("t.toml")).map_err(faults)
}

/// A file that is right, with one output to stdout and these lines in that section, and what comes after.
fn output(lines: &str) -> AgentConfig {
    parse(&format!("[[output]]\npath = \"-\"\n{lines}")).unwrap()
}

/// What `line` makes of each number below `count`.
fn lines(count: u32, line: impl Fn(u32) -> String) -> String {
    (0..count).map(line).collect::<Vec<_>>().concat()
}
