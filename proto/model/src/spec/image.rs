//! Names of images, as far as a service is refused for one that can never be pulled.

use super::Invalid;

/// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, by the grammar of the OCI distribution specification ("Pulling manifests"): what a
/// name is made of. Whether there is such an image says its registry.
///
/// # Errors
/// Names `field`.
pub fn check_image(field: &str, image: &str) -> Result<(), Invalid> {
    if is_name(image) {
        return Ok(());
    }
    let shown: String = image.chars().take(80).collect();
    Err(Invalid::new(field, format!("{shown:?} is no name of an image: expected [HOST[:PORT]/]PATH[:TAG][@DIGEST]")))
}

fn is_name(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name[last..].split_once(':') {
        Some((base, tag)) => (&name[..last + base.len()], Some(tag)),
        None => (name, None),
    };
    let word = |text: &str, other: &[u8]| {
        !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || other.contains(&c))
    };
    let mut parts = name.split('/');
    // The first of several is a host where no path could be one.
    let first = parts.clone().next().filter(|first| name.contains('/') && !path(first));
    if first.is_some() {
        parts.next();
    }
    first.is_none_or(|host| word(host, b".-:[]"))
        && parts.all(path)
        && tag.is_none_or(|tag| tag.len() <= 128 && word(tag, b"_.-"))
        && digest.is_none_or(|digest| {
            digest.split_once(':').is_some_and(|(kind, hex)| word(kind, b"+._-") && word(hex, b"=_-"))
        })
}

fn path(part: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
    edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_pulled_pass_and_others_are_refused() {
        let hex = "a".repeat(64);
        for good in [
            "busybox",
            "nginx:1.27",
            "library/nginx@sha256:abc",
            "localhost:5000/a/b_c:Tag-1",
            "[fd00::1]:5000/web:1",
            "Registry/web",
            &format!("sha256:{hex}"),
            &hex,
        ] {
            assert!(check_image("Image", good).is_ok(), "{good}");
        }
        for bad in
            ["", "Not An Image", "UPPER", "a//b", "/a", "a:", "a:b c", "-a", "host:5000/", "a@", "a@x", "ü", "a:b:c"]
        {
            let error = check_image("Image", bad).expect_err(bad);
            assert!(error.field == "Image" && error.why.contains("no name of an image"), "{bad}: {error}");
        }
    }
}
