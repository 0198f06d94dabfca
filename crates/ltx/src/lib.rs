//! Encode, decode, merge and name LTX files, the storage format of Litestream.

mod batch;
mod checksum;
mod decode;
mod encode;
mod error;
mod frames;
mod header;
mod id;
mod index;
mod input;
mod merge;
mod name;
mod page;
mod stream;

pub use self::{
    batch::{Batch, BatchReader, Decoded},
    checksum::Checksum,
    decode::Decoder,
    encode::{Encoder, Summary},
    error::Error,
    header::{Header, Tracking, Trailer},
    id::{Level, PageSize, Pgno, Txid},
    index::{PageIndex, Tail},
    merge::{Merge, merge},
    name::LtxName,
};
