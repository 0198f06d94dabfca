//! The command-line tool of Evertide.

fn main() {}
