//! The screens of `tracer top` and `tracer replay`: the ledger, now or at a time of a recording.
//!
//! [`reading`] is one reading of the ledger, which a [`source`] gives. [`tuple_history`] keeps the recent past of each tuple,
//! [`forecast`] says how long until its ports run out. [`answers`] says what is wrong and what to do. [`model`] is everything on
//! the screen, [`update`] changes it, [`render`] draws it. Only [`screen`] and [`terminal`] do I/O. The other modules serve
//! these.

pub mod answers;
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
