//! Application runtime for Evertide: daemons, settings, reload, metrics, status page.
