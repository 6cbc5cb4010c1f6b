//! Implements aya's `Pod` for the types of this crate, so that userspace can read and write them as values of BPF maps and rings.
#![expect(unsafe_code, reason = "aya's Pod is an unsafe trait")]

use aya::Pod;

use crate::{
    Attempt, Bound, Conn, ConnKey, Event, Filter, Rule, Touched, TupleCount, TupleKey,
    seed::Command, share::Share, spread::DecisionRecord,
};

macro_rules! pod {
    ($($type:ty),+) => {
        $(
            // SAFETY: repr(C) integers and byte arrays without implicit padding (asserted by
            // the size next to the type), so every bit pattern is a valid value.
            unsafe impl Pod for $type {}
        )+
    };
}

pod!(
    Attempt,
    Bound,
    Command,
    Conn,
    ConnKey,
    Event,
    Filter,
    Rule,
    Share,
    DecisionRecord,
    Touched,
    TupleCount,
    TupleKey
);
