//! When the program panics, it restores the terminal. The other ways in which it can end are tested with the whole program
//! (`tests/src/cases/top/screen.rs`).
//!
//! The test runs itself again, on a terminal of its own, and panics there.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tracer::view::terminal::Screen;

const PANICS: &str = "TRACER_TEST_SCREEN_PANICS";
const NAME: &str = "a_panic_gives_the_terminal_back";

/// The sequences that switch a terminal to its alternate screen, and back.
const OTHER: &str = "\u{1b}[?1049h";
const OWN: &str = "\u{1b}[?1049l";

#[test]
fn a_panic_gives_the_terminal_back() {
    if env::var_os(PANICS).is_some() {
        let _screen = Screen::take().unwrap();
        let modes = tcgetattr(std::io::stdin()).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON), "this panics: the terminal is taken");
    }
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(path, flags, Mode::empty()).unwrap();
    let modes = || format!("{:?}", tcgetattr(&terminal).unwrap().local_modes);
    let before = modes();
    let end = || Stdio::from(terminal.try_clone().unwrap());
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(PANICS, "1")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    assert!(!child.wait().unwrap().success());
    let after = modes();
    drop(terminal);
    let mut shown = Vec::new();
    // Once no process has the terminal open, reading its controller fails with EIO after the last output: that is its end.
    _ = File::from(controller).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    let at = |what: &str| shown.find(what).unwrap_or_else(|| panic!("no {what:?} in {shown:?}"));
    assert!(at(OTHER) < at(OWN) && at(OWN) < at("this panics"), "{shown:?}");
    assert_eq!(after, before);
}
