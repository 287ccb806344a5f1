//! The authority, and handshakes over real sockets on loopback.

mod authority;
mod handshakes;
mod harness;
