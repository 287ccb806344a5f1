//! Changing inputs: bits, bytes, numbers, pieces cut out, doubled, taken from other inputs, words that matter to the parser.

use crate::Random;

/// Longest input that is made.
const LONGEST: usize = 64 << 10;
/// Numbers at which parsers go wrong.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "0.1",
    "00",
    "77777777777",
];
/// Bytes at which parsers go wrong.
const BYTES: &[u8] =
    &[0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'/', b'.', b':', b'@', b'{', b'}', b'[', b']', b',', b'\n', b' ', b'%'];

/// Changes `input` in one to eight places.
pub(crate) fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], random: &mut Random) {
    for _ in 0..=random.below(8) {
        change(input, others, words, random);
    }
    input.truncate(LONGEST);
}

fn change(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = (1 + random.below(16)).min(input.len() - at);
    match random.below(10) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.number() as u8,
        2 => insert(input, at, &[*random.pick(BYTES)]),
        3 => drop(input.drain(at..at + length)),
        4 => {
            let piece = input[at..at + length].to_vec();
            (0..=random.below(64)).for_each(|_| insert(input, at, &piece));
        }
        5 if !words.is_empty() => insert(input, at, random.pick(words).as_bytes()),
        6 if !words.is_empty() => replace(input, at, length, random.pick(words).as_bytes()),
        7 => replace_number(input, at, random),
        8 if !others.is_empty() => {
            let other = random.pick(others);
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            insert(input, at, &other[from..to]);
        }
        9 => input.truncate(at),
        _ => insert(input, at, &[random.number() as u8]),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if input.len() + bytes.len() <= LONGEST {
        input.splice(at..at, bytes.iter().copied());
    }
}

fn replace(input: &mut Vec<u8>, at: usize, length: usize, bytes: &[u8]) {
    input.splice(at..at + length, bytes.iter().copied());
}

/// The next digits behind `at` become another number.
fn replace_number(input: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else { return };
    let end = input[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(input.len(), |end| start + end);
    replace(input, start, end - start, random.pick(NUMBERS).as_bytes());
}

/// Makes the checksums of what looks like tar headers right again, so that what is behind them is reached.
#[expect(clippy::ptr_arg, reason = "a repair may change the length")]
pub fn repair_tar(input: &mut Vec<u8>) {
    for block in input.chunks_exact_mut(512) {
        let looks = block[257..262] == *b"ustar" || block[100..107].iter().all(|b| matches!(b, b'0'..=b'7' | 0 | b' '));
        if !looks || block.iter().all(|byte| *byte == 0) {
            continue;
        }
        let sum: u32 =
            block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Gives the head of an HTTP request the line ends, the wish for an end and the length of what follows it that HTTP asks for.
pub fn repair_http(input: &mut Vec<u8>) {
    let text = std::mem::take(input);
    let (head, body) = match text.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&text[..end], &text[end + 2..]),
        None => (&text[..], &[][..]),
    };
    for line in
        head.split(|byte| *byte == b'\n').filter(|line| !line.to_ascii_lowercase().starts_with(b"content-length:"))
    {
        input.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        input.extend_from_slice(b"\r\n");
    }
    if !String::from_utf8_lossy(head).to_ascii_lowercase().contains("upgrade") {
        // So that the end of the answer is seen at once.
        input.extend_from_slice(b"Connection: close\r\n");
    }
    input.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    input.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let made = |seed| {
            let (mut input, mut random) = (b"{\"a\":12}".to_vec(), Random::new(seed));
            mutate(&mut input, &[b"other".to_vec()], &["word"], &mut random);
            input
        };
        assert_eq!(made(3), made(3));
        assert!((0..50).any(|seed| made(seed) != made(seed + 50)));
    }

    #[test]
    fn a_request_is_given_its_length() {
        let mut request = b"POST /x HTTP/1.1\nHost: d\nContent-Length: 99\n\n{}".to_vec();
        repair_http(&mut request);
        assert_eq!(request, b"POST /x HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
    }
}
