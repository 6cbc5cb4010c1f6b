//! A host that runs out of ports, in `tracer top`: `show demo` on this terminal, `show picture FILE` as SVG. Both start
//! `show host`, which is that host until its stdin is closed. Needs root; `cargo xtask demo` and `cargo xtask picture` run it.
//! `TRACER_BIN` is the tracer program.

use std::{env, path::Path};

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracer_tests::show;

fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    match &arguments[..] {
        [demo] if demo == "demo" => show::demo(),
        [picture, file] if picture == "picture" => show::picture(Path::new(file)),
        [host] if host == "host" => show::host(),
        _ => bail!("usage: show demo | show picture FILE | show host"),
    }
}
