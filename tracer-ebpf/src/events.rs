//! EVENTS: the ring buffer of events. Detail only: counts come from the maps. A full ring is a counted loss.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_get_smp_processor_id,
    macros::map,
    maps::RingBuf,
};
use tracer_common::{Cause, ConnKey, Event, Kind, Loss, Stat, TupleKey, Who, share::Rate};

use crate::{
    offsets::{EVENT_MASK, WAKE_AT},
    share, stats, words,
};

/// One ring for all CPUs, so that the reader gets records in order; its size is a setting.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 24, 0);

/// Whether events of this kind are in the event mask. The verifier knows the answer at load time.
#[inline(always)]
pub(crate) fn wanted(kind: Kind) -> bool {
    EVENT_MASK.load() & kind.bit() != 0
}

/// An event's values, as a hook has them; 0 where it sets none. Fields without a comment are those of [`Event`].
pub(crate) struct Detail<'a> {
    pub(crate) kind: Kind,
    /// CLOCK_MONOTONIC, ns.
    pub(crate) now: u64,
    /// The event's cookie and local port. A key without a cookie gives cookie 0.
    pub(crate) key: ConnKey,
    pub(crate) tuple: &'a TupleKey,
    pub(crate) who: &'a Who,
    pub(crate) duration_ns: u64,
    pub(crate) in_use: u32,
    pub(crate) time_wait: u32,
    pub(crate) errno: u16,
    /// The event's `detail`: the number of a [`Cause`] or a [`PortBy`](tracer_common::PortBy).
    pub(crate) code: u8,
    pub(crate) old_state: u8,
    pub(crate) new_state: u8,
    pub(crate) flags: u8,
}

impl<'a> Detail<'a> {
    /// An event with these values, and 0 in all other fields.
    #[inline(always)]
    pub(crate) fn new(
        kind: Kind,
        now: u64,
        key: ConnKey,
        tuple: &'a TupleKey,
        who: &'a Who,
    ) -> Self {
        Self {
            kind,
            now,
            key,
            tuple,
            who,
            duration_ns: 0,
            in_use: 0,
            time_wait: 0,
            errno: 0,
            code: 0,
            old_state: 0,
            new_state: 0,
            flags: 0,
        }
    }
}

/// Whether an event of a failure with this cause is within its owner's rate ([`share::may_report`]). If not, counts it as lost.
/// `now`: CLOCK_MONOTONIC, ns.
#[inline(always)]
pub(crate) fn may_report(owner: u32, cause: Cause, now: u64) -> bool {
    let rate = match cause {
        Cause::PortsExhausted | Cause::BindExhausted | Cause::TupleInUse => Rate::Exhaustion,
        _ => Rate::Failures,
    };
    let may = share::may_report(owner, rate, now);
    if !may {
        stats::count(Stat::EventsSeen);
        stats::lost(Loss::EventsLimited);
    }
    may
}

/// Writes one event, and counts it as seen and as emitted; if the ring is full, counts it as seen and as a loss. The caller has
/// checked [`wanted`], the filter and, for a failure, [`may_report`].
#[inline(always)]
pub(crate) fn emit(detail: &Detail<'_>) {
    let seq = stats::next_seq();
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        stats::lost(Loss::EventRingFull);
        return;
    };
    // Field by field into the ring: a whole `Event` would take a quarter of the BPF stack.
    let event = entry.as_mut_ptr();
    // SAFETY: `reserve` returned 128 bytes for this record alone, and every byte of it is written;
    // the tuple and the comm are aligned to eight bytes in an event, a `Conn`, an `Attempt` and a `Bound`.
    unsafe {
        (*event).mono_ns = detail.now;
        (*event).seq = seq;
        // The key of a bound port without a cookie is a kernel address, which must not reach userspace.
        (*event).cookie = if detail.key.has_cookie() { detail.key.cookie } else { 0 };
        (*event).duration_ns = detail.duration_ns;
        (*event).cgroup = detail.who.cgroup;
        words::copy(&raw mut (*event).tuple, detail.tuple);
        (*event).pid = detail.who.pid;
        (*event).tid = detail.who.tid;
        words::copy(&raw mut (*event).comm, &raw const detail.who.comm);
        (*event).in_use = detail.in_use;
        (*event).time_wait = detail.time_wait;
        (*event).cpu = bpf_get_smp_processor_id() as u16;
        (*event).local_port = detail.key.port;
        (*event).errno = detail.errno;
        (*event).kind = detail.kind as u8;
        (*event).detail = detail.code;
        (*event).old_state = detail.old_state;
        (*event).new_state = detail.new_state;
        (*event).flags = detail.flags;
        (*event).zero = [0; 5];
    }
    stats::count(Stat::EventsEmitted);
    entry.submit(wake_flag());
}

/// Whether this record wakes the reader, as a flag of bpf_ringbuf_submit. Waking costs 8 to 11 µs inside connect(), so the
/// reader reads on a timer, and is woken only when the ring fills past the threshold.
#[inline(always)]
fn wake_flag() -> u64 {
    let waiting = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    let wake_at = u64::from(WAKE_AT.load());
    // A window, not a level: a reader that is slow or stopped is not woken for every event.
    if waiting >= wake_at && waiting < wake_at + 16 * size_of::<Event>() as u64 {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
