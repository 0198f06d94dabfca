//! What an error says.

use std::iter;

/// The error with its causes, as a program that ends with it prints them.
#[must_use]
pub fn error_with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
