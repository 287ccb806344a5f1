//! Memory that was only needed to start, or to become a member.

use std::{fs, sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long after a change the daemon has settled: sessions are open, containers are taken up.
const SETTLED: Duration = Duration::from_secs(10);

/// Has the allocator return what a burst has taken: the thresholds that it would raise by itself after the first large buffer
/// are fixed, and threads share few arenas. To be called before the first thread.
///
/// Source: mallopt(3).
pub fn tune() {
    const LARGE: i32 = 256 * 1024;
    // SAFETY: no preconditions but that no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}

/// Gives memory back some time after the start and after each `change`, until `stop`.
pub async fn keep_small(change: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SETTLED) => give_back(),
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = change.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Gives back what starting has brought into memory and running does not need: the pages of the program's own text and
/// constants (they stay in the page cache; what is used again is mapped again, without reading), and what the allocator
/// holds free. Reading configuration, loading kernel programs, making keys and taking up containers touch most of the program
/// once; an idle daemon touches a third of it.
///
/// Source: madvise(2), MADV_DONTNEED of a private file mapping that was never written; malloc_trim(3).
fn give_back() {
    let Ok(exe) = fs::read_link("/proc/self/exe") else { return };
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    let exe = exe.to_string_lossy();
    for (from, to) in maps.lines().filter_map(|line| constant(line, &exe)) {
        // SAFETY: the range is a whole mapping of this program's file without write permission, taken from the kernel's
        // own list; nothing unmaps it while the program runs, and its pages read the same after they are dropped.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    }
    // SAFETY: no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// The range of a line of `/proc/self/maps` whose bytes are the file's: text, and constants before it. What lies behind the
/// text with the same permissions (RELRO) was written by the dynamic linker and is not.
fn constant(line: &str, exe: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let path = fields.nth(2)?;
    let first = offset.bytes().all(|c| c == b'0');
    let wanted = permissions == "r-xp" || (permissions == "r--p" && first);
    if !wanted || path != exe {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_itself_says_is_given_back() {
        let line = |permissions, offset, path| format!("1000-3000 {permissions} {offset} fe:00 77   {path}");
        assert_eq!(constant(&line("r-xp", "00010000", "/bin/x"), "/bin/x"), Some((0x1000, 0x3000)));
        assert_eq!(constant(&line("r--p", "00000000", "/bin/x"), "/bin/x"), Some((0x1000, 0x3000)));
        assert_eq!(constant(&line("r--p", "00020000", "/bin/x"), "/bin/x"), None, "relocated data");
        assert_eq!(constant(&line("rw-p", "00030000", "/bin/x"), "/bin/x"), None);
        assert_eq!(constant(&line("r-xp", "00000000", "/lib/libc.so"), "/bin/x"), None);
        assert_eq!(constant("7ff0-7ff1 rw-p 00000000 00:00 0", "/bin/x"), None);
    }

    #[test]
    fn the_program_goes_on_after_it() {
        let table: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        give_back();
        assert_eq!(table.iter().filter(|l| l.ends_with('7')).count(), 100);
    }
}
