//! A connection's changes from one state to the next, and retransmitted SYNs.

use tracer_common::{Kind, PortState};

use crate::{
    events, ledger,
    sock::{Address, cookie_of, port_of, state, state_of},
};

/// Whether a hook records or reports anything when a socket changes to this state.
#[inline(always)]
pub(crate) fn concerns(new: u8) -> bool {
    match new {
        state::SYN_SENT | state::CLOSE | state::LISTEN => true,
        _ => port_state(new).is_some() || events::wanted(Kind::TcpState),
    }
}

/// The ledger's state for this TCP state; `None`: it records no change. FIN_WAIT2 and CLOSING follow FIN_WAIT1, which is
/// [`PortState::Closing`] already.
#[inline(always)]
fn port_state(new: u8) -> Option<PortState> {
    match new {
        state::ESTABLISHED => Some(PortState::Established),
        state::CLOSE_WAIT => Some(PortState::CloseWait),
        state::FIN_WAIT1 | state::LAST_ACK => Some(PortState::Closing),
        _ => None,
    }
}

/// Records in the ledger that a socket changes to this state. True if there is nothing else to record or report.
#[inline(always)]
pub(crate) fn moved(sk: Address, cookie: u64, new: u8) -> bool {
    let Some(state) = port_state(new) else { return false };
    move_on(sk, cookie, state);
    let established = new == state::ESTABLISHED && events::wanted(Kind::ConnectEstablished);
    !established && !events::wanted(Kind::TcpState)
}

#[inline(always)]
fn move_on(sk: Address, cookie: u64, state: PortState) {
    let port = port_of(sk);
    if ledger::seeding() {
        ledger::mark_state(cookie, port, state as u32);
    }
    ledger::move_on(cookie, port, state as u32);
}

/// A segment of socket `sk` is retransmitted. In SYN_SENT it is the SYN: no answer has come.
#[inline(always)]
pub(crate) fn sent_again(sk: Address) {
    if state_of(sk) == state::SYN_SENT {
        let cookie = cookie_of(sk);
        if cookie != 0 {
            move_on(sk, cookie, PortState::Unanswered);
        }
    }
}
