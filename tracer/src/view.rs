//! What `tracer top` and `tracer replay` show: a terminal's picture of the ledger, now or at a time of
//! a recording.

pub mod reading;
