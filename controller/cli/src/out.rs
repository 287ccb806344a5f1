//! What is said: to standard output and to standard error. A reader that has seen enough, as in `muster ps | head`, ends the
//! command without a word, as the signal SIGPIPE ends others.

use std::{
    fmt,
    io::{self, Write},
};

/// What a command ends with that SIGPIPE has ended.
const NO_READER: i32 = 128 + 13;

/// A line to standard output, as `println!` makes it.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::out::line(format_args!($($words)*)) };
}

/// A line to standard error, as `eprintln!` makes it.
#[macro_export]
macro_rules! complain {
    ($($words:tt)*) => { $crate::out::warning(format_args!($($words)*)) };
}

pub fn line(words: fmt::Arguments<'_>) {
    let mut text = words.to_string();
    text.push('\n');
    write(text.as_bytes());
}

/// Standard error is nobody's reader: what cannot be said there is not said.
pub fn warning(words: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{words}");
}

/// Bytes to standard output, at once. Where it cannot take them, the command ends.
pub fn write(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(bytes).and_then(|()| out.flush()) {
        give_up(&e);
    }
}

/// Bytes to standard error, at once: what a command elsewhere says there.
pub fn write_err(bytes: &[u8]) {
    let mut err = io::stderr().lock();
    if let Err(e) = err.write_all(bytes).and_then(|()| err.flush()) {
        give_up(&e);
    }
}

/// The terminal is put back first.
fn give_up(error: &io::Error) -> ! {
    crate::terminal::restore();
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(NO_READER);
    }
    warning(format_args!("Error: the output cannot be written: {error}"));
    std::process::exit(1);
}
