//! A connection that goes on from one state to the next.

use tracer_common::{Kind, PortState};

use crate::{
    events, ledger,
    sock::{Address, cookie_of, port_of, state, state_of},
};

/// Whether anything is to be done when a socket changes to this state.
#[inline(always)]
pub(crate) fn concerns(new: u8) -> bool {
    match new {
        state::SYN_SENT | state::CLOSE | state::LISTEN => true,
        _ => port_state(new).is_some() || events::wanted(Kind::TcpState),
    }
}

/// What a change to this state means for the ledger. FIN_WAIT2 and CLOSING come after FIN_WAIT1, which means the same.
#[inline(always)]
fn port_state(new: u8) -> Option<PortState> {
    match new {
        state::ESTABLISHED => Some(PortState::Established),
        state::CLOSE_WAIT => Some(PortState::CloseWait),
        state::FIN_WAIT1 | state::LAST_ACK => Some(PortState::Closing),
        _ => None,
    }
}

/// Tells the ledger of a socket that changes to this state. True if nothing else is to be done then.
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

/// A segment is sent again; `sk` is its socket. It is the SYN while nothing has come back.
#[inline(always)]
pub(crate) fn sent_again(sk: Address) {
    if state_of(sk) == state::SYN_SENT {
        let cookie = cookie_of(sk);
        if cookie != 0 {
            move_on(sk, cookie, PortState::Unanswered);
        }
    }
}
