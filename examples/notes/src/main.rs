//! A small web application with its backup inside.

fn main() {}
