//! BOUND_PORTS: ports that bind() and listen() took. The kernel gives them to no connect() of the namespace,
//! whatever its tuple (`__inet_hash_connect` skips a bucket that a bind() touched).

mod held;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap},
};
use tracer_common::{
    Addr, Bound, Cause, ConnKey, Kind, Loss, PortBy, TupleKey, conn_flag, event_flag,
    share::{BOUND_COUNTERS, Table},
};

use crate::{
    abi::{
        errno::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EPERM},
        failed::EEXIST,
    },
    atomic,
    attempt::{self, Call, CallInfo, now},
    events::{self, Detail},
    filter,
    offsets::SPREADING,
    rule, share,
    skip::{Skip, Step},
    sock::{Address, Sock, state},
    stats, touched, who,
};
pub(crate) use held::{Held, correct_fast, fast};

/// One entry for each socket and port. Preallocated and never evicting, as CONNS.
#[map]
static BOUND_PORTS: HashMap<ConnKey, Bound> = HashMap::with_max_entries(65_536, 0);

/// How many entries of BOUND_PORTS are at each address, for the spreader alone: see [`share::counters`]. A count changes only
/// when an insert or a delete on BOUND_PORTS succeeded. Counters instead of an entry for each address: any user can bind() to any
/// number of addresses (IP_FREEBIND), and an address without an entry would seem to have no bound port.
#[map]
static BOUND_BY_ADDR: Array<[u64; BOUND_COUNTERS]> = Array::with_max_entries(1, 0);

const E2BIG: i32 = -7;

/// The key of a socket without a cookie, from its kernel address: listen() without bind() runs no hook that could
/// generate one. No address equals a cookie (cookies count up from 1), and the entry is removed before the socket is freed.
#[inline(always)]
fn address_key(sock: &Sock, port: u16) -> ConnKey {
    ConnKey::new(sock.at(), port)
}

/// Adds an entry to BOUND_PORTS, and counts it for its owner and, if one is loaded, for the spreader. `Err`: the key has an entry
/// already, or (a loss) there is no room for one, or the map is busy.
#[inline(always)]
pub(crate) fn add(key: &ConnKey, bound: &Bound) -> Step {
    if !share::has_room(bound.owner, Table::Binds) {
        // SAFETY: the value is not read.
        let known = unsafe { BOUND_PORTS.get(key) }.is_some();
        return Err(if known { Skip::NotOurs } else { Skip::Lost(Loss::BindsShare) });
    }
    match BOUND_PORTS.insert(key, bound, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(EEXIST) => return Err(Skip::NotOurs),
        Err(E2BIG) => return Err(Skip::Lost(Loss::BindsFull)),
        Err(_) => return Err(Skip::Lost(Loss::MapBusy)),
    }
    share::add(bound.owner, Table::Binds, 1);
    count_at(&bound.place, key.port, true);
    Ok(())
}

/// Removes an entry of BOUND_PORTS, and counts that for its owner and the spreader; true if this removed it. False: there is
/// none, the map refuses, or another CPU removed it first.
#[inline(always)]
pub(crate) fn remove(key: &ConnKey) -> bool {
    // SAFETY: copied before the entry is removed, after which the element may be another port's.
    let known = (unsafe { BOUND_PORTS.get(key) }).map(|bound| (bound.place, bound.owner));
    let Some((place, owner)) = known else { return false };
    let removed = BOUND_PORTS.remove(key).is_ok();
    if removed {
        share::add(owner, Table::Binds, u64::MAX);
        count_at(&place, key.port, false);
    }
    removed
}

/// Counts, for the spreader, one more port bound at an address (`is_new`), or one less. Without a spreader, nothing.
#[inline(always)]
fn count_at(place: &TupleKey, port: u16, is_new: bool) {
    if SPREADING.load() == 0 {
        return;
    }
    if let Some(rule) = rule::active()
        && rule.netns == place.netns
    {
        held::count_port(port, is_new, rule.has_port(port));
    }
    let change = if is_new { 1 } else { u64::MAX };
    let Some(bound) = BOUND_BY_ADDR.get_ptr_mut(0) else { return };
    for counter in share::counters(place.netns, place.source.words()) {
        // SAFETY: an array map's values are never freed while the program is loaded; the mask keeps the index in this one.
        unsafe { atomic::add(bound.cast::<u64>().add(counter & (BOUND_COUNTERS - 1)), change) };
    }
}

/// Whether this port of this socket is in BOUND_PORTS.
#[inline(always)]
pub(crate) fn is_listed(key: &ConnKey) -> bool {
    // SAFETY: the value is not read.
    unsafe { BOUND_PORTS.get(key) }.is_some()
}

/// How many entries of BOUND_PORTS are at this address of the namespace with inode number `netns`, or a few more
/// ([`tracer_common::share::counters`]); 0 if no spreader is loaded.
#[inline(always)]
pub(crate) fn count(netns: u32, source: &Addr) -> u32 {
    let [first, last] = source.words();
    bound_at(netns, first, last)
}

/// Does what [`count`] does, for the address with these words ([`Addr::words`]). A global function, which the verifier checks
/// once, and not in every round of a choice.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn bound_at(netns: u32, first: u64, last: u64) -> u32 {
    let Some(bound) = BOUND_BY_ADDR.get_ptr(0) else { return 0 };
    let [one, other] = share::counters(netns, [first, last]).map(|counter| {
        // SAFETY: as in `count_at`; read by one load.
        unsafe { bound.cast::<u64>().add(counter & (BOUND_COUNTERS - 1)).read_volatile() as u32 }
    });
    one.min(other)
}

/// Fills in the address and the namespace where the socket is bound, or asks to be, the caller and its owner, the time, and
/// the flags `WATCHED` and `CHOSEN`. Only for process context. In place, because a copy would take a fifth of the BPF stack.
#[inline(always)]
fn describe(sock: &Sock, bound: &mut Bound) -> Step {
    bound.place.source = sock.source()?;
    bound.place.netns = sock.netns()?;
    bound.who = who::current();
    bound.owner = share::owner(bound.place.netns, who::user());
    bound.acquired_ns = now();
    // bind() has an attempt, which was filtered when it began; listen() may have none.
    bound.flags = match attempt::binding(sock.cookie()) {
        Some(attempt) => {
            let chosen = if attempt.bound_port == 0 { conn_flag::CHOSEN } else { 0 };
            attempt.flags & conn_flag::WATCHED | chosen
        }
        None if filter::passes_caller::<false>(&bound.who, bound.place.netns) => conn_flag::WATCHED,
        None => 0,
    };
    Ok(())
}

/// `inet_csk_get_port` begins. In state LISTEN it is called by listen(), which has no attempt yet: records one. In another state,
/// removes the attempt of an earlier call whose end no hook saw. For the backend whose hook at the end of the search does not see
/// the socket. `wanted_port`: host byte order; 0: any. `Err`: the socket cannot be read, or ATTEMPTS refuses a new entry.
#[inline(always)]
pub(crate) fn searching(sock: &Sock, wanted_port: u16) -> Step {
    if sock.state() != state::LISTEN {
        let over = attempt::current(Call::Bind).is_some_and(|it| it.cookie != sock.cookie());
        if over || attempt::current(Call::Listen).is_some() {
            // No hook saw the end of the thread's earlier call: the return probe would take this port for that call's.
            attempt::end();
        }
        return Ok(());
    }
    begun(sock, wanted_port)
}

/// Records an attempt: listen() on a socket without a port begins a port search. For the backends whose hook at the end of the
/// search does not see the socket. `wanted_port`: host byte order; 0: any. `Err`: the socket cannot be read, or ATTEMPTS refuses
/// a new entry.
#[inline(always)]
pub(crate) fn begun(sock: &Sock, wanted_port: u16) -> Step {
    attempt::begin::<false>(&CallInfo {
        call: Call::Listen,
        cookie: sock.cookie(),
        sk: sock.at(),
        netns: sock.netns()?,
        source: sock.source()?,
        destination: Addr::UNSPECIFIED,
        destination_port: 0,
        port: wanted_port,
    })
}

/// The socket took a port by bind() or listen(): records and reports it. `Err`: the port is recorded already, there is no room
/// for it, or the socket has none or cannot be read. Only for process context.
#[inline(always)]
pub(crate) fn took(sock: &Sock, by: PortBy) -> Step {
    let mut bound = Bound::default();
    describe(sock, &mut bound)?;
    keep(sock, &mut bound, by)
}

/// Does what [`took`] does after `bound` is filled in.
#[inline(always)]
fn keep(sock: &Sock, bound: &mut Bound, by: PortBy) -> Step {
    let key = match sock.cookie() {
        0 => address_key(sock, sock.port()),
        _ => sock.key(),
    };
    if key.port == 0 {
        return Err(Skip::NotOurs);
    }
    if by as u8 == PortBy::Listen as u8 {
        bound.flags |= conn_flag::LISTEN;
    }
    let watched = bound.flags & conn_flag::WATCHED != 0;
    touched::note(bound, key.port);
    add(&key, bound)?;
    if watched && events::wanted(Kind::PortAllocated) {
        events::emit(&Detail {
            code: by as u8,
            ..Detail::new(Kind::PortAllocated, bound.acquired_ns, key, &bound.place, &bound.who)
        });
    }
    Ok(())
}

/// A time-wait socket takes over the port of a connected socket, and keeps it bound: sets [`conn_flag::TIME_WAIT`] in the port's
/// entry, if it has one.
#[inline(always)]
pub(crate) fn time_wait(key: &ConnKey) {
    if let Some(bound) = BOUND_PORTS.get_ptr_mut(key) {
        // SAFETY: a preallocated element stays mapped; only hooks of this socket's life cycle, in order, write it.
        unsafe { (*bound).flags |= conn_flag::TIME_WAIT };
    }
}

/// The full socket releases its port: reports that and removes the entry, unless a time-wait socket holds the port. `now`:
/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn released(key: &ConnKey, now: u64) {
    // SAFETY: only read; see `time_wait`.
    if let Some(bound) = unsafe { BOUND_PORTS.get(key) }
        && bound.flags & conn_flag::TIME_WAIT == 0
    {
        ended(key, now);
    }
}

/// The full socket `sock` releases this port (host byte order): does what [`released`] does, whether the entry's key has the
/// socket's cookie or its kernel address. (A socket can get its cookie later than its entry: sock_diag generates one.)
#[inline(always)]
pub(crate) fn released_by(sock: &Sock, port: u16) {
    let mut key = ConnKey::new(sock.cookie(), port);
    // SAFETY: the value is not read.
    if unsafe { BOUND_PORTS.get(key) }.is_none() {
        key = address_key(sock, port);
    }
    released(&key, now());
}

/// No socket holds the port any more: removes its entry of BOUND_PORTS, if there is one, and first writes a `PortReleased` event
/// if the entry is `WATCHED` and such events are wanted. If the map refuses, the entry stays. `now`: CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn ended(key: &ConnKey, now: u64) {
    // SAFETY: only read; see `time_wait`.
    let Some(bound) = (unsafe { BOUND_PORTS.get(key) }) else { return };
    // Reported first: a removed element may be another port's at once.
    if bound.flags & conn_flag::WATCHED != 0 && events::wanted(Kind::PortReleased) {
        let time_wait = bound.flags & conn_flag::TIME_WAIT != 0;
        events::emit(&Detail {
            duration_ns: now.saturating_sub(bound.acquired_ns),
            flags: event_flag::DURATION | if time_wait { event_flag::TIME_WAIT } else { 0 },
            ..Detail::new(Kind::PortReleased, now, *key, &bound.place, &bound.who)
        });
    }
    remove(key);
}

/// `inet_csk_get_port` returned: records and reports the port, or counts and reports the failure. `wanted_port`: its argument,
/// host byte order; 0: any port. `result`: 0, or on failure 1 or a negative errno, depending on the kernel version. `Err`:
/// neither bind() nor listen() is known to have called it, the socket has no port or cannot be read, or its port is recorded
/// already or finds no room. A failure that is reported gives `Ok`.
#[inline(always)]
pub(crate) fn searched(sock: &Sock, wanted_port: u16, result: i32) -> Step {
    let listening = sock.state() == state::LISTEN;
    let binding = attempt::binding(sock.cookie()).filter(|_| !listening);
    if binding.is_none() && !listening {
        // The spreader's bpf_bind, inside connect(): the port gets an entry of CONNS, not of BOUND_PORTS. (Or a bind() whose
        // attempt was evicted: userspace adds its port when it next compares BOUND_PORTS with the kernel's sockets.)
        return Err(Skip::NotOurs);
    }
    let mut bound = Bound::default();
    describe(sock, &mut bound)?;
    if result == 0 {
        let by = if binding.is_some() { PortBy::Bind } else { PortBy::Listen };
        return keep(sock, &mut bound, by);
    }
    if let Some(attempt) = binding {
        attempt.flags |= conn_flag::SETTLED;
    }
    let cause = if wanted_port == 0 { Cause::BindExhausted } else { Cause::PortInUse };
    stats::failed(cause);
    if events::wanted(Kind::BindFailed)
        && bound.flags & conn_flag::WATCHED != 0
        && events::may_report(bound.owner, cause, bound.acquired_ns)
    {
        let key = ConnKey::new(sock.cookie(), wanted_port);
        events::emit(&Detail {
            errno: EADDRINUSE,
            code: cause as u8,
            ..Detail::new(Kind::BindFailed, bound.acquired_ns, key, &bound.place, &bound.who)
        });
    }
    Ok(())
}

/// `inet_csk_get_port` returned, and the hook sees no arguments: takes the socket and the port from the thread's attempt, and
/// does what [`searched`] does. Ends the attempt of a listen(); that of a bind() stays until [`returned`]. `result`: as for
/// [`searched`]. `Err`: the thread has no attempt of a bind() or listen(), the socket has no port or cannot be read, or its port
/// is recorded already or finds no room.
#[inline(always)]
pub(crate) fn search_returned(result: i32) -> Step {
    let call = if attempt::current(Call::Bind).is_some() { Call::Bind } else { Call::Listen };
    let attempt = attempt::current(call).ok_or(Skip::NotOurs)?;
    let (sk, wanted_port) = (attempt.sk as Address, attempt.bound_port);
    if call == Call::Listen {
        attempt::end();
    }
    searched(&Sock::read(sk)?, wanted_port, result)
}

/// listen() returned: ends its attempt, and records and reports the port, or counts and reports the failure ([`searched`]). For
/// the backend without a hook at the end of the search. `result`: 0 or a negative errno. `Err`: the thread has no attempt of a
/// listen(), the socket has no port or cannot be read, or its port is recorded already or finds no room.
#[inline(always)]
pub(crate) fn listen_returned(result: i64) -> Step {
    let attempt = attempt::current(Call::Listen).ok_or(Skip::NotOurs)?;
    let sk = attempt.sk as Address;
    attempt::end();
    searched(&Sock::read(sk)?, 0, result as i32)
}

/// bind() returned: counts and reports a failure that [`searched`] has not, and ends the attempt. `result`: 0 or a negative
/// errno. `Err`: the thread has no attempt of a bind().
#[inline(always)]
pub(crate) fn returned(result: i64) -> Step {
    let attempt = attempt::current(Call::Bind).ok_or(Skip::NotOurs)?;
    let settled = attempt.flags & conn_flag::SETTLED != 0;
    if settled || result == 0 {
        attempt::end();
        return Ok(());
    }
    let errno = result.unsigned_abs() as u16;
    let cause = match (errno, attempt.bound_port) {
        (EADDRINUSE, 0) => Cause::BindExhausted,
        (EADDRINUSE, _) => Cause::PortInUse,
        (EADDRNOTAVAIL, _) => Cause::AddressNotLocal,
        (EPERM | EACCES, _) => Cause::Denied,
        _ => Cause::Other,
    };
    stats::failed(cause);
    let now = now();
    if events::wanted(Kind::BindFailed)
        && attempt.flags & conn_flag::WATCHED != 0
        && events::may_report(attempt.owner, cause, now)
    {
        let key = ConnKey::new(attempt.cookie, attempt.bound_port);
        events::emit(&Detail {
            errno,
            code: cause as u8,
            ..Detail::new(Kind::BindFailed, now, key, &attempt.tuple, &attempt.who)
        });
    }
    attempt::end();
    Ok(())
}
