//! Benchmarks of Evertide beside Litestream.

fn main() {}
