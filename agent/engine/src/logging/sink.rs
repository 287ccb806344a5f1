//! Whereto lines are sent: one interface, made anew from the container's record whenever a connection is lost.

use super::{Forward, journald::Journald, otlp::Otlp, syslog::Syslog};
use crate::{engine::Shared, record::Record};
use async_trait::async_trait;
use muster_runtime::logs::Entry;

/// What stopped a send, and how many lines had been taken before.
#[derive(Debug)]
pub(super) struct Stopped {
    pub sent: usize,
    pub reason: String,
}

/// A receiver of lines.
#[async_trait]
pub(super) trait Sink: Send {
    /// Sends lines in order. May be dropped half-way: some lines may then be sent again.
    ///
    /// # Errors
    /// [`Stopped`]: the rest is to be sent again, by this sink, which connects anew.
    async fn send(&mut self, lines: &[Entry]) -> Result<(), Stopped>;
}

/// The sink of a container.
///
/// # Errors
/// Words about what is not configured.
pub(super) fn open(shared: &Shared, record: &Record, forward: &Forward) -> Result<Box<dyn Sink>, String> {
    Ok(match forward {
        Forward::Syslog(settings) => Box::new(Syslog::new(settings.clone(), record, &shared.config.name)),
        Forward::Journald => Box::new(Journald::new(&shared.config.journal_socket, record, &shared.config.name)),
        Forward::Otlp(endpoint) => Box::new(Otlp::new(shared, record, endpoint.as_deref())?),
    })
}
