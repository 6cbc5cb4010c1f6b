//! What `tracer doctor` found: one cause, where it is, how sure that is, and what to do.

mod advice;
mod home;
mod subject;

use std::fmt;

use serde_json::{Map, Value};

pub use advice::{Advice, NewAddress, Reservation};
pub use home::{Home, Pod};
pub use subject::{Place, Process, Subject};

/// Defines the ids of findings from their names, in the order in which equal findings are shown.
macro_rules! ids {
    ($($(#[$about:meta])* $id:ident => $name:literal,)+) => {
        /// The kind of a finding. Names are never changed: scripts look for them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Id { $($(#[$about])* $id,)+ }

        impl Id {
            /// All ids, in the order in which findings are shown that are equal otherwise.
            pub const ALL: &[Self] = &[$(Self::$id,)+];

            /// Its name in text and JSON: that of the variant in snake case, such as `black_hole`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)+ }
            }
        }
    };
}

ids! {
    /// The connections of a tuple wait for answers that do not come.
    BlackHole => "black_hole",
    /// A NAT behind this host seems to have no port left: a part of the SYNs to a global address gets no answer.
    NatBehind => "nat_behind",
    /// A NAT on this host has no port left for one of its addresses towards a destination, or soon has none.
    SnatExhausted => "snat_exhausted",
    /// The table of tracked connections (conntrack) is full or nearly full, or drops connections because its hash chains are too
    /// long.
    ConntrackFull => "conntrack_full",
    /// A listener on this host has, or had, a full accept queue: connections to it wait.
    UpstreamQueue => "upstream_queue",
    /// Many ports are in CLOSE_WAIT: the peer has closed the connections, the program has not.
    HeldOpen => "held_open",
    /// Many ports are in FIN_WAIT2: this host has closed the connections, the peer has not.
    FinWait2Held => "fin_wait2_held",
    /// A process or the host has no file descriptor left, or nearly none.
    Descriptors => "descriptors",
    /// bind() fails because a program uses an address that its network namespace does not have (EADDRNOTAVAIL).
    BadSource => "bad_source",
    /// connect() or bind(address, 0) finds no source port, or soon finds none.
    PortsExhausted => "ports_exhausted",
    /// connect() tries every port of one parity before it finds a free one of the other parity, or soon does.
    SlowSearch => "slow_search",
    /// A proxy reports that its servers failed, though this host had no port left to reach them.
    BlamedUpstream => "blamed_upstream",
    /// Programs hold many ports of the range by bind(), which connect() then cannot use towards any destination.
    PoisonedPorts => "poisoned_ports",
    /// This host closes connections first, so that their ports stay in TIME_WAIT.
    ClosesFirst => "closes_first",
    /// Short connections, one after the other, hold a good part of a tuple's ports.
    Churn => "churn",
    /// Programs listen on ports of the range (net.ipv4.ip_local_port_range) that are not reserved.
    ListenersInRange => "listeners_in_range",
    /// The range (net.ipv4.ip_local_port_range) has few ports, or is the default one and nearly half full.
    SmallRange => "small_range",
    /// Most ports in use lead to one destination.
    HotSpot => "hot_spot",
    /// Connections at a constant rate, as health checks open them, need a good part of a tuple's ports.
    HealthChecks => "health_checks",
    /// A socket is connected to its own address and port, or could be: connect() goes to a port of the range on which nothing
    /// listens.
    SelfConnect => "self_connect",
    /// The range has ports that Kubernetes gives to services (NodePorts).
    NodeportOverlap => "nodeport_overlap",
    /// Connections end without TIME_WAIT, or soon do, because there are as many as net.ipv4.tcp_max_tw_buckets allows.
    TimeWaitOverflow => "time_wait_overflow",
    /// net.ipv4.tcp_tw_reuse is 1, but without effect, because net.ipv4.tcp_timestamps is 0.
    ReuseIneffective => "reuse_ineffective",
    /// Programs may bind addresses that this host does not have (net.ipv4.ip_nonlocal_bind).
    NonlocalBind => "nonlocal_bind",
    /// The reverse path filter (rp_filter) drops packets while SYNs of a source address are not answered.
    ReversePath => "reverse_path",
    /// What of `tracer` does not work as well as it could on this host: features that the kernel lacks, tables that are nearly
    /// full.
    Kernel => "kernel",
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Good to know; nothing fails.
    Info,
    /// It will fail, or costs much.
    Warning,
    /// Calls fail, or are slow, now.
    Critical,
}

impl Severity {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Certainty {
    /// Counted or read on this host.
    Measured,
    /// Follows from what was measured.
    Inferred,
    /// One of several explanations.
    Possible,
}

impl Certainty {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Inferred => "inferred",
            Self::Possible => "possible",
        }
    }
}

/// How a finding differs from the one with the same id and subject of the rounds before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// No round before had it, or it was solved since.
    New,
    /// It is more severe.
    Worse,
    /// It is less severe.
    Better,
    Same,
}

impl Change {
    /// Its name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Worse => "worse",
            Self::Better => "better",
            Self::Same => "same",
        }
    }
}

/// A finding. Texts may have names that other processes chose: whoever prints them makes them safe for a terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub id: Id,
    pub severity: Severity,
    pub certainty: Certainty,
    pub subject: Subject,
    /// What was found, with its numbers, as a text for people: one line.
    pub what: String,
    /// The values behind `what`, by their keys in JSON, such as `ports.in_use`.
    pub evidence: Map<String, Value>,
    /// Why it is so; `None`: not known.
    pub why: Option<String>,
    /// What to do: first what helps at once, then what lasts, the best first. Empty: nothing is known, or the cause has the
    /// advice.
    pub advice: Vec<Advice>,
    /// The command by which to check that the finding is gone, and when if that matters; `None`: none is known.
    pub verify: Option<String>,
    /// What would be of no use, though it is often advised; `None`: nothing.
    pub not: Option<&'static str>,
    /// The finding that explains this one; `None`: it is a cause.
    pub consequence_of: Option<Id>,
    /// Where the processes of its subject run; `None`: not known, or in several places.
    pub home: Option<Home>,
    /// How it differs from the rounds before; `None`: this is the first round, or the only one.
    pub change: Option<Change>,
}

impl Finding {
    /// A finding with [`Certainty::Measured`]; all that the arguments do not give is empty or `None`.
    pub fn new(id: Id, severity: Severity, subject: Subject, what: impl Into<String>) -> Self {
        Self {
            id,
            severity,
            certainty: Certainty::Measured,
            subject,
            what: what.into(),
            evidence: Map::new(),
            why: None,
            advice: Vec::new(),
            verify: None,
            not: None,
            consequence_of: None,
            home: None,
            change: None,
        }
    }

    /// The finding with this certainty.
    #[must_use]
    pub fn sure(self, certainty: Certainty) -> Self {
        Self { certainty, ..self }
    }

    /// The finding with one more value in its evidence, in place of one with the same key; `null` changes nothing.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.evidence.insert(key.to_owned(), value);
        }
        self
    }

    /// The finding with its reason; `None`: not known.
    #[must_use]
    pub fn because(self, why: impl Into<Option<String>>) -> Self {
        Self { why: why.into(), ..self }
    }

    /// The finding with further advice, after what it has.
    #[must_use]
    pub fn advise(mut self, advice: impl IntoIterator<Item = Advice>) -> Self {
        self.advice.extend(advice);
        self
    }

    /// The finding with the command that shows whether it is gone.
    #[must_use]
    pub fn verify_by(self, command: impl Into<String>) -> Self {
        Self { verify: Some(command.into()), ..self }
    }

    /// The finding with what would be of no use.
    #[must_use]
    pub fn but_not(self, not: &'static str) -> Self {
        Self { not: Some(not), ..self }
    }
}
