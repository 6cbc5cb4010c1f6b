//! A host that runs out of ports, shown by `tracer top`: [`demo`] on a terminal, [`picture`] as SVG.
//!
//! nginx proxies more requests than 1,000 ports are enough for; haproxy holds connections to some services, and opens more and
//! more to one of them. Nothing is simulated.

mod svg;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, IsTerminal, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    cases::proxies::{PROXY, Scene, UPSTREAM, UPSTREAM_PORT, nginx_config, start_nginx},
    harness::{
        netns::Named,
        probe::no_programs,
        process::Process,
        pty::{Pty, Size},
        sock::Sock,
        tracer::{START_LIMIT, STOP_LIMIT, command, program},
    },
};

/// Number of ports that the proxies have towards each destination.
const PORTS: u64 = 1000;
/// Requests a second to the upstream towards which ports run out: each takes a port for 60 s.
const TOO_MANY: u32 = 40;
/// Requests a second to another upstream: they take a quarter of the ports.
const ENOUGH: u32 = 4;
/// The port of the upstream that gets [`ENOUGH`] requests a second.
const CALM_PORT: u16 = 8082;
/// Port of each service to which haproxy holds connections, and how many it holds to it at the start.
const HELD: [(u16, usize); 4] = [(9092, 830), (6379, 500), (5432, 480), (11211, 30)];
/// The port of the service to which haproxy opens one more connection again and again, and the time between two of them.
const GROWING: (u16, Duration) = (6379, Duration::from_millis(200));
/// Name of the proxies' network namespace.
const NETNS: &str = "edge";
/// The line that the host prints once its proxies, connections and clients have started.
const READY: &str = "ready";
/// Longest time to wait for the host's end.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long ports have been exhausted when the picture is taken.
const LASTING: Duration = Duration::from_secs(14);
/// Longest time to wait until ports run out, which takes 25 s.
const EXHAUSTED_LIMIT: Duration = Duration::from_mins(1);

struct Show {
    scene: Scene,
    _programs: Vec<Process>,
    _named: Named,
}

impl Show {
    fn new() -> Result<Self> {
        let missing = no_programs(&["nginx", "haproxy", "wrk", "ip"]);
        ensure!(missing.is_none(), "cannot begin: {}", missing.unwrap_or_default());
        let mut listen = String::new();
        for port in HELD.iter().map(|(port, _)| *port).chain([CALM_PORT]) {
            write!(listen, "listen {UPSTREAM}:{port} backlog=1024; ")?;
        }
        // haproxy's connections send no request.
        let serve = format!("{listen} client_header_timeout 1d; location / {{ return 200 'ok'; }}");
        let scene = Scene::new(PORTS, &serve)?;
        let named = scene.proxy.name(NETNS)?;
        let config = nginx_config(scene.folder.path(), "proxy", &nginx_servers())?;
        let nginx = scene.proxy.run(|| start_nginx(&config))?;
        let haproxy = start_haproxy(&scene)?;
        Ok(Self { scene, _programs: vec![nginx, haproxy], _named: named })
    }

    /// Starts clients that request `path` from nginx over and over, until the process is dropped.
    fn clients(&self, path: &str) -> Result<Process> {
        let mut wrk = Command::new("wrk");
        let url = format!("http://{PROXY}:8080{path}");
        wrk.args(["-t", "1", "-c", "20", "-d", "24h", &url]);
        wrk.stdin(Stdio::null()).stdout(Stdio::null());
        self.scene.upstream_netns.run(|| Process::spawn(&mut wrk))
    }

    /// Holds the connections of [`HELD`] through haproxy, and opens more by [`GROWING`], until `over` is set.
    fn hold(&self, over: &AtomicBool) -> Result<()> {
        self.scene.upstream_netns.run(|| {
            let connect =
                |port| Sock::connected(format!("{PROXY}:{port}").parse()?).context("haproxy");
            let all = HELD.iter().flat_map(|(port, count)| std::iter::repeat_n(*port, *count));
            let mut held = all.map(connect).collect::<Result<Vec<_>>>()?;
            while !over.load(Relaxed) {
                thread::sleep(GROWING.1);
                held.push(connect(GROWING.0)?);
            }
            Ok(())
        })
    }
}

/// Runs the host while `work` runs, and returns the result of `work`; an error, too, if the host failed.
fn play<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let show = Show::new()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let holding = scope.spawn(|| show.hold(&over));
        let done = show.clients("/").and_then(|many| Ok((many, show.clients("/calm")?)));
        let done = done.and_then(|_clients| work());
        over.store(true, Relaxed);
        let held = holding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and_then(|done| held.map(|()| done))
    })
}

/// Runs the host until stdin is closed; prints `ready` once its proxies, connections and clients have started.
///
/// # Errors
/// Not root; a program is missing or cannot be started; a connection to haproxy failed.
pub fn host() -> Result<()> {
    play(|| {
        writeln!(io::stdout(), "{READY}").context("cannot write to stdout")?;
        io::copy(&mut io::stdin(), &mut io::sink()).context("cannot wait for the end of stdin")?;
        Ok(())
    })
}

/// Runs `work` while the command `show host` runs in a new PID namespace: the namespace, with all of its processes, ends when
/// this process does. `work` runs `tracer top` outside of that namespace, because `tracer top` reads the names of processes from
/// /proc by ids that differ inside.
fn with_host<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg(env::current_exe().context("cannot find this program")?).arg("host");
    let mut host = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let stdout = host.child.stdout.take().context("the host has no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context("cannot read from the host")?;
    ensure!(line.trim() == READY, "the host that runs out of ports did not start: see above");
    let done = work();
    drop(host.child.stdin.take());
    let ended = host.wait(END_LIMIT)?;
    ensure!(ended.success(), "the host that ran out of ports failed: {ended}");
    done
}

/// Shows the host in `tracer top` on this terminal until the user leaves it. First says what will happen, and waits for Enter;
/// after `q` and Enter, or at the end of stdin, does nothing more.
///
/// # Errors
/// No terminal; not root; a program is missing or cannot be started; the host or `tracer top` failed.
pub fn demo() -> Result<()> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    ensure!(terminal, "the demo needs a terminal: stdin or stdout is not one");
    let mut stdout = io::stdout();
    write!(
        stdout,
        "\nTwo network namespaces are made, joined by a veth pair; nothing leaves them.\n\
         In one, nginx and haproxy, with {PORTS} source ports; in the other, what they connect to\n\
         ({UPSTREAM}) and their clients. nginx connects {TOO_MANY} times a second to port\n\
         {UPSTREAM_PORT}: its ports last for 25 s. haproxy gets one more connection to port {} every\n\
         {} ms. `tracer top` shows it. When you leave it (q), all of that is undone.\n\n\
         Enter begins, q and Enter leaves: ",
        GROWING.0,
        GROWING.1.as_millis()
    )?;
    stdout.flush()?;
    let mut answer = String::new();
    let ended = io::stdin().read_line(&mut answer)? == 0;
    if ended || answer.trim() == "q" {
        return Ok(());
    }
    let status = with_host(|| {
        let mut top = Process::spawn(&mut command(&["top"])?)?;
        Ok(top.child.wait()?)
    })?;
    ensure!(status.success(), "`tracer top` failed: {status}");
    writeln!(stdout, "The namespaces and all that ran in them are gone.")?;
    Ok(())
}

/// Writes the screen (118 columns, 20 lines) of `tracer top`, 14 s after ports ran out, to `file` as SVG; replaces a file that
/// exists.
///
/// # Errors
/// Not root; a program is missing or cannot be started; the host or `tracer top` failed; ports do not run out within a minute;
/// the file cannot be written.
pub fn picture(file: &Path) -> Result<()> {
    let screen = with_host(|| {
        // `tracer top` runs with another host name, so that the picture does not have this machine's.
        let mut command = Command::new("unshare");
        command.args(["--uts", "sh", "-c", "hostname edge-1 && exec \"$0\" \"$@\""]);
        command.arg(program()?).args(["top", "--netns", NETNS]);
        command.env("TZ", "UTC").env_remove("NO_COLOR");
        let mut top = Pty::spawn(&command, Size(118, 20))?;
        top.wait("the view", START_LIMIT, |text| text.contains("[1 tuples]"))?;
        let to = format!("{UPSTREAM}:{UPSTREAM_PORT}");
        top.wait("the exhaustion", EXHAUSTED_LIMIT, |text| {
            text.contains("ports_exhausted")
                && text.lines().any(|line| line.contains(&to) && line.contains("100.0!!"))
        })?;
        thread::sleep(LASTING);
        let screen = top.screen();
        top.signal(Signal::TERM)?;
        ensure!(top.wait_for_end(STOP_LIMIT)?.success(), "`tracer top` failed");
        Ok(screen)
    })?;
    let text = svg::draw(&screen, "tracer top", "tracer top while nginx runs out of source ports");
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn nginx_servers() -> String {
    let listen = format!("listen {PROXY}:8080;");
    format!(
        "limit_req_zone $server_addr zone=many:1m rate={TOO_MANY}r/s;\n\
         limit_req_zone $server_addr zone=calm:1m rate={ENOUGH}r/s;\n\
         upstream many {{ server {UPSTREAM}:{UPSTREAM_PORT} max_fails=0; }}\n\
         upstream calm {{ server {UPSTREAM}:{CALM_PORT} max_fails=0; }}\n\
         server {{ {listen} proxy_http_version 1.1; proxy_set_header Connection '';\n\
         location / {{ limit_req zone=many burst=100; proxy_pass http://many; }}\n\
         location /calm {{ limit_req zone=calm burst=100; proxy_pass http://calm; }} }}"
    )
}

fn start_haproxy(scene: &Scene) -> Result<Process> {
    let mut text = "global\n nbthread 1\n maxconn 8000\n\
                    defaults\n mode tcp\n timeout connect 5s\n timeout client 1d\n timeout server 1d\n"
        .to_owned();
    for (port, _) in HELD {
        write!(text, "listen p{port}\n bind {PROXY}:{port} backlog 1024\n")?;
        writeln!(text, " server s {UPSTREAM}:{port}")?;
    }
    let config = scene.folder.path().join("haproxy.cfg");
    fs::write(&config, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = scene.proxy.run(|| Process::spawn(&mut command))?;
    scene.wait_for_listeners(&HELD.map(|(port, _)| port))?;
    Ok(process)
}
