//! A file by its URL: what `docker import URL` takes. As to proxies, certificates, redirects and time-outs a registry's host.

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Method, StatusCode};
use url::Url;

use super::client::{Act, Remote, response_text};
use crate::{Error, Result, Store};

impl Store {
    /// Asks for the file at `url`, http or https, and gives its bytes as they come.
    ///
    /// # Errors
    /// [`Error::Url`] for what is no such URL, or one with a password; [`Error::Unreachable`], [`Error::Stalled`]; [`Error::Registry`] with the host's
    /// answer when it is not the file.
    pub async fn download(&self, url: &str) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let refused = || Error::Url { url: url.to_owned() };
        let parsed = Url::parse(url).map_err(|_| refused())?;
        // They would be sent to nobody, and told to whoever reads the image's history.
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(Error::Url { url: format!("{}://USER:PASSWORD@...", parsed.scheme()) });
        }
        let host = match (parsed.scheme(), parsed.host_str(), parsed.port()) {
            ("http" | "https", Some(host), Some(port)) => format!("{host}:{port}"),
            ("http" | "https", Some(host), None) => host.to_owned(),
            _ => return Err(refused()),
        };
        let remote = Remote::new(&self.inner.registries.shared(), &host, None, Act::Pull, None)?;
        let response = remote.send(Method::GET, parsed, &[]).await?;
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            let message = format!("{url}: {}", response_text(&remote, response).await);
            return Err(Error::Registry { registry: host, status, message });
        }
        let pieces = (remote, response.into_body());
        Ok(Box::pin(stream::try_unfold(pieces, async |(remote, mut body)| {
            Ok(remote.chunk(&mut body).await?.map(|bytes| (bytes, (remote, body))))
        })))
    }
}
