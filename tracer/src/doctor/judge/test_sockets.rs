//! For tests: sockets as the kernel lists them, and what a namespace with them is.

use tracer_common::Addr;

use crate::{
    doctor::{
        finding::Place,
        tuples::{Settings, Tuples, tuples},
    },
    host::{
        capacity::{PortRange, Reuse},
        sockdiag::{DiagSocket, tcp_state},
    },
};

pub(super) const HERE: Addr = Addr::v4([10, 0, 0, 1]);
pub(super) const THERE: Addr = Addr::v4([10, 0, 1, 1]);
pub(super) const ANY: Addr = Addr::v4([0; 4]);

/// A connection of 10.0.0.1 to port 80 of 10.0.1.1 from this port, in this state.
pub(super) fn connection(state: u8, port: u16) -> DiagSocket {
    let socket = DiagSocket::between(state, (HERE, port), (THERE, 80));
    DiagSocket { cookie: port.into(), inode: 0, ..socket }
}

/// A SYN from this address and port, sent again.
pub(super) fn unanswered(source: Addr, port: u16) -> DiagSocket {
    DiagSocket { source, sent_again: 1, ..connection(tcp_state::SYN_SENT, port) }
}

/// A listener whose queue has this many of so many connections.
pub(super) fn listener(source: Addr, port: u16, queue: u32, longest: u32) -> DiagSocket {
    DiagSocket {
        source,
        destination: ANY,
        destination_port: 0,
        inode: port.into(),
        receive_queue: queue,
        send_queue: longest,
        ..connection(tcp_state::LISTEN, port)
    }
}

/// A socket that bind() gave this port, and no more.
pub(super) fn bound(port: u16, inode: u32) -> DiagSocket {
    let any = DiagSocket {
        source: ANY,
        destination: ANY,
        destination_port: 0,
        ..connection(tcp_state::CLOSE, port)
    };
    DiagSocket { inode, ..any }
}

/// A range without reserved ports; TIME_WAITs are not reused.
pub(super) fn settings(low: u16, high: u16) -> Settings {
    let range = PortRange { low, high, reserved: Vec::new() };
    Settings { range, reuse: Reuse { setting: 0, delay_ms: None, timestamps: true } }
}

pub(super) fn tuples_of(settings: &Settings, sockets: &[DiagSocket]) -> Tuples {
    tuples(sockets, settings)
}

/// The namespace of this process.
pub(super) fn own() -> Place {
    Place { inum: 1, own: true, ..Place::default() }
}
