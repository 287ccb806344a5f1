//! What the shim and those who talk to it agree on: the socket protocol ([`wire`]), the exit record ([`record`]) and the time of log lines ([`clock`]).
//!
//! The shim itself is the binary of this crate. It outlives upgrades of the daemon, so both formats are versioned and a
//! newer daemon must go on speaking every version that it ever shipped with.

#![forbid(unsafe_code)]

pub mod clock;
pub mod record;
pub mod wire;
