//! Decodes a record of the ring buffer into an [`Event`]. Any bytes give an event or an error.

use tracer_common::{Addr, Cause, Event, Kind, PortBy, TupleKey};

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// There are this many bytes; an event has another number.
    #[error("a record of {0} bytes, expected {expected}", expected = size_of::<Event>())]
    Length(usize),
    /// This version does not know the kind of this number.
    #[error("unknown kind of event {0}")]
    Kind(u8),
    /// This version does not know this detail of an event of this kind.
    #[error("unknown detail {detail} of an event of kind {kind}")]
    Detail { kind: u8, detail: u8 },
}

/// Kind of an event, with the meaning of its `detail`: what took the port, or why the call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Typed {
    PortAllocated(PortBy),
    PortReleased,
    ConnectEstablished,
    ConnectFailed(Cause),
    BindFailed(Cause),
    TcpState,
}

/// The kind of an event, with the meaning of its detail.
///
/// # Errors
/// An unknown kind, or a detail that is unknown for this kind.
#[inline]
pub fn typed(event: &Event) -> Result<Typed, DecodeError> {
    let bad_detail = DecodeError::Detail { kind: event.kind, detail: event.detail };
    let cause = || Cause::from_wire(event.detail).ok_or(bad_detail);
    Ok(match Kind::from_wire(event.kind).ok_or(DecodeError::Kind(event.kind))? {
        Kind::PortAllocated => {
            Typed::PortAllocated(PortBy::from_wire(event.detail).ok_or(bad_detail)?)
        }
        Kind::PortReleased => Typed::PortReleased,
        Kind::ConnectEstablished => Typed::ConnectEstablished,
        Kind::ConnectFailed => Typed::ConnectFailed(cause()?),
        Kind::BindFailed => Typed::BindFailed(cause()?),
        Kind::TcpState => Typed::TcpState,
    })
}

/// Decodes one record of the ring buffer, in host byte order.
///
/// # Errors
/// A length other than that of [`Event`], an unknown kind, or an unknown detail: a [`Cause`] or a [`PortBy`].
#[inline]
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let bytes: &[u8; size_of::<Event>()] =
        record.try_into().map_err(|_| DecodeError::Length(record.len()))?;
    let mut fields = Fields(bytes);
    let event = Event {
        mono_ns: fields.u64(),
        seq: fields.u64(),
        cookie: fields.u64(),
        duration_ns: fields.u64(),
        cgroup: fields.u64(),
        tuple: TupleKey {
            source: Addr(fields.take()),
            destination: Addr(fields.take()),
            netns: fields.u32(),
            destination_port: fields.u16(),
            zero: fields.u16(),
        },
        pid: fields.u32(),
        tid: fields.u32(),
        comm: fields.take(),
        in_use: fields.u32(),
        time_wait: fields.u32(),
        cpu: fields.u16(),
        local_port: fields.u16(),
        errno: fields.u16(),
        kind: fields.u8(),
        detail: fields.u8(),
        old_state: fields.u8(),
        new_state: fields.u8(),
        flags: fields.u8(),
        zero: fields.take(),
    };
    typed(&event)?;
    Ok(event)
}

/// The bytes of a record that are not read yet.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeros past the end, which [`decode`] does not reach.
    #[inline]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    #[inline]
    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    #[inline]
    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    #[inline]
    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    #[inline]
    fn u8(&mut self) -> u8 {
        u8::from_ne_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    /// A record in which each byte is its own index, except those of the kind and the detail.
    fn numbered(kind: u8, detail: u8) -> [u8; 128] {
        let mut bytes = std::array::from_fn(|index| u8::try_from(index).unwrap());
        bytes[offset_of!(Event, kind)] = kind;
        bytes[offset_of!(Event, detail)] = detail;
        bytes
    }

    #[test]
    fn every_field_is_read_from_its_offset() {
        let bytes = numbered(Kind::ConnectFailed as u8, 0);
        let event = decode(&bytes).unwrap();
        let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let u16_at = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
        assert_eq!(event.mono_ns, u64_at(offset_of!(Event, mono_ns)));
        assert_eq!(event.seq, u64_at(offset_of!(Event, seq)));
        assert_eq!(event.cookie, u64_at(offset_of!(Event, cookie)));
        assert_eq!(event.duration_ns, u64_at(offset_of!(Event, duration_ns)));
        assert_eq!(event.cgroup, u64_at(offset_of!(Event, cgroup)));
        let tuple = offset_of!(Event, tuple);
        assert_eq!(event.tuple.source.0[..], bytes[tuple..tuple + 16]);
        assert_eq!(event.tuple.destination.0[..], bytes[tuple + 16..tuple + 32]);
        assert_eq!(event.tuple.netns, u32_at(tuple + offset_of!(TupleKey, netns)));
        let port = tuple + offset_of!(TupleKey, destination_port);
        assert_eq!(event.tuple.destination_port, u16_at(port));
        assert_eq!(event.pid, u32_at(offset_of!(Event, pid)));
        assert_eq!(event.tid, u32_at(offset_of!(Event, tid)));
        let comm = offset_of!(Event, comm);
        assert_eq!(event.comm[..], bytes[comm..comm + 16]);
        assert_eq!(event.in_use, u32_at(offset_of!(Event, in_use)));
        assert_eq!(event.time_wait, u32_at(offset_of!(Event, time_wait)));
        assert_eq!(event.cpu, u16_at(offset_of!(Event, cpu)));
        assert_eq!(event.local_port, u16_at(offset_of!(Event, local_port)));
        assert_eq!(event.errno, u16_at(offset_of!(Event, errno)));
        assert_eq!(event.old_state, bytes[offset_of!(Event, old_state)]);
        assert_eq!(event.new_state, bytes[offset_of!(Event, new_state)]);
        assert_eq!(event.flags, bytes[offset_of!(Event, flags)]);
    }

    #[test]
    fn what_is_not_an_event_is_refused_by_what_is_wrong_with_it() {
        assert_eq!(decode(&[]), Err(DecodeError::Length(0)));
        assert_eq!(decode(&[1; 129]), Err(DecodeError::Length(129)));
        assert_eq!(decode(&numbered(0, 0)), Err(DecodeError::Kind(0)));
        assert_eq!(decode(&numbered(7, 0)), Err(DecodeError::Kind(7)));
        let detail = |kind, detail| Err(DecodeError::Detail { kind, detail });
        assert_eq!(decode(&numbered(1, 5)), detail(1, 5));
        assert_eq!(decode(&numbered(4, 15)), detail(4, 15));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_event_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..8,
        ) {
            let mut record = bytes.clone();
            record.resize(128, 0);
            record[offset_of!(Event, kind)] = kind;
            prop_assert_eq!(decode(&bytes).is_ok() && bytes.len() != 128, false);
            if let Ok(event) = decode(&record) {
                prop_assert_eq!(typed(&event).is_ok(), true);
            }
        }
    }
}
