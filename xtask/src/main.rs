//! Everything a developer of Evertide does, as one command.

fn main() {}
