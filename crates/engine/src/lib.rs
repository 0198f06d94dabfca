//! Continuous backup of SQLite databases from inside the application that owns them.
