//! Images, as clients of Docker see them: the store of `muster-image` in Docker's documents.

mod archive;
mod commit;
mod document;
mod health;
mod list;
mod remote;
mod remove;
mod roots;
mod transfer;
mod view;

pub(crate) use roots::Roots;
