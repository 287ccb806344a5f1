//! The managers' key: what seals the authority's key in the replicated state, so that the state alone, a backup or a stolen
//! disk of the log, signs no certificate. AES-256-GCM (NIST SP 800-38D); the cluster's id is authenticated with it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use muster_model::ClusterId;
use std::{fmt, path::Path};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;

/// Why sealing or opening did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the managers' key has {0} bytes, expected {KEY_BYTES}")]
    Length(usize),
    #[error("what is sealed has version {0}, known: {VERSION}")]
    Version(u8),
    #[error("what is sealed does not open with this managers' key")]
    Refused,
    #[error("the system gives no random bytes")]
    Random,
    #[error("the managers' key file {}", path.display())]
    File {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Write(#[from] muster_mtls::Error),
}

/// The key. All managers of a cluster have the same; a new manager is given it with its certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; KEY_BYTES]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl SealKey {
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self, Error> {
        let mut key = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| Error::Random)?;
        Ok(Self(key))
    }

    /// # Errors
    /// [`Error::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        bytes.try_into().map(Self).map_err(|_| Error::Length(bytes.len()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Writes the key file, mode 0600.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        Ok(muster_mtls::write_private(path, &self.0)?)
    }

    /// # Errors
    /// [`Error::File`], [`Error::Length`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Version byte, nonce, ciphertext with its tag.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn seal(&self, cluster: ClusterId, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::Random)?;
        let mut text = plain.to_vec();
        let sealed = self.key()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(cluster), &mut text);
        sealed.map_err(|_| Error::Refused)?;
        Ok([&[VERSION], &nonce[..], &text].concat())
    }

    /// # Errors
    /// [`Error::Version`], [`Error::Refused`] for another key, another cluster or changed bytes.
    pub fn open(&self, cluster: ClusterId, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (&version, rest) = sealed.split_first().ok_or(Error::Refused)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Error::Refused)?;
        let mut text = text.to_vec();
        let plain = self.key()?.open_in_place(Nonce::assume_unique_for_key(*nonce), aad(cluster), &mut text);
        Ok(plain.map_err(|_| Error::Refused)?.to_vec())
    }

    fn key(&self) -> Result<LessSafeKey, Error> {
        UnboundKey::new(&AES_256_GCM, &self.0).map(LessSafeKey::new).map_err(|_| Error::Length(self.0.len()))
    }
}

fn aad(cluster: ClusterId) -> Aad<[u8; 16]> {
    Aad::from(cluster.as_u128().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_in_the_same_cluster_only() {
        let (key, other) = (SealKey::generate().expect("random"), SealKey::generate().expect("random"));
        let cluster = ClusterId::from_u128(7);
        let sealed = key.seal(cluster, b"the authority's key").expect("sealed");
        assert!(!sealed.windows(9).any(|w| w == b"authority"));
        assert_eq!(key.open(cluster, &sealed).expect("opens"), b"the authority's key");
        assert!(matches!(other.open(cluster, &sealed), Err(Error::Refused)));
        assert!(matches!(key.open(ClusterId::from_u128(8), &sealed), Err(Error::Refused)));
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        assert!(matches!(key.open(cluster, &changed), Err(Error::Refused)));
        assert!(matches!(key.open(cluster, &sealed[..5]), Err(Error::Refused)));
        assert!(matches!(key.open(cluster, &[9]), Err(Error::Version(9))));
    }
}
