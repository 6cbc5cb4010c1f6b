mod mutations;

use std::time::{Duration, SystemTime};

use super::*;

/// 2026-11-29 19:15:15 UTC.
const AT: i64 = 1_795_979_715;
const ASKED: Asked = Asked { from_s: AT - 5, to_s: AT, offset_s: 0 };
/// A line without its date and time.
const FAILED: &str = "[crit] 7#7: *1 connect() to 10.0.1.7:80 failed (99: Address not available) while connecting to upstream";

/// A line of nginx at this second of 2026-11-29 19:15 UTC.
fn at(second: u32) -> String {
    format!("2026/11/29 19:15:{second:02} {FAILED}")
}

fn of(text: &str) -> Report {
    parse(text.as_bytes(), true, &ASKED)
}

/// How many lines say that connect() found no port.
fn failed(text: &str) -> u64 {
    of(text).count(Kind::NoPort)
}

#[test]
fn a_line_counts_in_every_wrapping() {
    let line = at(12);
    let json = line.replace('"', "\\\"");
    for text in [
        format!("{line}\n"),
        format!("{line}\r\n"),
        line.clone(),
        format!("2026-11-29T19:15:12.1Z stderr F {line}\n"),
        format!(
            "2026-11-29T19:15:12.1Z stderr P {}\n2026-11-29T19:15:12.2Z stderr F {}\n",
            &line[..40],
            &line[40..]
        ),
        format!(r#"{{"log":"{json}\n","stream":"stderr","time":"2026-11-29T19:15:12.1Z"}}"#),
        format!("<187>Nov 29 19:15:12 host nginx: {line}\n"),
    ] {
        let report = of(&text);
        assert_eq!((report.count(Kind::NoPort), report.unread), (1, 0), "{text}");
        assert_eq!((report.first_s, report.last_s), (Some(AT - 3), Some(AT - 3)), "{text}");
        assert_eq!(report.shortcoming(ASKED.from_s), None, "{text}");
    }
}

#[test]
fn parts_of_two_streams_are_not_mixed_up() {
    let line = at(12);
    let (begin, end) = line.split_at(40);
    let part = |stream, tag, text: &str| format!("2026-11-29T19:15:12.1Z {stream} {tag} {text}\n");
    let text = [
        part("stderr", "P", begin),
        part("stdout", "P", "10.0.0.1 - "),
        part("stderr", "F", end),
        part("stdout", "F", "GET"),
    ];
    assert_eq!(failed(&text.concat()), 1);
    // The end has not come yet, and the line says enough.
    let waiting = part("stderr", "P", &line);
    assert_eq!(failed(&waiting), 1);
    let much = part("stderr", "P", &"x".repeat(100_000));
    let report =
        of(&[much.clone(), much, part("stderr", "F", "x"), part("stderr", "F", &line)].concat());
    assert_eq!((report.count(Kind::NoPort), report.unread, report.lines), (1, 1, 4));
}

#[test]
fn the_window_is_by_the_times_of_lines_in_any_order() {
    // Second 16 is after the window: the log was still being read then.
    let text: Vec<_> = [15, 9, 10, 16, 12, 3].map(|second| at(second) + "\n").into();
    let report = of(&text.concat());
    assert_eq!((report.count(Kind::NoPort), report.future), (3, 0));
    assert_eq!((report.first_s, report.last_s), (Some(AT - 12), Some(AT)));
    assert_eq!(report.shortcoming(ASKED.from_s), None);
    let late = at(16).replace(" 19:15", " 19:16") + "\n";
    let report = of(&(text.concat() + &late));
    assert_eq!((report.count(Kind::NoPort), report.future), (3, 1));
    assert_eq!((report.first_s, report.last_s), (Some(AT - 12), Some(AT)));
    assert!(report.shortcoming(ASKED.from_s).unwrap().contains("future"));
}

#[test]
fn local_time_is_ahead_of_utc_by_the_offset_and_an_engines_time_is_utc() {
    let asked = Asked { offset_s: 7_200, ..ASKED };
    let local = at(12).replace(" 19:", " 21:");
    assert_eq!(parse(local.as_bytes(), true, &asked).count(Kind::NoPort), 1);
    assert_eq!(parse(local.as_bytes(), true, &ASKED).count(Kind::NoPort), 0);
    let wrapped = format!("2026-11-29T19:15:12.1Z stderr F {local}");
    assert_eq!(parse(wrapped.as_bytes(), true, &ASKED).count(Kind::NoPort), 1);
}

#[test]
fn a_line_without_a_time_is_of_the_time_before() {
    let message = "Connect() failed for backend B: no free ports.";
    let request = "10.0.0.1:5 [29/Nov/2026:19:15:12.1] f B/S 0/0/-1/-1/0 503 217 - - SC-- 1/1/0/0/3 0/0 \"GET\"";
    let report = of(&format!("{message}\n{request}\n{message}\n"));
    assert_eq!(
        (report.count(Kind::NoPort), report.undated, report.count(Kind::Aborted)),
        (1, 1, 1)
    );
    let old = request.replace("19:15", "18:15");
    let late = |lines: &[&str]| {
        let report = of(&lines.join("\n"));
        (report.count(Kind::NoPort), report.undated)
    };
    // It may have been written at any time after the line before, up to that of the line behind.
    assert_eq!(late(&[&old, message]), (0, 1));
    assert_eq!(late(&[&old, message, request]), (0, 1));
    assert_eq!(late(&[&old, message, &old]), (0, 0));
    let future = request.replace("19:15", "20:15");
    assert_eq!(late(&[&future, message]), (0, 0));
}

#[test]
fn a_long_line_is_not_read_and_hides_no_other() {
    let long = "x".repeat(4 << 20);
    let text = format!("{}\n{long}\n{}\n{long}", at(12), at(12));
    let report = of(&text);
    assert_eq!((report.count(Kind::NoPort), report.unread, report.lines), (2, 1, 3));
    assert!(report.shortcoming(ASKED.from_s).unwrap().contains("1 lines could not be read"));
}

#[test]
fn a_hole_before_a_line_is_passed_over() {
    let hole = "\0".repeat(1 << 20);
    let report = of(&format!("{hole}{}\n\0\0\n{}\n", at(12), at(12)));
    assert_eq!((report.count(Kind::NoPort), report.unread), (2, 0));
    let mut reader = Reader::new(ASKED, true);
    for chunk in [hole.as_bytes(), hole.as_bytes(), at(12).as_bytes(), b"\n"] {
        reader.feed(chunk);
    }
    assert_eq!(reader.finish().count(Kind::NoPort), 1);
}

#[test]
fn the_first_line_of_a_cut_log_does_not_count() {
    let text = format!("{}\n{}\n", at(12), at(13));
    let report = parse(text.as_bytes(), false, &ASKED);
    assert_eq!((report.count(Kind::NoPort), report.lines, report.cut), (1, 1, true));
    assert!(report.shortcoming(ASKED.from_s).unwrap().contains("only a part"));
    let old = format!("x\n{}\n{}\n", at(2), at(13));
    assert_eq!(parse(old.as_bytes(), false, &ASKED).shortcoming(ASKED.from_s), None);
}

#[test]
fn bytes_that_are_no_text_are_read() {
    let mut bytes = at(12).replace("10.0.1.7:80", "10.0.1.7:81").into_bytes();
    bytes.extend_from_slice(b"\xff\xfe\n");
    bytes.extend_from_slice(b"2026/11/29 19:15:12 [error] 7#7: no live upstreams while connecting to upstream, upstream: \
      \"http://\xff\x1b[2J/\"\n");
    let report = parse(&bytes, true, &ASKED);
    let names: Vec<_> = report.groups().map(|(.., name, _)| name.unwrap().to_owned()).collect();
    assert_eq!(names, ["10.0.1.7:81", "\u{fffd}\u{1b}[2J"]);
}

#[test]
fn another_programs_log_is_none() {
    let access = "10.0.0.1 - - [29/Nov/2026:19:15:12 +0000] \"GET / HTTP/1.1\" 200 5\n";
    assert!(of(access).shortcoming(ASKED.from_s).unwrap().contains("no error log"));
    // A container's output can have nothing else.
    let wrapped = format!("2026-11-29T19:15:12.1Z stdout F {access}");
    assert_eq!(of(&wrapped).shortcoming(ASKED.from_s), None);
    assert_eq!(of("").shortcoming(ASKED.from_s), None);
}

/// Files that were last written at this time.
struct Written(Memory, i64);

impl Written {
    fn dated(&self, contents: Contents) -> Contents {
        let since = Duration::from_secs(self.1.try_into().unwrap());
        Contents { modified: SystemTime::UNIX_EPOCH + since, ..contents }
    }
}

impl Files for Written {
    fn head(&self, path: &Path, most: usize) -> io::Result<Contents> {
        Ok(self.dated(self.0.head(path, most)?))
    }

    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
        Ok(self.dated(self.0.tail(path, most)?))
    }

    fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
        self.0.names(folder, most)
    }
}

fn read_of(files: &[(&str, &str)], path: &str) -> io::Result<Report> {
    read(&Memory::of(files), Path::new(path), &ASKED)
}

#[test]
fn what_a_rotation_renamed_within_the_window_is_read_too() {
    let (old, new) = (at(11), at(13));
    let line = new.as_str();
    let count =
        |files: &[(&str, &str)]| read_of(files, "/log/error.log").unwrap().count(Kind::NoPort);
    assert_eq!(count(&[("/log/error.log", line)]), 1);
    for other in ["/log/error.log.1", "/log/error.log-20261129", "/log/error.log.20261129-191512"] {
        assert_eq!(count(&[("/log/error.log", line), (other, &old)]), 2, "{other}");
    }
    for other in
        ["/log/error.log.1.gz", "/log/error.log.", "/log/other.log.1", "/log/error.log.old"]
    {
        assert_eq!(count(&[("/log/error.log", line), (other, &old)]), 1, "{other}");
    }
    let both = [
        ("/log/error.log", ""),
        ("/log/error.log-20261128", &*at(1)),
        ("/log/error.log-20261129", &old),
    ];
    assert_eq!(count(&both), 1);
    // The log goes back beyond the window.
    let long = format!("{}\n{line}", at(2).replace(" 19:", " 18:"));
    assert_eq!(count(&[("/log/error.log", &long), ("/log/error.log.1", &old)]), 1);
    assert!(read_of(&[], "/log/error.log").is_err());
}

/// Files of which one is renamed or copied once it has been read.
struct Rotated {
    files: std::cell::RefCell<Memory>,
    /// Whether the log stays, and its copy gets one more line (`copytruncate`).
    copied: bool,
}

impl Files for Rotated {
    fn head(&self, path: &Path, most: usize) -> io::Result<Contents> {
        self.files.borrow().head(path, most)
    }

    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
        let contents = self.files.borrow().tail(path, most)?;
        let files = &mut self.files.borrow_mut().0;
        let mut bytes = files.get(path).unwrap().clone();
        if self.copied {
            bytes.extend_from_slice(at(14).as_bytes());
            files.insert(path.to_owned(), Vec::new());
        } else {
            files.remove(path);
        }
        files.insert("/log/error.log.1".into(), bytes);
        Ok(contents)
    }

    fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
        self.files.borrow().names(folder, most)
    }
}

#[test]
fn a_log_that_is_rotated_while_it_is_read_counts_once() {
    let line = at(12) + "\n";
    let of = |copied, text: &str| {
        let files = Memory::of(&[("/log/error.log", text)]).into();
        let report = read(&Rotated { files, copied }, Path::new("/log/error.log"), &ASKED).unwrap();
        report.count(Kind::NoPort)
    };
    assert_eq!(of(false, &line), 1);
    assert_eq!(of(false, &line.repeat(100)), 100);
    assert_eq!(of(true, &line), 2);
    // Nothing had been written: the line of the copy came later.
    assert_eq!(of(true, ""), 1);
}

#[test]
fn a_log_whose_program_goes_on_with_the_renamed_one_is_read_there() {
    let of = |text: &str| read_of(&[("/log/error.log.1", text)], "/log/error.log");
    assert_eq!(of(&at(12)).unwrap().count(Kind::NoPort), 1);
    // One of before the window may be an old one: then the log is missing.
    let error = of(&at(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(read_of(&[("/log/x", "")], "/log/error.log").is_err());
}

#[test]
fn a_long_log_is_read_as_far_back_as_the_window() {
    /// Notes how much is asked for.
    struct Counting(Memory, std::cell::RefCell<Vec<usize>>);
    impl Files for Counting {
        fn head(&self, path: &Path, most: usize) -> io::Result<Contents> {
            self.0.head(path, most)
        }
        fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
            self.1.borrow_mut().push(most >> 20);
            self.0.tail(path, most)
        }
        fn names(&self, folder: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
            self.0.names(folder, most)
        }
    }
    let old = at(12).replace(" 19:", " 18:") + "\n";
    let line = at(12) + "\n";
    let of = |old_lines: usize, lines: usize| {
        let text = old.repeat(old_lines) + &line.repeat(lines);
        let files = Counting(Memory::of(&[("/log", &text)]), Vec::new().into());
        let report = read(&files, Path::new("/log"), &ASKED).unwrap();
        (report.count(Kind::NoPort), files.1.into_inner())
    };
    assert_eq!(of(20_000, 100), (100, vec![1]));
    assert_eq!(of(20_000, 20_000), (20_000, vec![1, 8]));
}

#[test]
fn a_container_in_another_time_zone_has_its_own_local_time() {
    let local = at(12).replace(" 19:", " 13:").replace(":15:", ":45:"); // UTC-5:30
    let files = |written| Written(Memory::of(&[("/log", &local)]), written);
    let count =
        |written| read(&files(written), Path::new("/log"), &ASKED).unwrap().count(Kind::NoPort);
    assert_eq!([AT - 3, AT - 2].map(count), [1, 1]);
    // Something else wrote to the file.
    assert_eq!(count(AT + 60), 0);
}

#[test]
fn the_check_names_the_log_that_was_not_read() {
    let of = |read: &[(&str, Result<Report, String>)]| {
        let read: Vec<_> =
            read.iter().map(|(path, it)| (PathBuf::from(path), it.clone())).collect();
        check(&read, &ASKED).missing.map(|missing| missing.why)
    };
    let well = || Ok(Report::default());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("/a", well())]), None);
    let denied = || Err("permission denied".to_owned());
    assert_eq!(of(&[("/a", well()), ("/b", denied())]).unwrap(), "/b: permission denied");
    assert_eq!(
        of(&[("/b", denied()), ("/c", denied())]).unwrap(),
        "/b: permission denied, and 1 more"
    );
}
