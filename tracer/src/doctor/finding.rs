//! What `tracer doctor` found: one cause, where it is, how sure that is, and what to do.

mod advice;
mod home;
mod subject;

use std::fmt;

use serde_json::{Map, Value};

pub use advice::{Advice, Reservation};
pub use home::{Home, Pod};
pub use subject::{Place, Process, Subject};

/// Defines the ids of findings from their names, in the order in which equal findings are shown.
macro_rules! ids {
    ($($(#[$about:meta])* $id:ident => $name:literal,)+) => {
        /// Which finding it is. Names are never changed: scripts look for them.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Id { $($(#[$about])* $id,)+ }

        impl Id {
            /// All findings.
            pub const ALL: &[Self] = &[$(Self::$id,)+];

            /// Its name, as users read it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)+ }
            }
        }
    };
}

ids! {
    /// The connections of a tuple wait for answers that do not come.
    BlackHole => "black_hole",
    /// A NAT behind this host seems to have no port left.
    NatBehind => "nat_behind",
    /// A NAT on this host has no port left for one of its addresses.
    SnatExhausted => "snat_exhausted",
    /// The table of tracked connections is full.
    ConntrackFull => "conntrack_full",
    /// A listener on this host has a full queue: connections to it wait.
    UpstreamQueue => "upstream_queue",
    /// Connections are in CLOSE_WAIT: the program does not close them.
    HeldOpen => "held_open",
    /// Connections are in FIN_WAIT2: the peer does not close them.
    FinWait2Held => "fin_wait2_held",
    /// A process has no descriptor left, or the host has none.
    Descriptors => "descriptors",
    /// A program binds an address that this host does not have.
    BadSource => "bad_source",
    /// connect() or bind() finds no source port, or soon finds none.
    PortsExhausted => "ports_exhausted",
    /// connect() tries every port of one half of the range before it finds a free one in the other half.
    SlowSearch => "slow_search",
    /// A proxy reports failing servers, though this host has no port left.
    BlamedUpstream => "blamed_upstream",
    /// Programs hold ports of the range by bind(), which connect() then cannot use towards any destination.
    PoisonedPorts => "poisoned_ports",
    /// This host closes the connections first, so that their ports stay in TIME_WAIT.
    ClosesFirst => "closes_first",
    /// Each request, or nearly so, opens a connection of its own.
    Churn => "churn",
    /// Services listen on ports of the range.
    ListenersInRange => "listeners_in_range",
    /// The range has few ports.
    SmallRange => "small_range",
    /// Most ports are used towards one destination.
    HotSpot => "hot_spot",
    /// Health checks hold a part of a tuple's ports.
    HealthChecks => "health_checks",
    /// A socket is connected to itself, or could be.
    SelfConnect => "self_connect",
    /// The range has ports that Kubernetes gives to services.
    NodeportOverlap => "nodeport_overlap",
    /// Connections end without TIME_WAIT, because there are too many.
    TimeWaitOverflow => "time_wait_overflow",
    /// TIME_WAITs are to be reused, but timestamps are off.
    ReuseIneffective => "reuse_ineffective",
    /// Programs may bind addresses that this host does not have.
    NonlocalBind => "nonlocal_bind",
    /// The reverse path filter drops answers.
    ReversePath => "reverse_path",
    /// What this kernel lacks for `tracer`.
    Kernel => "kernel",
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// How bad it is.
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
    /// Its name, as users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// How sure it is.
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
    /// Its name, as users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Inferred => "inferred",
            Self::Possible => "possible",
        }
    }
}

/// How a finding differs from the same one of the last round.
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
    /// Its name, as users read it.
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
    /// What was found, with its numbers: one line.
    pub what: String,
    /// The numbers by their keys, for programs.
    pub evidence: Map<String, Value>,
    /// Why it is so; `None`: not known.
    pub why: Option<String>,
    /// What to do, the best first; what helps at once before that.
    pub advice: Vec<Advice>,
    /// The command that shows whether it is gone, and when it should be.
    pub verify: Option<String>,
    /// What would be of no use, though it is often advised.
    pub not: Option<&'static str>,
    /// The finding that explains this one; `None`: it is a cause.
    pub consequence_of: Option<Id>,
    /// Where the processes of its subject run; `None`: not known, or in several places.
    pub home: Option<Home>,
    /// Since the last round; `None`: there is none.
    pub change: Option<Change>,
}

impl Finding {
    /// A finding that was measured, with neither numbers nor advice yet.
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

    /// The finding with one more number; `null` adds none.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.evidence.insert(key.to_owned(), value);
        }
        self
    }

    /// The finding with its reason.
    #[must_use]
    pub fn because(self, why: impl Into<Option<String>>) -> Self {
        Self { why: why.into(), ..self }
    }

    /// The finding with one more advice, after those that it has.
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
