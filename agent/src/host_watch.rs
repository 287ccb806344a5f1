//! Waits for the host's addresses and ways out to change, and says so. Nothing is polled.

use muster_ebpf_net::Watch;
use std::io;
use tokio::io::{Interest, unix::AsyncFd};

/// Calls `changed` after each change until it answers that nobody listens any more.
///
/// # Errors
/// When the kernel takes the socket away.
pub async fn run<F: Future<Output = bool>>(watch: Watch, mut changed: impl FnMut() -> F) -> io::Result<()> {
    // SAFETY: a Watch owns its socket, gives its descriptor only, and keeps it open until it is dropped, which is when the
    // AsyncFd that it moves into is.
    let mut watch = unsafe { AsyncFd::register_with_interest(watch, Interest::READABLE) }?;
    loop {
        let mut ready = watch.readable_mut().await?;
        let concerns = ready.get_inner_mut().changed()?;
        ready.clear_ready(); // everything was taken
        if concerns && !changed().await {
            return Ok(());
        }
    }
}
