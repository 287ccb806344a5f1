//! The data plane on a real kernel: hosts are network namespaces joined by a bridge, containers are namespaces, and each
//! program that sends or receives is a process of its own.

mod actor;
mod attacks;
mod flood;
mod frames;
mod gateways;
mod ipv6;
mod lab;
mod lifecycle;
mod lost;
mod networks;
mod ports;
mod services;
