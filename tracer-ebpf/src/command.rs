//! `ledger_command`: applies changes to the ledger that userspace requests, so that only BPF code
//! changes counts. It is never attached: userspace runs it with BPF_PROG_TEST_RUN.

use core::ffi::c_void;

use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::debug;
use tracer_common::{
    Bound, Conn, Who, conn_flag,
    seed::{COMMAND_WORDS, Command, Op},
};

use crate::{
    attempt::now,
    bind, filter,
    ledger::{self, Mark},
    share,
    skip::{Step, settle},
    touched,
};

/// Runs the command in the words of `ctx`; returns 1 or 0, as [`Command`] says.
///
/// The entry point is written by hand, because `#[raw_tracepoint]` of aya-ebpf-macros 0.2 discards the
/// function's result and returns 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
extern "C" fn ledger_command(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let mut words = [0_u64; COMMAND_WORDS];
    let mut index = 0;
    while index < COMMAND_WORDS {
        words[index] = ctx.arg(index);
        index += 1;
    }
    // SAFETY: both are 96 bytes, and every bit pattern is a valid `Command`.
    let command: Command = unsafe { core::mem::transmute(words) };
    let changed = run(&command);
    debug!(&ctx, "command {} on cookie {}: {}", command.op, command.key.cookie, u32::from(changed));
    u32::from(changed)
}

#[inline(always)]
fn run(command: &Command) -> bool {
    const ADD_CONN: u32 = Op::AddConn as u32;
    const REMOVE_CONN: u32 = Op::RemoveConn as u32;
    const ADD_BOUND: u32 = Op::AddBound as u32;
    const REMOVE_BOUND: u32 = Op::RemoveBound as u32;
    const REMOVE_TUPLE: u32 = Op::RemoveTuple as u32;
    const MARK_TIME_WAIT: u32 = Op::MarkTimeWait as u32;
    const LEAVE_OUT: u32 = Op::LeaveOut as u32;
    const FORGIVE: u32 = Op::Forgive as u32;
    const DOOM_TUPLE: u32 = Op::DoomTuple as u32;
    const CORRECT_TUPLE: u32 = Op::CorrectTuple as u32;
    const SET_STATE: u32 = Op::SetState as u32;
    const SET_APART: u32 = Op::SetApart as u32;
    const CORRECT_FAST: u32 = Op::CorrectFast as u32;
    const REMOVE_TOUCHED: u32 = Op::RemoveTouched as u32;
    match command.op {
        ADD_CONN => add_conn(command),
        REMOVE_CONN => ledger::release(&command.key, now()).is_ok(),
        ADD_BOUND => add_bound(command),
        REMOVE_BOUND => bind::remove(&command.key),
        REMOVE_TUPLE => ledger::forget(&command.tuple, command.before_ns),
        DOOM_TUPLE => ledger::doom(&command.tuple, command.before_ns),
        CORRECT_TUPLE => ledger::correct(&command.tuple, &command.correction()).unwrap_or(false),
        SET_STATE => ledger::set_state(&command.key, command.user, command.flags),
        SET_APART => ledger::set_apart(&command.key, command.flags != 0),
        CORRECT_FAST => bind::correct_fast(command.user, command.flags),
        REMOVE_TOUCHED => touched::remove(command.key.cookie, command.before_ns, command.user),
        MARK_TIME_WAIT => ledger::time_wait(&command.key, 0, now()).is_some(),
        FORGIVE => ledger::forgive(&command.tuple),
        LEAVE_OUT => ledger::leave_out(&command.tuple, command.flags, now()),
        _ => false,
    }
}

#[inline(always)]
fn owner(command: &Command) -> Who {
    Who { cgroup: 0, pid: command.pid, tid: 0, comm: command.comm }
}

/// Adds a socket that is older than the tracer; true if it is counted now. A hook that ran before this left a mark, a
/// hook that runs after it finds the entry, and one in between does either: the port is counted exactly while it is held.
#[inline(always)]
fn add_conn(command: &Command) -> bool {
    let watched =
        filter::passes_unknown_caller(command.tuple.netns) && filter::passes_tuple(&command.tuple);
    let now = now();
    let conn = Conn {
        tuple: command.tuple,
        who: owner(command),
        begun_ns: 0,
        acquired_ns: now,
        flags: command.flags | conn_flag::SEEDED | if watched { conn_flag::WATCHED } else { 0 },
        owner: share::owner(command.tuple.netns, command.user),
    };
    if !report(ledger::add_older(&command.key, &conn)) {
        return false;
    }
    if ledger::is_marked(&command.key, Mark::Released) {
        return ledger::release(&command.key, now).is_err();
    }
    if ledger::is_marked(&command.key, Mark::TimeWait) {
        ledger::time_wait(&command.key, 0, now);
    } else if let Some(state) = ledger::marked_state(&command.key) {
        ledger::move_on(command.key.cookie, command.key.port, state);
    }
    true
}

/// Whether the step succeeded. A loss is counted only while the sockets that are older than the tracer are being read: later
/// commands are for ports whose loss a hook has counted, and userspace repeats them.
#[inline(always)]
fn report(step: Step) -> bool {
    if ledger::seeding() {
        settle(step);
    }
    step.is_ok()
}

/// Adds a listener or a bound socket that is older than the tracer; true if it is in BOUND_PORTS now. As for [`add_conn`], an entry
/// whose socket a hook has marked is removed again.
#[inline(always)]
fn add_bound(command: &Command) -> bool {
    let bound = Bound {
        place: command.tuple,
        who: owner(command),
        acquired_ns: now(),
        flags: command.flags | conn_flag::SEEDED,
        owner: share::owner(command.tuple.netns, command.user),
    };
    let added = report(bind::add(&command.key, &bound));
    // Only if it was added: userspace repeats the command while there is no room, and each repetition would renew the port's
    // time in TOUCHED, or count one more loss.
    if added {
        touched::note(&bound, command.key.port);
    }
    if added && ledger::seeding() && ledger::is_marked_unbound(&command.key) {
        return !bind::remove(&command.key);
    }
    added
}
