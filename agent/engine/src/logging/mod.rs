//! Where a container's output goes besides its file, and what its log options mean.
//!
//! Every log is written by the container's shim into a file that is rotated, whatever the driver: so the shim needs no daemon,
//! and `docker logs` works with every driver (Docker calls that file the driver's cache). For the drivers `syslog`, `journald`
//! and `otlp` one task per container ([`forward`]) reads that file and sends what it finds to the [`sink`].
//!
//! What happens when a sink is slow or away: the container never waits for it, and memory does not grow. With `mode=blocking`
//! (the default) the file is the buffer: what is sent lags behind, and lines that are rotated away before they were sent
//! (`cache-max-size` times `cache-max-file`, 100 MB by default) are lost to the sink. With `mode=non-blocking` at most
//! `max-buffer-size` bytes wait in memory; newer lines are dropped, and counted in the daemon's log. How far a log was sent
//! is kept on disk: a restart of the daemon loses no line and may send the last ones twice.
//!
//! For the drivers that are files (`json-file`, `local`) the file is all there is: both modes are the same.

mod attributes;
pub(crate) mod forward;
mod journald;
mod options;
mod otlp;
mod sink;
mod syslog;
mod tag;

pub(crate) use attributes::attributes;
pub(crate) use options::{Forward, Wanted};
pub use otlp::{ContainerLogs, LogLine, OtlpLogs, OtlpSender};
