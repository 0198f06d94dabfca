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
    let log = tracing_subscriber::registry().with(layer.with_filter(filter));
    #[cfg(debug_assertions)]
    let log = log.with(death::Death::from_environment());
    log.init();
}

/// Logs warnings as text: for commands that are over soon.
pub(crate) fn start_quiet() {
    start(LogArgs {
        log_level: LogLevel::Warn,
        log_format: LogFormat::Text,
    });
}

/// For tests that kill the real binary: with `EVERTIDE_DIES_AT=N` it ends itself with SIGKILL at the N-th thing that it
/// tells the log, at whatever level and whether or not that is shown. No release build has this.
#[cfg(debug_assertions)]
mod death {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::{Layer, layer::Context};

    pub(super) struct Death {
        at: u64,
        told: AtomicU64,
    }

    impl Death {
        pub(super) fn from_environment() -> Option<Self> {
            let at = std::env::var("EVERTIDE_DIES_AT").ok()?.parse().ok()?;
            let told = AtomicU64::new(0);
            Some(Self { at, told })
        }
    }

    impl<S: Subscriber> Layer<S> for Death {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let ours = event.metadata().target().starts_with("evertide");
            if ours && self.told.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
                // Nothing is left to hear of a failure.
                let _ = raise(Signal::SIGKILL);
            }
        }
    }
}
