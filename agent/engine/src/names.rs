//! Names of containers: what is a valid one, and made-up ones for those who give none.

use rand::Rng;

/// A made-up name; `attempt` above zero adds digits, so that a loop over attempts ends.
pub fn invent(attempt: u32) -> String {
    let mut rng = rand::rng();
    let name = muster_model::names::from_number(rng.random());
    match attempt {
        0 => name,
        n => format!("{name}{}", rng.random_range(0..10u64.saturating_pow(n.min(12)))),
    }
}

/// 64 hexadecimal digits that no other object has. Never all decimal in the first 12, which a shell table might take for a
/// number.
pub fn new_id() -> String {
    loop {
        let id = hex::encode(rand::rng().random::<[u8; 32]>());
        if id[..12].bytes().any(|c| c.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// The first 12 digits of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether this can name a container: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() > 1
        && bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// Whether this can name a network or volume: as a container's name, and one letter is enough.
pub fn is_valid_object(name: &str) -> bool {
    is_valid(name) || (name.len() == 1 && name.as_bytes()[0].is_ascii_alphanumeric())
}

/// Whether this looks like a short id, what [`short`] makes of one.
pub fn is_short(text: &str) -> bool {
    text.len() == 12 && is_hex(text)
}

/// Whether this looks like an id or the beginning of one.
pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_are_valid_and_ids_are_64_hex_digits() {
        for attempt in 0..20 {
            let name = invent(attempt);
            assert!(is_valid(&name), "{name}");
        }
        let id = new_id();
        assert!(is_hex(&id) && id.len() == 64);
        assert_ne!(id, new_id());
    }

    #[test]
    fn names_with_slashes_spaces_or_one_letter_are_refused() {
        for bad in ["", "a", "-ab", ".x", "a b", "a/b", "ä-b", "ab\n"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(is_valid("web.1.x_y-z"));
    }
}
