//! Answers to a registry's `WWW-Authenticate`: Basic (RFC 7617), or a Bearer token fetched from the named realm
//! (distribution project, "Token Authentication Specification").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use super::Credentials;
use super::client::{Remote, error_text, full_body, read_limited};
use crate::Result;

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: u64 = 256 << 10;

/// One way a registry accepts.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Remote {
    /// The `Authorization` header that answers a 401, or `None` when there is nothing to answer with.
    pub(super) async fn authorize(&self, headers: &HeaderMap) -> Result<Option<String>> {
        let challenges: Vec<Challenge> =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| parse(value.to_str().ok()?)).collect();
        let mut wants_basic = false;
        for challenge in challenges {
            match (challenge, &self.credentials) {
                (Challenge::Bearer { .. }, Some(Credentials::RegistryToken(token))) => {
                    return Ok(Some(format!("Bearer {token}")));
                }
                (Challenge::Bearer { realm, service, scope }, _) => {
                    let token = self.fetch_token(&realm, service.as_deref(), scope).await?;
                    return Ok(Some(format!("Bearer {token}")));
                }
                (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                    return Ok(Some(basic(username, password)));
                }
                (Challenge::Basic, _) => wants_basic = true,
            }
        }
        if wants_basic { Err(self.denied("no basic auth credentials".into())) } else { Ok(None) }
    }

    async fn fetch_token(&self, realm: &str, service: Option<&str>, scope: Option<String>) -> Result<String> {
        let scope = scope.or_else(|| self.default_scope());
        let mut url = Url::parse(realm).map_err(|error| self.denied(format!("token realm {realm:?}: {error}")))?;
        if url.scheme() != "https" && !self.is_insecure() {
            return Err(self.denied(format!("token realm {realm:?} is not https")));
        }
        let mut pairs: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
        pairs.extend(scope.as_deref().map(|scope| ("scope", scope)));
        let request = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                pairs.extend([("grant_type", "refresh_token"), ("client_id", "muster"), ("refresh_token", token)]);
                let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
                let request = http::Request::post(url.as_str());
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(full_body(form))
            }
            credentials => {
                if let Some(Credentials::Basic { username, .. }) = credentials {
                    pairs.push(("account", username));
                    if self.wants_identity() {
                        pairs.extend([("offline_token", "true"), ("client_id", "muster")]);
                    }
                }
                url.query_pairs_mut().extend_pairs(pairs);
                let mut request = http::Request::get(url.as_str());
                if let Some(Credentials::Basic { username, password }) = credentials {
                    request = request.header(AUTHORIZATION, basic(username, password));
                }
                request.body(full_body(""))
            }
        };
        let request = request.map_err(|error| self.denied(error.to_string()))?;
        let response = self.send_raw(request, None).await?;
        let status = response.status();
        let body = read_limited(self, response, MAX_TOKEN, "token").await?;
        if !status.is_success() {
            let reason = error_text(&body).unwrap_or_else(|| format!("token server answered {status}"));
            return Err(self.denied(reason));
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
        }
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        let (token, refresh) = answer.map_or((None, None), |a| (a.token.or(a.access_token), a.refresh_token));
        if let Some(refresh) = refresh.filter(|_| self.wants_identity()) {
            self.remember_identity(refresh);
        }
        let token = token.filter(|token| !token.is_empty());
        token.ok_or_else(|| self.denied("token server gave no token".into()))
    }
}

pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// Reads one challenge: a scheme and `key=value` pairs, values plain or quoted (RFC 9110, 11.6.1).
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = value(after)?;
        match key.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// A value and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(',').unwrap_or((text, ""));
        return Some((value.trim().to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_quotes() {
        let header = r#"Bearer realm="https://x/token",service="a b",scope="repository:x:pull,push",error="e""#;
        let scope = Some("repository:x:pull,push".to_owned());
        let service = Some("a b".to_owned());
        assert_eq!(parse(header), Some(Challenge::Bearer { realm: "https://x/token".into(), service, scope }));
        assert_eq!(parse("basic realm=\"r\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer realm=\"unclosed"), None);
    }
}
