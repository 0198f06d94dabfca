//! Versioned, age-encrypted configuration in the application's own SQLite database.
