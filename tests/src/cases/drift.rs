//! `drift::*`: what the comparison with the kernel's sockets corrects is counted exactly. These tests change the ledger on
//! purpose; in the others drift must be 0 unless the kernel skipped a hook, or the workload allows it (`Stage::expect_drift`).

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Case, Plan};
use crate::harness::{
    behind::{HELD, Map, detach_link, one},
    probe::Place,
    sock::Sock,
    stage::{Server, Stage},
    tracer::watch::Watch,
};

pub fn cases(plan: &Plan) -> Vec<Case> {
    plan.group("drift")
        .sampled(&[
            ("entries_removed", entries_removed),
            ("entries_added", entries_added),
            ("tuples_changed", tuples_changed),
            ("states_changed", states_changed),
            ("destinations_changed", destinations_changed),
            ("nothing_known_of_a_namespace", nothing_known_of_a_namespace),
        ])
        // Of tracer's links, the kernel lets another process detach only those of cgroups: with this backend, the hooks that see
        // a connect() have such links.
        .on_backend("tracepoint", &[("hook_detached", hook_detached)])
        .cases()
}

/// Size of a `TupleKey`, with which a value of CONNS begins, in bytes.
const TUPLE: usize = 40;
/// Byte offset of the namespace's inode number in a value of CONNS.
const NETNS: usize = 32;
/// In a value of CONNS: the byte offset of the flags, the bit at which the number of the state begins in them, and the
/// numbers of two states.
const FLAGS: usize = 88;
const STATE_SHIFT: u32 = 10;
const ESTABLISHED: u64 = 2;
const CLOSE_WAIT: u64 = 3;
/// Byte offsets of counters in a value of TUPLES.
const OPENED: usize = 0;
const RELEASED: usize = 8;
const TIME_WAIT_BEGUN: usize = 16;
/// Byte offset of the counters of states, 16 bits for each state.
const STATES: usize = 48;
/// How long a correction may take: it needs two comparisons, each of which comes within 30 s of the one before. Longer in a guest
/// ([`Place::limit`]).
const LIMIT: Duration = Duration::from_secs(70);

/// What one port in this state, 1 to 4, adds to the counters at [`STATES`]. State 0 has no counter, and must not be given.
const fn in_state(state: u64) -> u64 {
    1 << ((state - 1) * 16)
}

/// Port of the first server; the others listen on the following ports.
const FIRST_PORT: u16 = 7000;

struct Scene {
    stage: Stage,
    servers: Vec<Server>,
    watch: Watch,
    /// Both ends (clients, accepted) of all connections: an element for each server and call of [`Self::connect`].
    pairs: Vec<(Vec<Sock>, Vec<Sock>)>,
}

impl Scene {
    /// Starts a tracer with this backend, then opens `connections` connections of one tuple, and waits until the ledger has them
    /// without drift.
    fn new(backend: &str, connections: usize) -> Result<Self> {
        Self::of_tuples(backend, 1, connections)
    }

    /// As [`Self::new`], with several tuples of `connections` connections each.
    fn of_tuples(backend: &str, tuples: u16, connections: usize) -> Result<Self> {
        let mut stage = Stage::new(&[])?;
        let ports = FIRST_PORT..FIRST_PORT + tuples;
        let servers = ports.map(|port| stage.server(&format!("10.1.0.1:{port}")));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let watch = Watch::start(backend, &[])?;
        let mut scene = Self { stage, servers, watch, pairs: Vec::new() };
        scene.connect(connections)?;
        scene.expect(0, connections)?;
        Ok(scene)
    }

    /// Opens `count` more connections of each tuple.
    fn connect(&mut self, count: usize) -> Result<()> {
        for server in &self.servers {
            self.pairs.push(self.stage.netns.run(|| server.pairs(count))?);
        }
        Ok(())
    }

    /// Waits until the tracer has corrected exactly `drift` ports and tuples (in a guest: at least that many; with
    /// [`unseen_time_waits`](crate::harness::tracer::watch::Reading::unseen_time_waits), as many more), and has `in_use`
    /// established connections of each tuple; an error if that is not so within [`LIMIT`], or sooner if it has corrected more.
    fn expect(&mut self, drift: u64, in_use: usize) -> Result<()> {
        let in_use = in_use as u64;
        let end = Instant::now() + Place::get().limit(LIMIT);
        loop {
            let reading = self.watch.after(SystemTime::now(), Duration::from_secs(10))?;
            let counts = reading.of(self.stage.netns.inum());
            let of = |server: &Server| counts.get(&server.tuple()).cloned().unwrap_or_default();
            let exact = self.servers.iter().map(of).all(|counts| {
                counts.opened.checked_sub(counts.released) == Some(counts.in_use)
                    && (counts.in_use, counts.established) == (in_use, in_use)
            });
            let reached = reading.drift >= drift && exact;
            // In a guest the kernel skips hooks during interrupts, and the comparison corrects that, too.
            let may_miss = Place::get() == Place::Vm;
            let is_explained = reading.drift <= drift + reading.unseen_time_waits || may_miss;
            if reached && is_explained {
                return Ok(());
            }
            ensure!(
                Instant::now() < end && is_explained,
                "drift {}, not {drift}; {counts:?}, not {in_use} in use; stderr: {}",
                reading.drift,
                reading.log
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The map CONNS, and its entries of this stage's namespace.
    fn entries(&self) -> Result<(Map, Vec<Entry>)> {
        let conns = Map::of(self.watch.id(), "CONNS")?;
        let mut entries = Vec::new();
        for key in conns.keys()? {
            let Some(value) = conns.get(&key)? else { continue };
            let netns = u32::from_ne_bytes(value[NETNS..NETNS + 4].try_into()?);
            if u64::from(netns) == self.stage.netns.inum() {
                entries.push(Entry { key, value });
            }
        }
        Ok((conns, entries))
    }

    /// The keys of the tuples in this stage's namespace, each once.
    fn tuples(&self) -> Result<Vec<Vec<u8>>> {
        let (_, entries) = self.entries()?;
        let keys: BTreeSet<_> = entries.iter().map(|entry| entry.value[..TUPLE].to_vec()).collect();
        Ok(keys.into_iter().collect())
    }

    /// Adds `more` to the 64 bits at byte offset `counter` of a tuple's value, modulo 2⁶⁴.
    fn count(&self, tuple: &[u8], counter: usize, more: u64) -> Result<()> {
        let tuples = Map::of(self.watch.id(), "TUPLES")?;
        let mut value = tuples.get(tuple)?.context("the tuple has gone")?;
        let old = u64::from_ne_bytes(value[counter..counter + 8].try_into()?);
        value[counter..counter + 8].copy_from_slice(&old.wrapping_add(more).to_ne_bytes());
        tuples.set(tuple, &value)
    }
}

struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// The ledger has lost the entries of three ports that connections hold: they are added again, and counted as drift of 3.
fn entries_removed(backend: &str) -> Result<()> {
    let mut scene = Scene::new(backend, 7)?;
    let (conns, entries) = scene.entries()?;
    ensure!(entries.len() == 7, "{} entries", entries.len());
    for entry in entries.iter().take(3) {
        conns.remove(&entry.key)?;
        scene.count(&entry.value[..TUPLE], RELEASED, 1)?;
        scene.count(&entry.value[..TUPLE], HELD, one(&entry.key).wrapping_neg())?;
        scene.count(&entry.value[..TUPLE], STATES, in_state(ESTABLISHED).wrapping_neg())?;
    }
    scene.expect(3, 7)?;
    scene.watch.stop()
}

/// The ledger has lost a namespace's seven connections and their tuple: the connections are added again, and counted as
/// drift of 7.
fn nothing_known_of_a_namespace(backend: &str) -> Result<()> {
    let mut scene = Scene::new(backend, 7)?;
    let (conns, entries) = scene.entries()?;
    let tuple = entries.first().context("there is no entry")?.value[..TUPLE].to_vec();
    for entry in &entries {
        conns.remove(&entry.key)?;
    }
    Map::of(scene.watch.id(), "TUPLES")?.remove(&tuple)?;
    scene.expect(7, 7)?;
    scene.watch.stop()
}

/// The ledger has entries for two ports that no socket has: they are removed, and counted as drift of 2.
fn entries_added(backend: &str) -> Result<()> {
    let mut scene = Scene::new(backend, 7)?;
    let (conns, entries) = scene.entries()?;
    for (number, entry) in entries.iter().take(2).enumerate() {
        let mut key = entry.key.clone();
        // A cookie that no socket has: the kernel counts cookies up, and does not reach this one for centuries.
        key[..8].copy_from_slice(&((1_u64 << 62) + number as u64).to_ne_bytes());
        conns.set(&key, &entry.value)?;
        scene.count(&entry.value[..TUPLE], OPENED, 1)?;
        scene.count(&entry.value[..TUPLE], HELD, one(&key))?;
        scene.count(&entry.value[..TUPLE], STATES, in_state(ESTABLISHED))?;
    }
    scene.expect(2, 7)?;
    scene.watch.stop()
}

/// The ledger has two connections with another destination than the kernel, as if their sockets had been disconnected and
/// connected again unseen: they are removed and added, and counted as drift of 4.
fn destinations_changed(backend: &str) -> Result<()> {
    let mut scene = Scene::of_tuples(backend, 2, 7)?;
    let tuples = scene.tuples()?;
    let [real, other] = &tuples[..] else { bail!("{} tuples", tuples.len()) };
    let (conns, entries) = scene.entries()?;
    let entries = entries.into_iter().filter(|entry| entry.value[..TUPLE] == real[..]);
    for mut entry in entries.take(2) {
        entry.value[..TUPLE].copy_from_slice(other);
        conns.set(&entry.key, &entry.value)?;
        for (tuple, counter, sign) in [(real, RELEASED, u64::MAX), (other, OPENED, 1)] {
            scene.count(tuple, counter, 1)?;
            scene.count(tuple, HELD, one(&entry.key).wrapping_mul(sign))?;
            scene.count(tuple, STATES, in_state(ESTABLISHED).wrapping_mul(sign))?;
        }
    }
    scene.expect(4, 7)?;
    scene.watch.stop()
}

/// Counters of four tuples differ from the sums of the entries in CONNS, and a fifth tuple is missing: all are corrected, and
/// counted as drift of 5.
fn tuples_changed(backend: &str) -> Result<()> {
    let mut scene = Scene::of_tuples(backend, 5, 7)?;
    let tuples = scene.tuples()?;
    let [first, second, third, fourth, missing] = &tuples[..] else {
        bail!("{} tuples", tuples.len())
    };
    scene.count(first, OPENED, 5)?;
    scene.count(second, RELEASED, 2)?;
    scene.count(third, HELD, 1)?;
    scene.count(fourth, TIME_WAIT_BEGUN, 3)?;
    Map::of(scene.watch.id(), "TUPLES")?.remove(missing)?;
    scene.expect(5, 7)?;
    scene.watch.stop()
}

/// The ledger has four connections in a later or an earlier state than the kernel, and another tuple's counters of states differ
/// from the sums of its entries: both are corrected, and counted as drift of 5.
fn states_changed(backend: &str) -> Result<()> {
    let mut scene = Scene::of_tuples(backend, 2, 7)?;
    let tuples = scene.tuples()?;
    let [changed, counted] = &tuples[..] else { bail!("{} tuples", tuples.len()) };
    let (conns, entries) = scene.entries()?;
    let entries = entries.into_iter().filter(|entry| entry.value[..TUPLE] == changed[..]);
    for (entry, state) in entries.zip([CLOSE_WAIT, CLOSE_WAIT, 0, 0]) {
        let mut value = entry.value;
        let flags = u32::from_ne_bytes(value[FLAGS..FLAGS + 4].try_into()?);
        let new = flags & !(7 << STATE_SHIFT) | u32::try_from(state)? << STATE_SHIFT;
        value[FLAGS..FLAGS + 4].copy_from_slice(&new.to_ne_bytes());
        conns.set(&entry.key, &value)?;
        let now = if state == 0 { 0 } else { in_state(state) };
        scene.count(changed, STATES, now.wrapping_sub(in_state(ESTABLISHED)))?;
    }
    scene.count(counted, STATES, in_state(CLOSE_WAIT).wrapping_sub(in_state(ESTABLISHED)))?;
    scene.expect(5, 7)?;
    scene.watch.stop()
}

/// The hooks that see a connect() are detached: the comparison must add the ports of four later connections, as drift of 4.
fn hook_detached(backend: &str) -> Result<()> {
    let mut scene = Scene::new(backend, 3)?;
    // BPF_CGROUP_SOCK_OPS (3) reports the port; BPF_CGROUP_INET4_CONNECT (10) notes the call, by which the hook at the end of
    // connect() would find the port, too.
    for attach_type in [3, 10] {
        let lines = ["link_type:\tcgroup".to_owned(), format!("attach_type:\t{attach_type}")];
        detach_link(scene.watch.id(), &lines)?;
    }
    scene.connect(4)?;
    scene.expect(4, 7)?;
    scene.watch.stop()
}
