//! Encode, decode, merge and name LTX files, the storage format of Litestream.

mod error;
mod id;

pub use self::{
    error::Error,
    id::{Level, PageSize, Pgno, Txid},
};
