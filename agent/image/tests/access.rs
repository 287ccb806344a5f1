//! Who may pull and push, and on which way: logins to real registries with passwords and with tokens, client certificates,
//! proxies, mirrors.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::fake::{Fake, Reply, Request, routes};
use common::registry::Registry;
use common::{TestImage, TestResult, open, options, words};
use muster_image::{Credentials, Error, Options, Platform, ProxyConfig, Reference, RegistryConfig, Store};
use serde_json::json;

/// `me:secret`, bcrypt.
const HTPASSWD: &str = "me:$2b$04$XatxFW1HRYAlSREVvJZC1urf4fODl/FInG1I5D0hjFcqb2Fz7SAcO\n";

fn basic(username: &str, password: &str) -> Credentials {
    Credentials::Basic { username: username.into(), password: password.into() }
}

/// Loads an image under a name of the registry, pushes it, drops it, and pulls it again.
async fn there_and_back(store: &Store, name: &Reference, credentials: &Credentials) -> TestResult {
    let image = TestImage::small("access");
    let archive = std::io::Cursor::new(image.docker_archive(&[&name.canonical()]));
    store.load(archive, &Platform::host(), words().0).await?;
    store.push(name, Some(credentials.clone()), words().0).await?;
    store.remove(&name.canonical(), false, true, muster_image::Usage::default()).await?;
    let pulled = store.pull(name, &Platform::host(), Some(credentials.clone()), words().0).await?;
    assert_eq!(pulled.id, image.id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_passwords_takes_the_right_one_only() -> TestResult {
    let registry = Registry::start_with("", |folder| {
        let file = folder.join("htpasswd");
        std::fs::write(&file, HTPASSWD).expect("a writable folder");
        format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display())
    });
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let address = &registry.address;
    for named in [address.clone(), format!("http://{address}/v2/")] {
        assert_eq!(store.login(&named, basic("me", "secret")).await?, "");
    }
    let refused = store.login(address, basic("me", "wrong")).await.expect_err("a wrong password");
    assert!(matches!(refused, Error::LoginFailed { .. }), "{refused:?}");
    let text = format!("login attempt to http://{address}/v2/ failed with status: 401 Unauthorized");
    assert_eq!(refused.to_string(), text);
    let name = Reference::parse(&format!("{address}/team/app:1"))?;
    there_and_back(&store, &name, &basic("me", "secret")).await?;
    for (credentials, why) in [(None, "no basic auth credentials"), (Some(basic("me", "no")), "unauthorized")] {
        let error = store.pull(&name, &Platform::host(), credentials.clone(), words().0).await.expect_err("refused");
        let text = error.to_string();
        let begins = format!(
            "pull access denied for {address}/team/app, repository does not exist or may require 'docker login'"
        );
        assert!(text.starts_with(&begins) && text.contains(why), "{text}");
        let error = store.push(&name, credentials.clone(), words().0).await.expect_err("refused");
        assert!(error.to_string().starts_with("push access denied for "), "{error}");
        let error = store.distribution(&name, credentials).await.expect_err("refused");
        assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    }
    let known = store.distribution(&name, Some(basic("me", "secret"))).await?;
    assert_eq!(known.platforms, [Platform::host()]);
    Ok(())
}

/// A token server as the distribution project specifies it: it signs what a user may do.
struct Issuer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    pem: String,
}

impl Issuer {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["issuer".to_owned()])?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &signing_key.serialize_der())?;
        Ok(Self { key, certificate: cert.der().to_vec(), pem: cert.pem() })
    }

    /// Answers a request for a token: by password, or by the refresh token it gave.
    fn answer(&self, request: &Request) -> Option<Reply> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path != "/token" {
            return None;
        }
        let form =
            if request.method == "POST" { String::from_utf8_lossy(&request.body).into_owned() } else { query.into() };
        let field = |name: &str| {
            let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/"))
        };
        let by_password = request.headers.get("authorization").map(|value| value.trim().to_owned());
        let known = by_password == Some(format!("Basic {}", STANDARD.encode("me:secret")))
            || field("refresh_token").as_deref() == Some("again-please");
        if !known {
            let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
            return Some(Reply { status: 401, ..Reply::ok(body) });
        }
        let mut answer = json!({"token": self.token(field("scope").as_deref())});
        if field("offline_token").as_deref() == Some("true") {
            answer["refresh_token"] = json!("again-please");
        }
        Some(Reply::ok(answer.to_string().as_bytes()))
    }

    fn token(&self, scope: Option<&str>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let access: Vec<_> = scope
            .and_then(|scope| scope.strip_prefix("repository:"))
            .and_then(|rest| rest.split_once(':'))
            .map(|(name, actions)| json!({"type": "repository", "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
            .into_iter()
            .collect();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)]});
        let claims = json!({"iss": "issuer", "sub": "me", "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now,
            "jti": "1", "access": access});
        let text = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("a fresh key signs");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_server_takes_passwords_and_identity_tokens() -> TestResult {
    let issuer = Arc::new(Issuer::new()?);
    let signer = issuer.clone();
    let tokens = Fake::start(move |request| signer.answer(request)).await;
    let realm = format!("http://{}/token", tokens.address);
    let registry = Registry::start_with("", |folder| {
        let file = folder.join("issuer.pem");
        std::fs::write(&file, &issuer.pem).expect("a writable folder");
        format!(
            "auth: {{token: {{realm: '{realm}', service: registry, issuer: issuer, rootcertbundle: {}}}}}\n",
            file.display()
        )
    });
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let address = &registry.address;
    let identity = store.login(address, basic("me", "secret")).await?;
    assert_eq!(identity, "again-please");
    assert_eq!(store.login(address, Credentials::IdentityToken(identity.clone())).await?, "");
    let refused = store.login(address, basic("me", "wrong")).await.expect_err("a wrong password");
    assert_eq!(refused.to_string(), format!("Get \"{address}/v2/\": unauthorized: incorrect username or password"));
    for (name, credentials) in
        [("by/password", basic("me", "secret")), ("by/identity", Credentials::IdentityToken(identity))]
    {
        there_and_back(&store, &Reference::parse(&format!("{address}/{name}:1"))?, &credentials).await?;
    }
    let name = Reference::parse(&format!("{address}/by/password:1"))?;
    let whole = Credentials::RegistryToken(issuer.token(Some("repository:by/password:pull")));
    store.pull(&name, &Platform::host(), Some(whole), words().0).await?;
    let error = store.pull(&name, &Platform::host(), None, words().0).await.expect_err("nobody");
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_certificate_of_a_registrys_folder_is_shown_to_it() -> TestResult {
    let server = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let client = rcgen::generate_simple_self_signed(["client".to_owned()])?;
    let files = tempfile::tempdir()?;
    let file = |name: &str, content: String| -> std::io::Result<String> {
        let path = files.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let (certificate, key) = (file("s.crt", server.cert.pem())?, file("s.key", server.signing_key.serialize_pem())?);
    let clients = file("clients.crt", client.cert.pem())?;
    let http = format!(", tls: {{certificate: {certificate}, key: {key}, clientcas: [{clients}]}}");
    let registry = Registry::start_with(&http, |_| String::new());
    let certs = tempfile::tempdir()?;
    let registries = RegistryConfig { certs_dir: Some(certs.path().to_owned()), ..options().registries };
    let folder = tempfile::tempdir()?;
    let store = Store::open_with(folder.path(), Options { registries, ..options() })?;
    let name = Reference::parse(&format!("{}/app:1", registry.address))?;
    let error = store.pull(&name, &Platform::host(), None, words().0).await.expect_err("no certificate");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&registry.address), "{error}");
    let own = certs.path().join(&registry.address);
    std::fs::create_dir(&own)?;
    std::fs::write(own.join("client.cert"), client.cert.pem())?;
    std::fs::write(own.join("client.key"), client.signing_key.serialize_pem())?;
    // Read at each use: nothing has to be told.
    let error = store.pull(&name, &Platform::host(), None, words().0).await.expect_err("nothing is there");
    assert!(matches!(error, Error::ManifestNotFound { .. }), "{error}");
    Ok(())
}

/// A store that reaches registries by proxies, one of them in the clear.
fn behind(folder: &Path, proxy: ProxyConfig, insecure: &str) -> Result<Store, Error> {
    let insecure = vec![insecure.to_owned()];
    Store::open_with(
        folder,
        Options { registries: RegistryConfig { proxy, insecure, ..options().registries }, ..options() },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_told_whole_urls_for_plain_http_and_asked_for_a_tunnel_for_tls() -> TestResult {
    let image = TestImage::small("proxy");
    let known = routes(&image, "x", "1");
    let proxy = Fake::start(move |request| {
        let me = format!("Basic {}", STANDARD.encode("me:pass"));
        if request.headers.get("proxy-authorization").map(|value| value.trim()) != Some(&me) {
            return Some(Reply { status: 407, ..Reply::default() });
        }
        known.get(request.path.strip_prefix("http://registry.invalid:5000")?).cloned()
    })
    .await;
    let url = format!("http://me:pass@{}", proxy.address);
    let folder = tempfile::tempdir()?;
    let config = ProxyConfig { http: url.clone(), ..ProxyConfig::default() };
    let store = behind(folder.path(), config, "registry.invalid:5000")?;
    let name = Reference::parse("registry.invalid:5000/x:1")?;
    assert_eq!(store.pull(&name, &Platform::host(), None, words().0).await?.id, image.id());

    let config = ProxyConfig { https: url.clone(), ..ProxyConfig::default() };
    store.set_registry_config(RegistryConfig { proxy: config, ..options().registries })?;
    let error = store.pull(&name, &Platform::host(), None, words().0).await.expect_err("the proxy makes no tunnels");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let seen = proxy.seen.lock().map_err(|_| "a test panicked")?.clone();
    assert!(seen.iter().any(|line| line == "CONNECT registry.invalid:5000"), "{seen:?}");

    let before = seen.len();
    let config = ProxyConfig { http: url.clone(), https: url, no_proxy: "registry.invalid".into() };
    store.set_registry_config(RegistryConfig { proxy: config, ..options().registries })?;
    store.pull(&name, &Platform::host(), None, words().0).await.expect_err("no such name");
    let after = proxy.seen.lock().map_err(|_| "a test panicked")?.len();
    assert_eq!(after, before, "what is in no_proxy goes past it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_mirror_of_the_default_registry_is_used_and_gets_no_credentials() -> TestResult {
    let image = TestImage::small("mirror");
    let known = routes(&image, "library/x", "1");
    let mirror = Fake::start(move |request| {
        if request.headers.contains_key("authorization") {
            return Some(Reply { status: 500, ..Reply::default() });
        }
        let tags =
            (request.path == "/v2/library/x/tags/list").then(|| Reply::ok(br#"{"name":"library/x","tags":["1"]}"#));
        tags.or_else(|| known.get(&request.path).cloned())
    })
    .await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let mut config = options().registries;
    config.mirrors.insert("docker.io".into(), vec![format!("http://{}", mirror.address)]);
    store.set_registry_config(config)?;
    let name = Reference::parse("x:1")?;
    assert_eq!(store.remote_tags(&name, Some(basic("me", "secret"))).await?, ["1"]);
    let pulled = store.pull(&name, &Platform::host(), Some(basic("me", "secret")), words().0).await?;
    assert_eq!((pulled.id, pulled.repo_tags.as_slice()), (image.id(), &["x:1".to_owned()][..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn search_asks_the_old_index_and_says_where_there_is_none() -> TestResult {
    let with = Fake::start(|request| {
        let answer =
            br#"{"num_results":1,"results":[{"name":"a/b","description":"d","star_count":3,"is_official":true}]}"#;
        (request.path == "/v1/search?q=b&n=5")
            .then(|| Reply::ok(answer))
            .or_else(|| (request.path == "/v2/").then(|| Reply::ok(b"{}")))
    })
    .await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let found = store.search(&format!("{}/b", with.address), 5, None).await?;
    assert_eq!((found[0].name.clone(), found[0].star_count), (format!("{}/a/b", with.address), 3));
    let registry = Registry::start();
    let error = store.search(&format!("{}/b", registry.address), 5, None).await.expect_err("a plain registry");
    assert_eq!(
        error.to_string(),
        format!("searching registry {} (it has no v1 index) is not supported", registry.address)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_of_a_repository_are_listed_page_by_page() -> TestResult {
    let fake = Fake::start(|request| {
        let page = |tags: &str, next: Option<&str>| {
            let mut reply = Reply::ok(format!(r#"{{"name":"x","tags":{tags}}}"#).as_bytes());
            reply.headers.extend(next.map(|next| ("Link".to_owned(), format!("<{next}>; rel=\"next\""))));
            reply
        };
        match request.path.as_str() {
            "/v2/" => Some(Reply::ok(b"{}")),
            "/v2/x/tags/list" => Some(page(r#"["a","b"]"#, Some("/v2/x/tags/list?last=b"))),
            "/v2/x/tags/list?last=b" => Some(page(r#"["c"]"#, Some("/v2/x/tags/list?last=b"))),
            _ => None,
        }
    })
    .await;
    let folder = tempfile::tempdir()?;
    let store = open(folder.path())?;
    let name = |path: &str| Reference::parse(&format!("{}/{path}", fake.address));
    assert_eq!(store.remote_tags(&name("x")?, None).await?, ["a", "b", "c"]);
    let error = store.remote_tags(&name("none")?, None).await.expect_err("no such repository");
    assert!(matches!(error, Error::ManifestNotFound { .. }), "{error}");
    Ok(())
}
