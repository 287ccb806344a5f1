//! Reading ahead on a thread of its own: while one processor decompresses, another digests and writes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces that may wait: 1 MiB for each layer being unpacked.
const QUEUE: usize = 4;

/// A reader whose bytes were read on another thread.
pub(crate) struct Ahead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Buffers go back to be filled again.
    used: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    over: bool,
}

/// Reads `source` on a thread of `scope`, until its end or until what is returned is dropped.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn ahead<'scope>(scope: &'scope Scope<'scope, '_>, source: impl Read + Send + 'scope) -> io::Result<Ahead> {
    let (sender, pieces) = sync_channel(QUEUE);
    let (used, free) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("image-decode".into());
    thread.spawn_scoped(scope, move || read_all(source, &sender, &free))?;
    Ok(Ahead { pieces, used, piece: Vec::new(), at: 0, over: false })
}

fn read_all(mut source: impl Read, pieces: &SyncSender<io::Result<Vec<u8>>>, free: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = free.try_recv().unwrap_or_default();
        piece.clear();
        piece.reserve_exact(PIECE);
        let read = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = !matches!(read, Ok(PIECE));
        // What came before an error counts too: the error may be that more came than is allowed.
        if !piece.is_empty() && pieces.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = read {
            // Nobody reads any more: then the error is nobody's.
            let _ = pieces.send(Err(error));
            return;
        }
        if last {
            return;
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.at == self.piece.len() {
            if self.over {
                return Ok(0);
            }
            // A full queue of used buffers has enough of them.
            let _ = self.used.try_send(std::mem::take(&mut self.piece));
            self.at = 0;
            match self.pieces.recv() {
                Ok(Ok(piece)) => self.piece = piece,
                Ok(Err(error)) => {
                    self.over = true;
                    return Err(error);
                }
                Err(_) => self.over = true,
            }
        }
        let read = buffer.len().min(self.piece.len() - self.at);
        buffer[..read].copy_from_slice(&self.piece[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("broken"));
            }
            let read = buffer.len().min(self.0);
            buffer[..read].fill(7);
            self.0 -= read;
            Ok(read)
        }
    }

    #[test]
    fn the_bytes_and_the_error_come_in_order() {
        let plain: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        std::thread::scope(|scope| {
            let mut all = Vec::new();
            let mut reader = ahead(scope, Failing(1_000_001)).expect("a thread");
            let error = reader.read_to_end(&mut all).expect_err("it fails at its end");
            assert_eq!((all.len(), error.to_string().as_str()), (1_000_001, "broken"));
            all.clear();
            ahead(scope, &plain[..]).and_then(|mut reader| reader.read_to_end(&mut all)).expect("it reads");
            assert!(all == plain);
        });
    }

    #[test]
    fn a_reader_that_goes_early_stops_the_thread() {
        std::thread::scope(|scope| drop(ahead(scope, io::repeat(1)).expect("a thread")));
    }
}
