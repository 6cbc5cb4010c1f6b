//! Any event that the kernel side could send, and many that it could not.

use std::mem::offset_of;

use proptest::prelude::*;
use tracer_common::{Addr, Event, TupleKey};

/// IPv4 and IPv6 addresses; often one of the unspecified ones (`::`, `0.0.0.0`), for which the writer has rules of its own.
pub(crate) fn any_address() -> impl Strategy<Value = Addr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(Addr::v4),
        any::<[u8; 16]>().prop_map(Addr),
        Just(Addr::UNSPECIFIED),
        Just(Addr::v4([0; 4])),
    ]
}

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), Just(0)]
}

prop_compose! {
    /// An event of any bytes, with a kind that is mostly known, ports, process and cookie that are often 0, and an errno that is often
    /// below 140.
    pub(crate) fn any_event()(
        mut bytes in prop::collection::vec(any::<u8>(), 128),
        kind in 0_u8..8, detail in 0_u8..16, small_errno in 0_u16..140,
        source in any_address(), destination in any_address(),
        port in any_port(), local_port in any_port(),
        zeros in any::<[bool; 3]>(), comm in prop::option::of("[ -~]{0,16}"), old_state in 0_u8..15,
    ) -> Vec<u8> {
        let mut put = |at: usize, field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
        };
        let tuple = offset_of!(Event, tuple);
        put(offset_of!(Event, kind), &[kind]);
        put(offset_of!(Event, detail), &[detail]);
        put(offset_of!(Event, old_state), &[old_state]);
        put(tuple + offset_of!(TupleKey, source), &source.0);
        put(tuple + offset_of!(TupleKey, destination), &destination.0);
        put(tuple + offset_of!(TupleKey, destination_port), &port.to_ne_bytes());
        put(offset_of!(Event, local_port), &local_port.to_ne_bytes());
        if zeros[0] {
            put(offset_of!(Event, pid), &[0; 4]);
        }
        if zeros[1] {
            put(offset_of!(Event, cookie), &[0; 8]);
        }
        if zeros[2] {
            put(offset_of!(Event, errno), &small_errno.to_ne_bytes());
        }
        if let Some(comm) = comm {
            put(offset_of!(Event, comm), comm.as_bytes());
        }
        bytes
    }
}
