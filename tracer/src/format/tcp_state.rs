//! Names TCP states.

/// The name of a TCP state (include/net/tcp_states.h), as OpenTelemetry's `network.connection.state` has it. Two are not
/// there: `bound_inactive` (TCP_BOUND_INACTIVE, Linux 6.8) and `unknown`, for a number that is no state.
pub const fn state(number: u8) -> &'static str {
    match number {
        1 => "established",
        2 => "syn_sent",
        // 12 is TCP_NEW_SYN_RECV: the same state, of a request socket (while the handshake is not complete).
        3 | 12 => "syn_received",
        4 => "fin_wait_1",
        5 => "fin_wait_2",
        6 => "time_wait",
        7 => "closed",
        8 => "close_wait",
        9 => "last_ack",
        10 => "listen",
        11 => "closing",
        13 => "bound_inactive",
        _ => "unknown",
    }
}
