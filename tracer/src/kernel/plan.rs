//! Chooses by the facts about the kernel which backends are worth trying, and says why the others are not. No I/O.

use std::{fmt, str::FromStr};

use super::facts::{FEXIT_FUNCTIONS, KPROBE_FUNCTIONS, KernelFacts, TIMER_TRACEPOINTS};

/// A set of hooks that feeds the ledger.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Backend {
    /// BPF trampolines on kernel functions.
    Fexit,
    /// kprobes and kretprobes, mostly on the functions that the fexit backend uses.
    Kprobe,
    /// Tracepoints, cgroup programs and sock_ops, for kernels that allow neither of the other backends.
    Tracepoint,
}

impl Backend {
    /// All backends, the best first.
    pub const ALL: [Self; 3] = [Self::Fexit, Self::Kprobe, Self::Tracepoint];

    /// The backend's name, as `--backend` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is not the name of a backend, as an error.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a backend: use fexit, kprobe or tracepoint")]
pub struct UnknownBackend(String);

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(word: &str) -> Result<Self, UnknownBackend> {
        let named = Self::ALL.into_iter().find(|backend| backend.name() == word);
        named.ok_or_else(|| UnknownBackend(word.to_owned()))
    }
}

/// Which backends the operator allows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    /// All that can work on this kernel, as far as the facts say.
    #[default]
    Auto,
    /// Only this one, even if the facts say that it cannot work.
    Forced(Backend),
}

/// Which backends to try, and why not the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Backends in the order in which they are tried, until one can be attached: only that shows for certain that it works.
    pub attempts: Vec<Backend>,
    /// Backends that are not tried, with the reason.
    pub skipped: Vec<(Backend, String)>,
    /// What a backend in `attempts` does not see on this kernel; of a forced backend also why it would not be tried otherwise.
    pub degraded: Vec<(Backend, String)>,
}

impl Plan {
    /// Plans which backends to try, the best first: every one for which the facts name no obstacle, or only the forced one.
    pub fn new(facts: &KernelFacts, choice: Choice) -> Self {
        let mut plan = Self::default();
        for backend in Backend::ALL {
            match choice {
                Choice::Forced(wanted) if wanted != backend => {
                    plan.skipped.push((backend, format!("--backend {wanted} was given")));
                    continue;
                }
                Choice::Forced(_) => {
                    plan.attempts.push(backend);
                    let reason = obstacle(backend, facts);
                    plan.degraded.extend(
                        reason.map(|reason| (backend, format!("forced, although {reason}"))),
                    );
                }
                Choice::Auto => match obstacle(backend, facts) {
                    Some(reason) => {
                        plan.skipped.push((backend, reason));
                        continue;
                    }
                    None => plan.attempts.push(backend),
                },
            }
            plan.degraded.extend(shortcomings(backend, facts).map(|reason| (backend, reason)));
        }
        plan
    }

    /// The texts of [`Self::degraded`] about this backend.
    pub fn degraded_on(&self, backend: Backend) -> impl Iterator<Item = &str> {
        let of_backend = self.degraded.iter().filter(move |(which, _)| *which == backend);
        of_backend.map(|(_, reason)| reason.as_str())
    }
}

/// What the tracepoint at the return of the system call connect() does not see: calls that connect by another way. A
/// tracepoint on sendto() and sendmsg() would run at every send of the host.
const NOT_BY_SYSCALL: &str = "not seen: failures before the port search (no route, denied) of sendto() with \
MSG_FASTOPEN and of connect() by io_uring";

/// The reason why a backend cannot work; `None`: there is no such reason, or it is not known.
fn obstacle(backend: Backend, facts: &KernelFacts) -> Option<String> {
    if let Err(error) = &facts.btf {
        return Some(error.clone());
    }
    if facts.lockdown.as_deref() == Some("confidentiality") {
        return Some(
            "kernel lockdown (confidentiality) forbids BPF programs to read kernel memory".into(),
        );
    }
    if let Err(error) = &facts.cgroup2 {
        return Some(error.clone());
    }
    match backend {
        Backend::Fexit => {
            let missing = missing(&FEXIT_FUNCTIONS, facts.functions.as_deref()?);
            missing.map(|names| format!("the kernel's type information lacks {names}"))
        }
        Backend::Kprobe if facts.kprobes == Some(false) => {
            Some("the kernel is built without kprobes".into())
        }
        Backend::Kprobe => {
            let missing = missing(&KPROBE_FUNCTIONS, facts.symbols.as_deref()?);
            missing.map(|names| format!("the kernel has no symbol {names}"))
        }
        Backend::Tracepoint => {
            let missing = missing(&["inet_sock_set_state"], facts.tracepoints.as_deref()?);
            missing.map(|names| format!("the kernel has no tracepoint {names}"))
        }
    }
}

/// What a backend does not see on a kernel on which it works.
fn shortcomings(backend: Backend, facts: &KernelFacts) -> impl Iterator<Item = String> {
    let by_tracepoint = backend == Backend::Tracepoint;
    let handler = by_tracepoint && facts.tw_timer_handler.is_none();
    let handler = handler.then(|| {
        "the beginning and end of TIME_WAIT are not seen: the address of tw_timer_handler is not \
         in /proc/kallsyms (CAP_SYSLOG, kernel.kptr_restrict)"
            .to_owned()
    });
    let timers = facts.tracepoints.as_deref().filter(|_| by_tracepoint);
    let timers = timers.and_then(|found| missing(&TIMER_TRACEPOINTS, found)).map(|names| {
        format!(
            "the beginning and end of TIME_WAIT are not seen: the kernel has no tracepoint {names}"
        )
    });
    let tracefs = facts.tracefs.as_ref().err().filter(|_| by_tracepoint);
    let tracefs = tracefs.map(|error| format!("errno of a failed call is not known: {error}"));
    let calls = by_tracepoint.then(|| NOT_BY_SYSCALL.to_owned());
    [handler, timers, tracefs, calls].into_iter().flatten()
}

/// The wanted names that are not found, joined by commas; `None` if all are found.
fn missing(wanted: &[&str], found: &[&str]) -> Option<String> {
    let absent: Vec<&str> = wanted.iter().copied().filter(|name| !found.contains(name)).collect();
    (!absent.is_empty()).then(|| absent.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> KernelFacts {
        KernelFacts {
            release: "6.12.0".into(),
            btf: Ok(()),
            functions: Some(FEXIT_FUNCTIONS.to_vec()),
            kprobes: Some(true),
            symbols: Some(KPROBE_FUNCTIONS.to_vec()),
            lockdown: Some("none".into()),
            tw_timer_handler: Some(0xffff_ffff_8200_0000),
            tracepoints: Some([&["inet_sock_set_state"][..], &TIMER_TRACEPOINTS].concat()),
            blocked_until_free: true,
            maps_are_locked: false,
            cgroup2: Ok(()),
            tracefs: Ok(()),
            missing_capabilities: Vec::new(),
            unprivileged_bpf_disabled: Some(2),
            bpf_without_capability: Some(true),
        }
    }

    #[test]
    fn a_kernel_with_everything_gets_all_attempts_best_first() {
        let plan = Plan::new(&everything(), Choice::Auto);
        assert_eq!(plan.attempts, Backend::ALL);
        assert_eq!(plan.skipped, []);
        assert_eq!(plan.degraded, [(Backend::Tracepoint, NOT_BY_SYSCALL.to_owned())]);
    }

    #[test]
    fn taking_one_fact_away_skips_or_degrades_what_needs_it() {
        use Backend::{Fexit, Kprobe, Tracepoint};
        type Change = fn(&mut KernelFacts);
        type Reasons<'a> = &'a [(Backend, &'a str)];
        let none: Reasons<'_> = &[];
        let cases: [(Change, &[Backend], Reasons<'_>, Reasons<'_>); 12] = [
            (
                |f| f.btf = Err("no BTF".into()),
                &[],
                &[(Fexit, "no BTF"), (Kprobe, "no BTF"), (Tracepoint, "no BTF")],
                none,
            ),
            (
                |f| f.lockdown = Some("confidentiality".into()),
                &[],
                &[(Fexit, "lockdown"), (Kprobe, "lockdown"), (Tracepoint, "lockdown")],
                none,
            ),
            (|f| f.lockdown = Some("integrity".into()), &Backend::ALL, none, none),
            (|f| f.lockdown = None, &Backend::ALL, none, none),
            (
                |f| f.functions = Some(vec!["tcp_set_state"]),
                &[Kprobe, Tracepoint],
                &[(Fexit, "inet_hash_connect, inet6_hash_connect, inet_csk_get_port")],
                none,
            ),
            (|f| f.kprobes = Some(false), &[Fexit, Tracepoint], &[(Kprobe, "kprobes")], none),
            (|f| f.kprobes = None, &Backend::ALL, none, none),
            (
                |f| f.symbols = Some(KPROBE_FUNCTIONS[1..].to_vec()),
                &[Fexit, Tracepoint],
                &[(Kprobe, KPROBE_FUNCTIONS[0])],
                none,
            ),
            (
                |f| f.cgroup2 = Err("no cgroup2".into()),
                &[],
                &[(Fexit, "no cgroup2"), (Kprobe, "no cgroup2"), (Tracepoint, "no cgroup2")],
                none,
            ),
            (
                |f| f.tracepoints = Some(TIMER_TRACEPOINTS.to_vec()),
                &[Fexit, Kprobe],
                &[(Tracepoint, "inet_sock_set_state")],
                none,
            ),
            (|f| f.tw_timer_handler = None, &Backend::ALL, none, &[(Tracepoint, "TIME_WAIT")]),
            (
                |f| f.tracefs = Err("no tracefs".into()),
                &Backend::ALL,
                none,
                &[(Tracepoint, "no tracefs")],
            ),
        ];
        for (index, (change, attempts, skipped, degraded)) in cases.into_iter().enumerate() {
            let mut facts = everything();
            change(&mut facts);
            let plan = Plan::new(&facts, Choice::Auto);
            assert_eq!(plan.attempts, attempts, "case {index}");
            let mut of_facts = plan.degraded;
            of_facts.retain(|(_, reason)| reason != NOT_BY_SYSCALL);
            for (have, want) in [(plan.skipped, skipped), (of_facts, degraded)] {
                assert_eq!(have.len(), want.len(), "case {index}: {have:?}");
                for ((backend, reason), (expected, word)) in have.iter().zip(want) {
                    assert_eq!(backend, expected, "case {index}");
                    assert!(reason.contains(word), "case {index}: {reason}");
                }
            }
        }
    }

    #[test]
    fn a_forced_backend_is_the_only_attempt_even_against_the_facts() {
        let facts = KernelFacts { kprobes: Some(false), ..everything() };
        let plan = Plan::new(&facts, Choice::Forced(Backend::Kprobe));
        assert_eq!(plan.attempts, [Backend::Kprobe]);
        assert_eq!(plan.skipped.len(), 2);
        let degraded: Vec<&str> = plan.degraded_on(Backend::Kprobe).collect();
        assert_eq!(degraded, ["forced, although the kernel is built without kprobes"]);
    }

    #[test]
    fn every_backend_is_read_back_from_its_name() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert!("Fexit".parse::<Backend>().is_err());
    }
}
