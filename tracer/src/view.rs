//! What `tracer top` and `tracer replay` show: a terminal's picture of the ledger, now or at a time of
//! a recording.
//!
//! [`reading`] is what comes in. [`tuple_history`] keeps what each tuple did of late, [`forecast`] says how long
//! it still goes. [`model`] is everything on the screen, [`update`] changes it, `render` draws it: only
//! `terminal` touches a terminal.

pub mod failures;
pub mod filter;
pub mod forecast;
pub mod forecasts;
pub mod group;
mod history;
pub mod input;
pub mod keys;
pub mod layout;
pub mod model;
pub mod reading;
pub mod render;
pub mod screen;
pub mod source;
pub mod terminal;
pub mod theme;
pub mod tuple_forecast;
pub mod update;

pub mod time_input;
pub mod tuple_history;
