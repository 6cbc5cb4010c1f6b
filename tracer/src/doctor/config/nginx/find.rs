//! Where nginx is: its processes by their titles; its version, and the paths that were built in, by its program file; its
//! configuration.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    facts::{Facts, facts},
    version::Version,
};
use crate::{
    error::reason,
    host::{
        files::Files,
        inside::{self, Inside, Wanted},
        limited::within,
    },
};

/// How long reading a configuration may take: another process decides where its files are.
const LIMIT: Duration = Duration::from_secs(3);
/// The most bytes of the program that are searched.
const PROGRAM: u64 = 32 << 20;
/// A file that was written so shortly after the workers began is taken to be older: the wall clock may have been set meanwhile.
const SLACK: Duration = Duration::from_secs(2);

/// What a process of nginx does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// It reads the configuration and starts the workers.
    Master,
    /// It serves, with the configuration that was read last.
    Worker,
    /// It serves what it has begun, with an older configuration.
    Leaving,
    /// It serves, and there is no master.
    Single,
}

/// What a process does by its name and its command line (`/proc/PID/comm` without the newline, `cmdline`); `None`: it is not of
/// nginx, serves nothing (such as the cache manager), or has no command line.
pub fn role(comm: &[u8], command_line: &[u8]) -> Option<Role> {
    if let Some(title) = command_line.strip_prefix(b"nginx: ") {
        return if title.starts_with(b"master process") {
            Some(Role::Master)
        } else if title.starts_with(b"worker process is shutting down") {
            Some(Role::Leaving)
        } else if title.starts_with(b"worker process") {
            Some(Role::Worker)
        } else {
            None
        };
    }
    // Without a master, it keeps the command line that it was started with.
    (comm == b"nginx" && !command_line.is_empty()).then_some(Role::Single)
}

/// A process in a list.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    pub pid: u32,
    /// Process id of its parent.
    pub parent: u32,
    /// `/proc/PID/comm`, without the newline.
    pub comm: &'a [u8],
    /// The beginning of `/proc/PID/cmdline`, with its NULs; as much as [`role`] looks at is enough.
    pub command_line: &'a [u8],
}

/// Each nginx in a list of processes, by the process id of its master (or of the process without one): the ids of the workers
/// that serve with the configuration that was read last; empty: there are none. Workers whose parent is not in the list are left
/// out.
pub fn masters(list: &[Listed<'_>]) -> BTreeMap<u32, Vec<u32>> {
    let roles = || list.iter().filter_map(|it| Some((it, role(it.comm, it.command_line)?)));
    let is_master = |role: &Role| matches!(role, Role::Master | Role::Single);
    let masters = roles().filter(|(_, role)| is_master(role));
    let mut masters: BTreeMap<_, _> = masters.map(|(it, _)| (it.pid, Vec::new())).collect();
    for (worker, _) in roles().filter(|(_, role)| *role == Role::Worker) {
        if let Some(workers) = masters.get_mut(&worker.parent) {
            workers.push(worker.pid);
        }
    }
    masters
}

/// Options that nginx was started with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Options {
    /// `-c`
    config: Option<String>,
    /// `-p`
    prefix: Option<String>,
    /// `-e`
    error_log: Option<String>,
    /// `-g`
    globals: String,
}

impl Options {
    fn parse(command_line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(command_line);
        let text = text.trim_end_matches('\0');
        // A title has spaces between the words, and no quotes around them.
        let (words, is_title): (Vec<&str>, _) = match text.strip_prefix("nginx: master process ") {
            Some(title) => (title.split(' ').collect(), true),
            None => (text.split('\0').collect(), false),
        };
        let mut options = Self::default();
        let mut words = words.into_iter().skip(1).peekable();
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-') else { continue };
            let Some(place) = letters.find(['c', 'p', 'e', 'g', 's']) else { continue };
            let (before, value) = letters.split_at(place + 1);
            let mut value = value.to_owned();
            if value.is_empty() {
                words.next().unwrap_or_default().clone_into(&mut value);
            }
            match before.chars().next_back() {
                Some('c') => options.config = Some(value),
                Some('p') => options.prefix = Some(value),
                Some('e') => options.error_log = Some(value),
                Some('g') => {
                    // Its end is where another option begins after a directive.
                    while is_title
                        && let Some(next) =
                            words.next_if(|next| !(value.ends_with(';') && next.starts_with('-')))
                    {
                        value.push(' ');
                        value.push_str(next);
                    }
                    options.globals = value;
                }
                _ => {}
            }
        }
        options
    }
}

/// What is in the program.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Program {
    version: Option<Version>,
    /// Options that it was built with; `None`: nginx's defaults.
    prefix: Option<String>,
    config: Option<String>,
    error_log: Option<String>,
}

impl Program {
    fn read(program: impl io::Read) -> io::Result<Self> {
        let is_version = |text: &str| version(text).is_some();
        let is_path = |text: &str| !text.is_empty();
        let wanted = [
            Wanted { begins: "nginx/1.", fits: is_version },
            // It has nginx's version, and one number more.
            Wanted { begins: "openresty/1.", fits: is_version },
            Wanted { begins: "--prefix=", fits: is_path },
            Wanted { begins: "--conf-path=", fits: is_path },
            Wanted { begins: "--error-log-path=", fits: is_path },
        ];
        let [nginx, openresty, prefix, config, error_log] = inside::find(program, PROGRAM, wanted)?;
        let version = nginx.or(openresty).and_then(|text| version(&text));
        Ok(Self { version, prefix, config, error_log })
    }
}

/// The version whose numbers after `1.` begin this text.
fn version(text: &str) -> Option<Version> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    Version::parse(&format!("1.{}", text.get(..end)?))
}

/// Where things are in the process's root folder.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Paths {
    prefix: PathBuf,
    config: PathBuf,
    /// The log of errors if the configuration names none.
    error_log: String,
}

impl Paths {
    fn of(options: &Options, program: &Program) -> Result<Self, String> {
        let prefix = options.prefix.as_ref().or(program.prefix.as_ref());
        let prefix = PathBuf::from(prefix.map_or("/usr/local/nginx", String::as_str));
        let config = options.config.as_ref().or(program.config.as_ref());
        let config = prefix.join(config.map_or("conf/nginx.conf", String::as_str));
        if !config.is_absolute() {
            return Err("its configuration is relative to a folder that is not known".into());
        }
        let error_log = options.error_log.as_ref().or(program.error_log.as_ref());
        let error_log = error_log.map_or("logs/error.log", String::as_str).to_owned();
        Ok(Self { prefix, config, error_log })
    }
}

/// A running nginx and its configuration.
#[derive(Clone, Debug)]
pub struct Nginx {
    /// The version of its program; `None`: not known.
    pub version: Option<Version>,
    pub facts: Facts,
    /// Paths of files of the configuration that were written more than 2 s after the oldest worker began: what runs may be an
    /// older configuration. Empty: there are none, or it is not known when the workers began.
    pub newer: Vec<Arc<str>>,
    /// Paths of its logs of errors in its root folder, sorted, each once; the one that was built in is among them if the
    /// configuration names none outside of blocks. Logs that are no files (`stderr`, `syslog:`, `memory:`) are left out.
    pub error_logs: Vec<PathBuf>,
}

/// Reads the configuration of the nginx with this master process, or this process without a master. `workers`: the processes with
/// [`Role::Worker`]; empty: none is known.
///
/// # Errors
/// Why it is not known, as a text for people: the process or its program cannot be read (the program is not needed if the command
/// line has `-c`), where its configuration is cannot be found out, or reading takes longer than 3 s. Files of the configuration
/// that cannot be read are no error: see [`Facts::unread`].
pub fn of_master(pid: u32, workers: &[u32]) -> Result<Nginx, String> {
    let workers = workers.to_vec();
    let read = within(LIMIT, move || read(pid, &workers));
    read.unwrap_or_else(|| Err(format!("reading it takes longer than {} s", LIMIT.as_secs())))
}

fn read(pid: u32, workers: &[u32]) -> Result<Nginx, String> {
    let text = |error: io::Error| reason(&error);
    let process = Inside::of(pid).map_err(text)?;
    let options = Options::parse(&process.command_line().map_err(text)?);
    // Without its program, the version and the paths that it was built with are not known.
    let program = process.program().and_then(Program::read);
    let paths = match &program {
        Ok(program) => Paths::of(&options, program)?,
        Err(_) if options.config.is_some() => Paths::of(&options, &Program::default())?,
        Err(error) => return Err(format!("its program cannot be read: {}", reason(error))),
    };
    let began = workers.iter().filter_map(|worker| inside::began(*worker).ok()).min();
    let version = program.ok().and_then(|program| program.version);
    Ok(of(&process, version, &paths, &options.globals, began))
}

/// `began`: when the oldest worker began; `None`: not known.
fn of(
    files: &dyn Files,
    version: Option<Version>,
    paths: &Paths,
    globals: &str,
    began: Option<SystemTime>,
) -> Nginx {
    let facts = facts(files, &paths.config, globals);
    let limit = began.and_then(|began| began.checked_add(SLACK));
    let newer = facts.files.iter().filter(|file| limit.is_some_and(|limit| file.modified > limit));
    let newer = newer.map(|file| Arc::clone(&file.path)).collect();
    let error_logs = logs(&facts, paths);
    Nginx { version, facts, newer, error_logs }
}

/// The logs of errors that are files, each once.
fn logs(facts: &Facts, paths: &Paths) -> Vec<PathBuf> {
    let named = facts.error_logs.iter().map(|log| log.target.as_str());
    let has_outermost = facts.error_logs.iter().any(|log| log.outermost);
    let default = (!has_outermost).then_some(paths.error_log.as_str());
    let is_file = |target: &&str| {
        *target != "stderr"
            && !["", "syslog:", "memory:"]
                .contains(&target.split_inclusive(':').next().unwrap_or(""))
    };
    let mut logs: Vec<_> = named
        .chain(default)
        .filter(is_file)
        .map(|target| paths.prefix.join(Path::new(target)))
        .collect();
    logs.sort_unstable();
    logs.dedup();
    logs
}

#[cfg(test)]
mod tests;
