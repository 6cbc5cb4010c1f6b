//! A scene: a network namespace with a server, what is wrong in it, what goes on while doctor looks at it, and what doctor must
//! say then.

use std::{any::Any, net::SocketAddr};

use anyhow::{Context, Result, ensure};

use crate::{
    cases::doctor::{
        edge::{Edge, listen},
        table::SCENARIOS,
    },
    harness::{
        netns::{Named, NetNs},
        sock::Sock,
        tracer::doctor::Diagnosis,
    },
};

/// The address of `lo` in a scene without another namespace.
pub(super) const LOCAL: &str = "10.1.0.1";

/// What a scene does over and over while it is looked at.
type Act = Box<dyn Fn(&Scene) -> Result<()> + Send + Sync>;
/// What a finding's advice says to do besides its command.
type Rest = Box<dyn FnOnce() -> Result<()> + Send + Sync>;

/// A network namespace with a server, in which something is wrong or nothing is.
pub(super) struct Scene {
    /// The namespace that doctor looks at.
    pub(super) here: NetNs,
    pub(super) server: SocketAddr,
    /// The server's socket, in `here` or in another namespace.
    pub(super) listener: Sock,
    title: &'static str,
    named: Option<Named>,
    act: Option<Act>,
    rest: Option<Rest>,
    kept: Vec<Box<dyn Any + Send + Sync>>,
    /// Numbers of the evidence of its finding, which must be exactly these.
    counts: Vec<(&'static str, u64)>,
}

impl Scene {
    /// A scene in a new namespace: a server listens at [`LOCAL`] on `lo`, port 8081, and clients connect from the same address
    /// with the source ports `low` to `high`, both inclusive. An error if the namespace cannot be made or set up (only root can),
    /// the server cannot listen, or the kernel refuses the range.
    pub(super) fn new(low: u16, high: u16) -> Result<Self> {
        let here = NetNs::new()?;
        here.ip(&format!("addr add {LOCAL}/32 dev lo"))?;
        let server: SocketAddr = format!("{LOCAL}:8081").parse()?;
        let listener = here.run(|| listen(server, 4_096))?;
        let scene = Self::around(here, server, listener);
        scene.here.sysctl("ipv4/ip_local_port_range", &format!("{low} {high}"))?;
        Ok(scene)
    }

    /// A namespace with this many source ports, from 40000 on, and the server at 10.2.0.2:8081 in another namespace, which the
    /// scene keeps. Returns the scene and the server's address. Limits and errors as of [`Edge::new`].
    pub(super) fn with_network(ports: u16) -> Result<(Self, SocketAddr)> {
        let Edge { here, there, listener, upstream } = Edge::new(ports)?;
        let mut scene = Self::around(here, upstream, listener);
        scene.keep(there);
        Ok((scene, upstream))
    }

    /// A scene as of [`Self::with_network`], and the namespace of its server, which the caller has to keep as long as the scene.
    pub(super) fn with_other(ports: u16) -> Result<(Self, NetNs)> {
        let Edge { here, there, listener, upstream } = Edge::new(ports)?;
        Ok((Self::around(here, upstream, listener), there))
    }

    fn around(here: NetNs, server: SocketAddr, listener: Sock) -> Self {
        Self {
            here,
            server,
            listener,
            title: "",
            named: None,
            act: None,
            rest: None,
            kept: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// The scene with the title of its scenario, and with a name in /run/netns (`TITLE-PID-NUMBER`), so that findings have
    /// commands. An error if the name cannot be made.
    pub(super) fn named(mut self, title: &'static str) -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        self.title = title;
        self.named = Some(self.here.name(&format!("{title}-{pid}-{number}"))?);
        Ok(self)
    }

    /// The name of its scenario ([`Self::named`]); empty if it has none.
    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    /// Its name in /run/netns; empty if it has none.
    pub(super) fn netns_name(&self) -> &str {
        let name = self.named.as_ref().and_then(|it| it.path().file_name());
        name.and_then(|it| it.to_str()).unwrap_or_default()
    }

    /// Opens this many connections to the server. Returns pairs: the client's end, and the server's. An error if one fails.
    pub(super) fn open(&self, count: usize) -> Result<Vec<(Sock, Sock)>> {
        self.here.run(|| {
            let pair = |_| Ok((Sock::connected(self.server)?, self.listener.accept()?));
            (0..count).map(pair).collect()
        })
    }

    /// Opens this many connections and closes the clients' ends first, so that their ports are in TIME_WAIT. An error if one
    /// fails.
    pub(super) fn leave_time_waits(&self, count: usize) -> Result<()> {
        for (client, server) in self.open(count)? {
            drop(client);
            drop(server);
        }
        Ok(())
    }

    /// The scene with this many more connections, which stay open. An error if one fails.
    pub(super) fn holding(mut self, count: usize) -> Result<Self> {
        let pairs = self.open(count)?;
        self.keep(pairs);
        Ok(self)
    }

    /// Drops `it`, for example a socket, only with the scene.
    pub(super) fn keep(&mut self, it: impl Any + Send + Sync) {
        self.kept.push(Box::new(it));
    }

    /// The scene with this value of a sysctl, whose name is below /proc/sys/net; an error if the kernel refuses it.
    pub(super) fn sysctl(self, name: &str, value: &str) -> Result<Self> {
        self.here.sysctl(name, value)?;
        Ok(self)
    }

    /// The scene, in which `act` is called over and over while doctor looks.
    pub(super) fn acting(self, act: impl Fn(&Self) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { act: Some(Box::new(act)), ..self }
    }

    /// The scene, for which `rest` does what the advice says in addition to its command; [`Self::do_the_rest`] calls it.
    pub(super) fn and_then(
        self,
        rest: impl FnOnce() -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { rest: Some(Box::new(rest)), ..self }
    }

    /// The scene, whose finding must have these numbers of its evidence: (key, number).
    pub(super) fn counting(self, counts: &[(&'static str, u64)]) -> Self {
        Self { counts: counts.to_vec(), ..self }
    }

    /// Calls once what [`Self::acting`] got, and returns its result; does nothing without it.
    pub(super) fn act(&self) -> Result<()> {
        self.act.as_ref().map_or(Ok(()), |act| act(self))
    }

    /// Calls, in the namespace, what [`Self::and_then`] got, and returns its result: only the first time. Later, and without it,
    /// does nothing.
    pub(super) fn do_the_rest(&mut self) -> Result<()> {
        self.rest.take().map_or(Ok(()), |rest| self.here.run(rest))
    }

    /// Id of the finding that the scene is made for; `None`: it is healthy, or its title is no scenario.
    pub(super) fn made_for(&self) -> Option<&'static str> {
        let scenario = SCENARIOS.iter().find(|it| it.name == self.title)?;
        scenario.roots.first().or(scenario.infos.first()).copied()
    }

    /// What is wrong with the numbers of the finding that the scene is made for, as text (also if there is no such finding);
    /// `None`: nothing, or [`Self::counting`] named no number.
    pub(super) fn wrong(&self, found: &Diagnosis) -> Option<String> {
        if self.counts.is_empty() {
            return None;
        }
        let check = || -> Result<()> {
            let id = self.made_for().context("a healthy scenario has no numbers")?;
            let finding = found.finding(id)?;
            for (key, expected) in &self.counts {
                let count = finding.count(key)?;
                ensure!(count == *expected, "{key} is {count}, not {expected}");
            }
            Ok(())
        };
        check().err().map(|error| format!("{error:#}"))
    }
}
