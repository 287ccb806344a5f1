//! The documents of the Docker Engine API (v1.50) as plain types: what clients send and what they are answered.
//!
//! Names are Docker's. Reading is tolerant, as clients written in Go need it: a missing field, `null` and Go's zero value all
//! mean "not given", and unknown fields are skipped. Writing is faithful: what dockerd leaves out when empty is left out,
//! what it writes as `null` or `[]` is written so. Nothing here checks whether a request can be honoured: the engine does.
//!
//! Read first: [`ContainerCreateBody`], [`HostConfig`], [`ContainerInspect`].

/// Declares documents: every struct is cloneable, comparable, has a default and takes `null` for any
/// field. `flatten` fields stand first; their own fields appear among the struct's.
macro_rules! document {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $(flatten pub $flat:ident: $flat_type:ty,)*
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        $(#[$meta])*
        pub struct $name {
            $(
                // No null_default here: serde swallows errors inside of a flattened option.
                #[serde(flatten)]
                pub $flat: $flat_type,
            )*
            $(
                $(#[$field_meta])*
                #[serde(deserialize_with = "crate::engine::lenient::null_default")]
                pub $field: $type,
            )*
        }
    )*};
}

mod container;
mod exec;
mod filters;
mod host_config;
mod image;
mod inspect;
mod lenient;
mod network;
mod stats;
mod system;
mod volume;

pub use container::*;
pub use exec::*;
pub use filters::{FilterError, Filters};
pub use host_config::*;
pub use image::*;
pub use inspect::*;
pub use lenient::{Args, Keys, Time, null_default};
pub use network::*;
pub use stats::*;
pub use system::*;
pub use volume::*;

/// String to string, ordered: labels, options, annotations.
pub type Strings = std::collections::BTreeMap<String, String>;

#[cfg(test)]
mod tests;
