//! `top::screen`: the view on a terminal, with keys.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::super::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx};
use crate::harness::{
    pty::{Pty, Size},
    tracer::{self, START_LIMIT, STOP_LIMIT, command, wait_for},
};

const SOON: Duration = Duration::from_secs(10);
/// Longest time from a key to what it shows, on a busy machine; normally it is less than a tenth of that.
const AT_ONCE: Duration = Duration::from_secs(2);

fn start(more: &[&str], size: Size) -> Result<Pty> {
    let mut command = command(&["top"])?;
    command.args(more);
    let pty = Pty::spawn(&command, size)?;
    pty.wait("the first screen", START_LIMIT, |text| text.contains("[1 tuples]"))?;
    Ok(pty)
}

/// An nginx with 1,000 ports runs out of them: the screen has the row of its full tuple (1,000 ports, 100 %, EADDRNOTAVAIL) and
/// its failures by cause (`ports_exhausted`); the detail of that row opens, screen 4 lists the failures, a filter hides the row,
/// and `q` ends the program with exit code 0 and the terminal as before.
pub(super) fn shows_an_exhaustion() -> Result<()> {
    let scene = Scene::new(1000, "location / { return 200 'ok'; }")?;
    let http = format!(
        "upstream backend {{ server {UPSTREAM}:{UPSTREAM_PORT} max_fails=0; }}\n\
         server {{ listen {PROXY}:8080; \n\
         proxy_http_version 1.1; proxy_set_header Connection '';\n\
         location / {{ proxy_pass http://backend; }} }}"
    );
    let config = nginx_config(scene.folder.path(), "proxy", &http)?;
    let mut nginx = scene.proxy.run(|| start_nginx(&config))?;
    let mut top = start(&[], Size(130, 30))?;
    scene.load(20, 5)?;
    let to = format!("{UPSTREAM}:{UPSTREAM_PORT}");
    let is_full = |line: &&str| {
        [PROXY, to.as_str(), "1000", "100.0!!", "EADDRNOTAVAIL", "nginx"]
            .iter()
            .all(|part| line.contains(part))
    };
    let full = |text: &str| text.lines().any(|line| is_full(&line));
    top.wait("the row of the full tuple", SOON, full)?;
    top.wait("the failures by cause", SOON, |text| text.contains("ports_exhausted"))?;
    // A filter leaves nginx's row only, because rows of other tests may be fuller.
    top.press("/comm:nginx\r")?;
    top.wait("the filter", AT_ONCE, |text| full(text) && text.contains("comm:nginx"))?;
    top.press("\r")?;
    top.wait("the detail", SOON, |text| {
        let parts = [to.as_str(), "No port is left", "1,000 of 1,000 ports", "ports_exhausted"];
        parts.iter().all(|part| text.contains(part))
    })?;
    top.press("\u{1b}")?;
    top.wait("the list again", AT_ONCE, full)?;
    top.press("4")?;
    top.wait("the failures", SOON, |text| {
        text.lines().any(|line| line.contains("ports_exhausted") && line.contains(&to))
    })?;
    top.press("1/!nginx\r")?;
    top.wait("the filter that hides it", SOON, |text| !full(text) && text.contains("!nginx"))?;
    top.press("q")?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "q is no failure");
    top.check_restored()?;
    nginx.signal(Signal::TERM)?;
    nginx.wait(Duration::from_secs(10))?;
    Ok(())
}

/// `top` in tmux: `?` shows the help; after `q`, the exit code is 0, and the terminal must again have what the shell printed
/// before, and nothing of the view.
pub(super) fn in_tmux() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("tmux");
    let tmux = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&socket).args(["-f", "/dev/null"]).args(arguments);
        let ended = tracer::run(&mut command, SOON)?;
        ensure!(ended.code() == 0, "tmux {arguments:?}: {ended:?}");
        Ok(ended.stdout)
    };
    let program = tracer::program()?;
    let program = program.to_str().context("path is not UTF-8")?;
    let shell = format!("echo before; {program} top; echo \"ended with $?\"; sleep 100");
    tmux(&["new-session", "-d", "-x", "100", "-y", "30", &shell])?;
    let shown = |what: &str, is: &dyn Fn(&str) -> bool| {
        wait_for(what, START_LIMIT, || {
            let text = tmux(&["capture-pane", "-p"])?;
            Ok(is(&text).then_some(()))
        })
    };
    let seen = (|| {
        shown("the view", &|text| text.contains("[1 tuples]"))?;
        tmux(&["send-keys", "?"])?;
        shown("the help", &|text| text.contains("sort by another column"))?;
        tmux(&["send-keys", "q"])?;
        shown("the list", &|text| !text.contains("sort by another column"))?;
        tmux(&["send-keys", "q"])?;
        shown("the shell's own screen", &|text| {
            text.contains("before") && text.contains("ended with 0") && !text.contains("[1 tuples]")
        })
    })();
    tmux(&["kill-server"]).ok();
    seen
}

/// However the program ends (`q`, Ctrl-C, SIGTERM, SIGINT, `-n`), its exit code is 0, and the terminal's modes are restored.
pub(super) fn is_given_back() -> Result<()> {
    type End = fn(&mut Pty) -> Result<()>;
    let ends: [(&str, End); 4] = [
        ("q", |top| top.press("q")),
        ("Ctrl-C", |top| top.press("\u{3}")),
        ("SIGTERM", |top| top.signal(Signal::TERM)),
        ("SIGINT", |top| top.signal(Signal::INT)),
    ];
    for (what, end) in ends {
        let mut top = start(&[], Size(80, 24))?;
        ensure!(top.check_restored().is_err(), "the program did not change the terminal's modes");
        end(&mut top)?;
        let status = top.wait_for_end(STOP_LIMIT)?;
        ensure!(status.success(), "{what}: {status}");
        top.check_restored().with_context(|| what.to_owned())?;
    }
    let mut top = start(&["-n", "2", "-i", "0.2"], Size(80, 24))?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "the end of -n is no failure");
    top.check_restored()
}

/// `top` ends within 10 s, with exit code 0, when its terminal is closed.
pub(super) fn ends_with_its_terminal() -> Result<()> {
    let mut top = start(&[], Size(80, 24))?;
    top.close();
    let began = Instant::now();
    let status = top.wait_for_end(SOON)?;
    ensure!(status.success(), "it is no failure: {status}");
    ensure!(began.elapsed() < SOON, "it ran on for {:?}", began.elapsed());
    Ok(())
}

/// The terminal is resized while the program runs, to sizes from 300×100 to 1×1 (columns × lines): the program writes something
/// within 10 s each time, shows the list at the last size, and ends by `q` with exit code 0.
pub(super) fn of_any_size() -> Result<()> {
    let mut top = start(&[], Size(40, 10))?;
    for size in [Size(300, 100), Size(80, 24), Size(10, 3), Size(1, 1), Size(40, 10)] {
        top.resize(size)?;
        let written = top.written();
        wait_for("the new screen", SOON, || Ok((top.written() > written).then_some(())))?;
    }
    top.wait("the screen", SOON, |text| text.contains("[1 tuples]"))?;
    top.press("q")?;
    ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "it failed after the changes of size");
    top.check_restored()
}
