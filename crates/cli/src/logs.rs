//! The log, on standard error.

use tracing_subscriber::{
    Layer, filter::LevelFilter, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::args::{LogArgs, LogFormat, LogLevel};

/// Logs what Evertide does from this level on, and warnings of the libraries it uses.
pub(crate) fn start(args: LogArgs) {
    let level = match args.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("evertide", level)
        // It quotes what the server says, and comes to us as an error all the same, which shows no secret.
        .with_target("async_nats", LevelFilter::OFF);
    // Where nobody reads the log any more, replication goes on all the same: no error is made of
    // it.
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let layer = match args.log_format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            layer
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
}

/// Logs warnings as text: for commands that are over soon.
pub(crate) fn start_quiet() {
    start(LogArgs {
        log_level: LogLevel::Warn,
        log_format: LogFormat::Text,
    });
}
