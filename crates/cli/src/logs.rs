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
        .with_target("async_nats", LevelFilter::OFF)
        // So does this, with whole answers of who gives tokens.
        .with_target("reqsign_google", LevelFilter::OFF);
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

/// For tests that kill the real binary: with `EVERTIDE_DIES_AT=N` it says on standard error what it tells the log, at
/// whatever level, and ends itself with SIGKILL at the N-th of those things, if there is one. It counts those that say
/// `EVERTIDE_DIES_AMONG`, from the first on that says `EVERTIDE_DIES_AFTER`, where these are given. Among them is each
/// operation that changes a file, before it is done. Where `*` is in a text, both sides of it are to be said. No release
/// build has this.
#[cfg(debug_assertions)]
mod death {
    use std::{
        env,
        fmt::{Debug, Write as _},
        io::Write as _,
        sync::{Mutex, PoisonError},
    };

    use nix::sys::signal::{Signal, raise};
    use tracing::{Event, Subscriber, field::Field};
    use tracing_subscriber::{Layer, layer::Context};

    pub(super) struct Death {
        at: u64,
        among: String,
        after: String,
        told: Mutex<Told>,
    }

    #[derive(Default)]
    struct Told {
        begun: bool,
        counted: u64,
    }

    impl Death {
        pub(super) fn from_environment() -> Option<Self> {
            let text = |name| env::var(name).unwrap_or_default();
            Some(Self {
                at: env::var("EVERTIDE_DIES_AT").ok()?.parse().ok()?,
                among: text("EVERTIDE_DIES_AMONG"),
                after: text("EVERTIDE_DIES_AFTER"),
                told: Mutex::default(),
            })
        }
    }

    impl<S: Subscriber> Layer<S> for Death {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            if !event.metadata().target().starts_with("evertide") {
                return;
            }
            let mut line = "told:".to_owned();
            event.record(&mut |field: &Field, value: &dyn Debug| {
                let _ = write!(line, " {}={value:?}", field.name());
            });
            line.push('\n');
            // Until the end: nothing is told after what it dies at.
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let says = |text: &str| text.split('*').all(|part| line.contains(part));
            told.begun |= says(&self.after);
            let counts = told.begun && says(&self.among);
            told.counted += u64::from(counts);
            // Nothing is left to hear of a failure.
            let _ = std::io::stderr().write_all(line.as_bytes());
            if counts && told.counted == self.at {
                let _ = raise(Signal::SIGKILL);
            }
        }
    }
}
