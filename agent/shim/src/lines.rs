//! Cutting a stream of bytes into the pieces that log entries carry: lines with their newline, and pieces of 16 KiB of lines
//! that are longer, as Docker has it.

/// Most bytes of a line in one entry.
pub const MAX_LINE: usize = 16 * 1024;

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes in and gives every piece that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut piece: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let (len, whole) = match window.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (part, rest) = bytes.split_at(len);
            bytes = rest;
            if !whole {
                self.partial.extend_from_slice(part);
            } else if self.partial.is_empty() {
                self.emit(part, &mut piece);
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(part);
                self.emit(&line, &mut piece);
            }
        }
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self, mut piece: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            piece(&std::mem::take(&mut self.partial));
        }
    }

    /// A piece that was cut for its length is cut between characters: the rest begins the next piece.
    fn emit(&mut self, line: &[u8], piece: &mut impl FnMut(&[u8])) {
        let keep = if line.ends_with(b"\n") { 0 } else { begun_character(line) };
        let (whole, rest) = line.split_at(line.len() - keep);
        piece(whole);
        self.partial.extend_from_slice(rest);
    }
}

/// Length of an incomplete UTF-8 character at the end of `bytes`.
fn begun_character(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let need = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if need > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut pieces) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |piece| pieces.push(piece.to_vec()));
        }
        lines.finish(|piece| pieces.push(piece.to_vec()));
        pieces
    }

    #[test]
    fn lines_are_whole_however_the_bytes_arrive() {
        assert_eq!(cut(&[b"a\nbc", b"d\n\ne"]), [b"a\n".to_vec(), b"bcd\n".to_vec(), b"\n".to_vec(), b"e".to_vec()]);
        assert!(cut(&[b""]).is_empty());
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_sixteen_kib_of_which_the_last_has_the_newline() {
        let mut text = vec![b'x'; 40_000];
        text.push(b'\n');
        let pieces = cut(&[&text[..20_000], &text[20_000..]]);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 40_001 - 2 * MAX_LINE]);
        assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn a_long_line_is_not_cut_within_a_character() {
        let text = "ä€😀".repeat(5000);
        let pieces = cut(&[text.as_bytes()]);
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
        assert_eq!(pieces.concat(), text.as_bytes());
    }
}
