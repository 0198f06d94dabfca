//! How fast files are written and read, next to what bounds it: copying, checksums and LZ4 alone.
//!
//! `cargo run --release -p evertide-ltx --example throughput`

#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::{hint::black_box, time::Instant};

use evertide_ltx::{
    Batch, BatchReader, Checksum, Decoder, Encoder, Error, Header, PageSize, Pgno, Txid, merge,
};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};

const PAGES: u32 = 64 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for bytes in [4096, 65536] {
        let pages = PAGES / (bytes / 4096);
        measure(PageSize::new(bytes)?, pages)?;
    }
    Ok(())
}

/// Something like the rows of an application: words, numbers, some random bytes, some room left.
fn database(size: PageSize, pages: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let words = [
        "alice",
        "invoice",
        "2026-11-22T",
        "https://example.com/",
        "paid",
        "pending",
    ];
    let mut database = Vec::with_capacity(size.len() * pages as usize);
    for _ in 0..pages {
        let end = database.len() + size.len();
        while database.len() < end - size.len() / 8 {
            database.extend_from_slice(random.choice(words).unwrap_or_default().as_bytes());
            database.extend_from_slice(random.u32(..).to_string().as_bytes());
            database.extend_from_slice(&random.u64(..).to_be_bytes());
        }
        database.resize(end, 0);
    }
    database
}

/// The best of three, in GB/s of pages.
fn rate(what: &str, bytes: usize, mut run: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("  {what:<34} {:7.2} GB/s", bytes as f64 / best / 1e9);
    Ok(())
}

fn measure(size: PageSize, pages: u32) -> Result<(), Box<dyn std::error::Error>> {
    let database = database(size, pages);
    let header = Header::new(size, pages, Txid::FIRST, Txid::FIRST);
    let encode = |file: Vec<u8>| {
        let mut encoder = Encoder::new(file, header.clone())?;
        for (number, page) in (1..).zip(database.chunks_exact(size.len())) {
            encoder.encode_page(Pgno::new(number).unwrap_or(Pgno::FIRST), page)?;
        }
        Ok::<_, Error>(encoder.finish()?.0)
    };
    let file = encode(Vec::new())?;
    let len = database.len();
    println!(
        "{} MiB in pages of {size}, file {:.1} %",
        len >> 20,
        100. * file.len() as f64 / len as f64
    );

    let mut copy = vec![0; len];
    rate("copy", len, || {
        copy.copy_from_slice(black_box(&database));
        Ok(())
    })?;
    rate("checksum of each page", len, || {
        for page in database.chunks_exact(size.len()) {
            black_box(Checksum::page(Pgno::FIRST, page));
        }
        Ok(())
    })?;
    let (mut table, mut block) = (CompressTable::default(), vec![0; 2 * size.len()]);
    rate("LZ4 compression alone", len, || {
        for page in database.chunks_exact(size.len()) {
            let _ = black_box(compress_into_with_table(page, &mut block, &mut table));
        }
        Ok(())
    })?;
    let mut blocks = Vec::new();
    for page in database.chunks_exact(size.len()) {
        let n = compress_into_with_table(page, &mut block, &mut table)?;
        blocks.push(block.get(..n).unwrap_or_default().to_vec());
    }
    let mut page = vec![0; size.len()];
    rate("LZ4 decompression alone", len, || {
        for block in &blocks {
            let _ = black_box(decompress_into(block, &mut page));
        }
        Ok(())
    })?;
    let mut out = Vec::with_capacity(file.len());
    rate("encode", len, || {
        out.clear();
        out = encode(std::mem::take(&mut out))?;
        Ok(())
    })?;
    rate("decode, page by page", len, || {
        let mut decoder = Decoder::new(file.as_slice())?;
        while decoder.decode_page(&mut page)?.is_some() {}
        decoder.finish().map(|_| ())
    })?;
    rate("decode in batches, 1 thread", len, || batches(&file, true))?;
    rate("cut into batches only", len, || batches(&file, false))?;
    rate("merge of one file", len, || {
        merge([file.as_slice()], std::io::sink()).map(|_| ())
    })?;
    Ok(())
}

fn batches(file: &[u8], decode: bool) -> Result<(), Error> {
    let mut reader = BatchReader::new(file)?;
    let (mut batch, mut scratch, mut done) = (Batch::default(), Vec::new(), Vec::new());
    while reader.next(&mut batch)? {
        if decode {
            done.push(batch.decode(&mut scratch, |_, pages| {
                black_box(pages);
                Ok::<(), Error>(())
            })?);
        }
    }
    if decode {
        reader.finish(done).map(|_| ())
    } else {
        Ok(())
    }
}
