//! `room::*`: what a tuple holds and what it can hold differ by exactly as many connect() calls as the kernel grants.

mod hall;

use anyhow::Result;
use hall::{ADDRESSES, Hall};

use super::{BackendTest, Case, Plan};

pub fn cases(plan: &Plan) -> Vec<Case> {
    let tests: &[BackendTest] = &[("own_ports", own_ports), ("none_at_all", none_at_all)];
    plan.sampled("room", tests)
}

/// Case of a proxy that binds its sockets itself: half of the range is half, all of it is all.
fn own_ports(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    for half in 1..=2_u64 {
        for _ in 0..100 {
            hall.connect_bound(ADDRESSES[0], 0, 0)?;
        }
        hall.compare()?;
        hall.expect(ADDRESSES[0], 0, half * 100, 200)?;
    }
    // Ports that are none of the range take none of its room.
    hall.close_all();
    for port in 30_000..30_050 {
        hall.connect_bound(ADDRESSES[0], port, 0)?;
    }
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 50, 250)
}

/// Every port is reserved, or bound: 0 of 0 is full, not unknown.
fn none_at_all(backend: &str) -> Result<()> {
    let mut hall = Hall::new(backend)?;
    hall.set_range("40000 40015")?;
    hall.reserve("40000-40999")?;
    hall.refuse(ADDRESSES[0], 0)?;
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 0, 0)?;
    hall.expect_taken(ADDRESSES[0], 0, (16, 0))?;
    hall.reserve("40000-40007")?;
    for port in 40_008..40_016 {
        hall.listen("0.0.0.0", port)?;
    }
    hall.compare()?;
    hall.expect(ADDRESSES[0], 0, 0, 0)?;
    hall.expect_taken(ADDRESSES[0], 0, (8, 8))
}
