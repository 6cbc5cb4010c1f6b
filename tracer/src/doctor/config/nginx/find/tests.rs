use std::{fs, process};

use super::*;
use crate::host::files::Memory;

fn options(config: Option<&str>, prefix: Option<&str>, globals: &str) -> Options {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Options {
        config: owned(config),
        prefix: owned(prefix),
        globals: globals.into(),
        error_log: None,
    }
}

#[test]
fn processes_are_known_by_their_titles() {
    for (comm, line, expected) in [
        ("nginx", "nginx: master process /usr/sbin/nginx\0\0", Some(Role::Master)),
        ("nginx", "nginx: worker process\0\0\0", Some(Role::Worker)),
        ("nginx", "nginx: worker process is shutting down\0", Some(Role::Leaving)),
        ("nginx", "nginx: cache manager process\0", None),
        ("nginx", "nginx\0-c\0/x\0", Some(Role::Single)),
        ("nginx", "", None),
        ("bash", "bash\0-c\0nginx\0", None),
        ("openresty", "nginx: master process openresty\0", Some(Role::Master)),
    ] {
        assert_eq!(role(comm.as_bytes(), line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn workers_belong_to_their_masters() {
    let listed = |pid, parent, command_line: &'static str| Listed {
        pid,
        parent,
        comm: b"nginx",
        command_line: command_line.as_bytes(),
    };
    let found = masters(&[
        listed(3, 2, "nginx: worker process\0"),
        listed(2, 1, "nginx: master process nginx\0"),
        listed(4, 2, "nginx: worker process is shutting down\0"),
        listed(5, 2, "nginx: worker process\0"),
        listed(6, 1, "nginx\0"),
        listed(7, 9, "nginx: worker process\0"),
        listed(8, 2, "nginx: cache loader process\0"),
    ]);
    assert_eq!(found, BTreeMap::from([(2, vec![3, 5]), (6, vec![])]));
}

#[test]
fn options_are_read_from_titles_and_command_lines() {
    for (line, expected) in [
        ("nginx: master process nginx", options(None, None, "")),
        (
            "nginx: master process /usr/sbin/nginx -c /t/a.conf -p /t/",
            options(Some("/t/a.conf"), Some("/t/"), ""),
        ),
        ("nginx: master process nginx -c/t/a.conf\0\0", options(Some("/t/a.conf"), None, "")),
        (
            "nginx: master process nginx -g daemon on; master_process on;",
            options(None, None, "daemon on; master_process on;"),
        ),
        (
            "nginx: master process nginx -g worker_processes 4; -c a.conf",
            options(Some("a.conf"), None, "worker_processes 4;"),
        ),
        ("nginx\0-p\0/t\0-g\0daemon off;\0-qc\0b\0", options(Some("b"), Some("/t"), "daemon off;")),
        ("nginx: master process nginx -c", options(Some(""), None, "")),
        ("", options(None, None, "")),
    ] {
        assert_eq!(Options::parse(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn paths_are_those_of_the_command_line_else_of_the_program() {
    let debian = Program {
        prefix: Some("/usr/share/nginx".into()),
        config: Some("/etc/nginx/nginx.conf".into()),
        error_log: Some("stderr".into()),
        version: None,
    };
    let of = |options: &Options, program: &Program| {
        Paths::of(options, program).map(|paths| paths.config.display().to_string())
    };
    let none = Program::default();
    assert_eq!(of(&options(None, None, ""), &debian).unwrap(), "/etc/nginx/nginx.conf");
    assert_eq!(of(&options(None, Some("/t"), ""), &debian).unwrap(), "/etc/nginx/nginx.conf");
    assert_eq!(of(&options(Some("a.conf"), None, ""), &debian).unwrap(), "/usr/share/nginx/a.conf");
    assert_eq!(of(&options(Some("a.conf"), Some("/t"), ""), &debian).unwrap(), "/t/a.conf");
    assert_eq!(of(&options(None, None, ""), &none).unwrap(), "/usr/local/nginx/conf/nginx.conf");
    assert_eq!(of(&options(None, Some("/t"), ""), &none).unwrap(), "/t/conf/nginx.conf");
    assert!(of(&options(None, Some("t"), ""), &none).is_err());
}

#[test]
fn the_version_and_the_paths_are_in_the_program() {
    let bytes = b"\x7fELF\0--prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --x\0\
        /usr/share/nginx/1.html\0nginx/1.22.1\0nginx/1.99.9\0";
    let program = Program::read(&bytes[..]).unwrap();
    assert_eq!(program.version, Version::parse("1.22.1"));
    assert_eq!(program.prefix.as_deref(), Some("/usr/share/nginx"));
    assert_eq!(program.config.as_deref(), Some("/etc/nginx/nginx.conf"));
    let openresty = Program::read(&b"\0openresty/1.25.3.1\0"[..]).unwrap();
    assert_eq!(openresty.version, Version::parse("1.25.3"));
    assert_eq!(Program::read(&b""[..]).unwrap(), Program::default());
}

#[test]
fn files_that_were_written_after_the_workers_began_are_named() {
    let began = SystemTime::UNIX_EPOCH;
    let earlier = began.checked_sub(Duration::from_mins(1)).unwrap();
    let files =
        Memory::of(&[("/etc/nginx.conf", "error_log /var/log/e.log warn; http { error_log l; }")]);
    let paths =
        Paths { prefix: "/p".into(), config: "/etc/nginx.conf".into(), error_log: "d".into() };
    let nginx = |began| of(&files, None, &paths, "", began);
    assert!(nginx(Some(began)).newer.is_empty());
    assert!(nginx(None).newer.is_empty());
    assert_eq!(nginx(Some(earlier)).newer, ["/etc/nginx.conf".into()]);
    assert_eq!(nginx(None).error_logs, [Path::new("/p/l"), Path::new("/var/log/e.log")]);
}

#[test]
fn logs_that_are_no_files_are_left_out_and_the_default_is_used_without_one() {
    let logs_of = |text: &str| {
        let files = Memory::of(&[("/c", text)]);
        let paths = Paths { prefix: "/p".into(), config: "/c".into(), error_log: "d.log".into() };
        of(&files, None, &paths, "", None).error_logs
    };
    assert_eq!(logs_of("http { error_log stderr; }"), [Path::new("/p/d.log")]);
    assert_eq!(
        logs_of("error_log syslog:server=[::1] warn; error_log memory:32m;"),
        [""; 0].map(PathBuf::from)
    );
    assert_eq!(logs_of("error_log a; error_log a info;"), [Path::new("/p/a")]);
}

#[test]
fn a_running_nginx_is_read_through_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(
        file("a.conf"),
        format!(
            "daemon off; pid {}; error_log {} notice; events {{}} http {{ access_log off; \
             client_body_temp_path {}; upstream up {{ server 10.9.8.7:8080; keepalive 8; }} server {{ \
             listen unix:{}; location / {{ proxy_pass http://up; }} }} }}",
            file("pid"),
            file("e.log"),
            file("body"),
            file("socket"),
        ),
    )
    .unwrap();
    let started = process::Command::new("nginx")
        .args(["-c", &file("a.conf"), "-p", &file("")])
        .stderr(process::Stdio::null())
        .spawn();
    // Not every machine has it.
    let Ok(mut child) = started else { return };
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let title = || fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    while role(b"nginx", &title()) != Some(Role::Master) && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let nginx = of_master(child.id(), &[child.id()]);
    process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    child.wait().unwrap();
    let nginx = nginx.unwrap();
    assert!(nginx.version.is_some());
    assert_eq!(nginx.facts.upstreams[0].name, "up");
    assert_eq!(nginx.error_logs, [PathBuf::from(file("e.log"))]);
    assert!(nginx.newer.is_empty() && nginx.facts.unread.is_empty(), "{nginx:?}");
}
