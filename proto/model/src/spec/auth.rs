//! Credentials for pulling a service's image, on their way from the client that gives them to the node that needs them.
//!
//! One text in one of four forms. A client gives it as the `X-Registry-Auth` header has it; managers keep it sealed; views
//! say only that there is something; agents are told what the client gave. The forms that are not a client's begin with a
//! word and a colon, which base64 does not have: what managers kept before they sealed reads as given.

use super::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;

const SEALED: &str = "muster:sealed:";
const OWN: &str = "muster:own";
const PREVIOUS: &str = "muster:previous";

/// The credentials, in one of their forms. `Debug` shows which, and no more.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistryAuth(String);

/// What a [`RegistryAuth`] holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AuthForm<'a> {
    /// As a client gave them.
    Given(&'a str),
    /// As managers keep them: what the managers' key opens, in their own writing.
    Sealed(&'a str),
    /// In a view: the spec has some. In an update: those stay.
    Own,
    /// The same of the spec before the last update.
    Previous,
}

impl RegistryAuth {
    /// What a client gave: the text of the `X-Registry-Auth` header.
    ///
    /// # Errors
    /// [`Invalid`] for what is no base64, without repeating it.
    pub fn given(header: &str) -> Result<Self, Invalid> {
        let base64 = |c: char| c.is_ascii_alphanumeric() || "+/-_=".contains(c);
        match header.chars().all(base64) {
            true => Ok(Self(header.to_owned())),
            false => Err(Invalid::new("X-Registry-Auth", "expected base64url of a JSON object")),
        }
    }

    pub fn sealed(text: &str) -> Self {
        Self(format!("{SEALED}{text}"))
    }

    pub fn own() -> Self {
        Self(OWN.to_owned())
    }

    pub fn previous() -> Self {
        Self(PREVIOUS.to_owned())
    }

    pub fn form(&self) -> AuthForm<'_> {
        match self.0.as_str() {
            OWN => AuthForm::Own,
            PREVIOUS => AuthForm::Previous,
            text => text.strip_prefix(SEALED).map_or(AuthForm::Given(text), AuthForm::Sealed),
        }
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form() {
            AuthForm::Given(_) => "given",
            AuthForm::Sealed(_) => "sealed",
            AuthForm::Own => "own",
            AuthForm::Previous => "previous",
        };
        write!(f, "RegistryAuth({form})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_are_told_apart_and_debug_shows_none_of_the_text() {
        let given = RegistryAuth::given("eyJ1IjoicCJ9").expect("base64");
        assert!(given.form() == AuthForm::Given("eyJ1IjoicCJ9"));
        assert!(RegistryAuth::sealed("00ff").form() == AuthForm::Sealed("00ff"));
        assert!(RegistryAuth::own().form() == AuthForm::Own);
        assert!(RegistryAuth::previous().form() == AuthForm::Previous);
        assert_eq!(format!("{given:?} {:?}", RegistryAuth::sealed("00ff")), "RegistryAuth(given) RegistryAuth(sealed)");
    }

    #[test]
    fn nobody_gives_a_form_that_is_the_managers() {
        for text in ["muster:own", "muster:previous", "muster:sealed:00", "a b"] {
            let e = RegistryAuth::given(text).expect_err("refused");
            assert!(e.field == "X-Registry-Auth" && !e.why.contains(text), "{e}");
        }
    }

    #[test]
    fn what_was_kept_before_it_was_sealed_still_reads() {
        let old: RegistryAuth = serde_json::from_str("\"eyJ1IjoicCJ9\"").expect("reads");
        assert!(old.form() == AuthForm::Given("eyJ1IjoicCJ9"));
    }
}
