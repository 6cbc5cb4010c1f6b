use std::{
    hint::black_box,
    io::Read,
    process::{self, Child, Command, Stdio},
};

use super::*;
use crate::host::test_mutations;

const LIMITS_TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max processes             96364                unlimited            processes 
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
";

fn later() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

#[test]
fn the_limit_is_the_soft_one_of_open_files() {
    assert_eq!(parse_limit(LIMITS_TEXT), Some(Limit { soft: 1024, hard: 524_288 }));
    let unlimited = LIMITS_TEXT.replace("1024  ", "unlimited").replace("524288", "unlimited");
    assert_eq!(parse_limit(&unlimited), Some(Limit { soft: u64::MAX, hard: u64::MAX }));
    for text in
        ["", "Max open files", "Max open files 1", "Max open files x 1", "Max processes 1 1"]
    {
        assert_eq!(parse_limit(text), None, "{text}");
    }
}

#[test]
fn the_hosts_files_are_the_first_and_the_last_number() {
    assert_eq!(
        HostFiles::parse("646\t0\t2466165\n"),
        Some(HostFiles { open: 646, limit: 2_466_165 })
    );
    for text in ["", "646", "646 0", "x 0 1", "646 0 -1"] {
        assert_eq!(HostFiles::parse(text), None, "{text}");
    }
    let host = HostFiles::read().unwrap();
    assert!(host.open > 0 && host.limit >= host.open, "{host:?}");
}

/// A shell that has run this, and waits.
struct Shell(Child);

impl Shell {
    fn after(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}; echo; read end")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    fn read(&self, how: How) -> Option<Descriptors> {
        read_process(self.0.id(), how, later()).unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn a_process_has_as_many_as_it_opened_by_either_way() {
    let open = |script: &str| {
        let shell = Shell::after(script);
        let counts = [How::BySize, How::OneByOne].map(|how| shell.read(how).unwrap().open);
        assert_eq!(counts[0], counts[1]);
        counts[0]
    };
    let (few, many) = (open("true"), open("exec 7</dev/null 8</dev/null 9</dev/null"));
    assert!(few >= 3, "{few}");
    assert_eq!(many, few + 3);
}

#[test]
fn a_process_that_has_ended_has_none() {
    let mut shell = Shell::after("true");
    assert!(shell.read(How::BySize).is_some());
    drop(shell.0.stdin.take());
    shell.0.wait().unwrap();
    assert_eq!((shell.read(How::BySize), shell.read(How::OneByOne)), (None, None));
}

#[test]
fn the_limit_is_that_of_the_process_not_of_this_one() {
    let shell = Shell::after("ulimit -Sn 77; ulimit -Hn 99");
    let found = of_processes(&[shell.0.id()]).unwrap().processes;
    assert_eq!(found[0].limit, Limit { soft: 77, hard: 99 });
}

#[test]
fn processes_are_bounded_in_number_and_time_and_ended_ones_are_left_out() {
    let found = all().unwrap();
    assert!(found.processes.iter().any(|it| it.pid == process::id()), "{found:?}");
    assert!(!found.cut_short && !found.hidden && found.refused == 0, "{found:?}");
    let own = process::id();
    let one = of([own, u32::MAX, own].into_iter(), 2, TIME).unwrap();
    assert_eq!((one.processes.len(), one.cut_short), (1, true));
    let late = of([own].into_iter(), 2, Duration::ZERO).unwrap();
    assert_eq!((late.processes.len(), late.cut_short), (0, true));
    let late = read_process(own, How::OneByOne, Instant::now());
    assert!(late.is_ok(), "few descriptors are counted at once");
}

#[test]
fn ten_thousand_processes_take_less_than_a_second() {
    let own = std::iter::repeat_n(process::id(), 10_000);
    let mut found = All::default();
    let time = test_mutations::cpu_time(|| {
        found = of(own, MOST_PROCESSES, Duration::from_mins(1)).unwrap();
    });
    assert_eq!(found.processes.len(), 10_000);
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
fn mutations_of_texts_do_no_harm() {
    let real = fs::read("/proc/self/limits").unwrap();
    let corpus = [LIMITS_TEXT.as_bytes(), &real, b"646\t0\t2466165\n"];
    test_mutations::run("descriptors", &corpus, |input| {
        let text = String::from_utf8_lossy(input);
        black_box((parse_limit(&text), HostFiles::parse(&text)));
    });
}
