//! SIGINT, SIGTERM and SIGHUP, for all servers of the process.
//!
//! One thread of its own waits for them, not a task: the second SIGINT has to end the process at once even
//! when every worker of the runtime is blocked, which may be the very reason for sending it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::handle::Control;

/// Servers that are between the begin and the end of `run`.
static HUB: Mutex<Hub> = Mutex::new(Hub {
    listening: false,
    servers: Vec::new(),
});

struct Hub {
    listening: bool,
    servers: Vec<Arc<Control>>,
}

/// The poison is ignored: every change to the hub is a single statement.
fn hub() -> MutexGuard<'static, Hub> {
    HUB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Routes signals to a server until dropped.
#[derive(Debug)]
pub(crate) struct Subscription(Arc<Control>);

impl Subscription {
    pub(crate) fn new(control: Arc<Control>) -> io::Result<Self> {
        let mut hub = hub();
        if !hub.listening {
            let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
            std::thread::Builder::new()
                .name("evertide-signals".to_owned())
                .spawn(move || listen(signals))?;
            hub.listening = true;
        }
        hub.servers.push(Arc::clone(&control));
        Ok(Self(control))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        hub().servers.retain(|server| !Arc::ptr_eq(server, &self.0));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    /// SIGINT and SIGTERM.
    End,
    /// SIGHUP.
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Starting or serving.
    Up,
    /// A shutdown has begun.
    GoingDown,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    ShutDown,
    Reload,
    Ignore,
    /// What the signal does to a process that has no handler for it.
    Die,
}

/// The first signal shuts down every server that is up. Once all are going down, or all have ended, another
/// one does what it would do without us: it ends the process, whose parent sees the true cause (128 plus the
/// signal number in a shell). A handler that stayed installed and did nothing would leave a program that
/// can only be killed.
fn decide(signal: Signal, servers: &[Activity]) -> Decision {
    let up = servers.contains(&Activity::Up);
    match signal {
        Signal::End if up => Decision::ShutDown,
        Signal::Reload if up => Decision::Reload,
        // A terminal that closes sends it to a program that is ending properly already.
        Signal::Reload if !servers.is_empty() => Decision::Ignore,
        Signal::End | Signal::Reload => Decision::Die,
    }
}

fn listen(mut signals: Signals) {
    for number in signals.forever() {
        let name = signal_name(number).unwrap_or("signal");
        let signal = if number == SIGHUP {
            Signal::Reload
        } else {
            Signal::End
        };
        // Cloned, so that no lock of ours is held while other code runs.
        let servers = hub().servers.clone();
        let activity: Vec<_> = servers.iter().map(activity).collect();
        match decide(signal, &activity) {
            Decision::ShutDown => {
                tracing::info!("{name}: shutting down; a second one ends the process at once");
                servers.iter().for_each(|server| server.shutdown.cancel());
            }
            Decision::Reload => {
                tracing::info!("{name}: reloading the settings");
                servers.iter().for_each(|server| server.request_reload());
            }
            Decision::Ignore => tracing::info!("{name} ignored: already shutting down"),
            Decision::Die => die(number, name, &servers),
        }
    }
}

fn activity(server: &Arc<Control>) -> Activity {
    if server.shutdown.is_cancelled() {
        Activity::GoingDown
    } else {
        Activity::Up
    }
}

fn die(number: i32, name: &str, servers: &[Arc<Control>]) {
    let unfinished: Vec<_> = servers
        .iter()
        .flat_map(|server| server.unfinished())
        .collect();
    if unfinished.is_empty() {
        tracing::warn!("{name}: ending at once");
    } else {
        tracing::error!(
            "{name} again: ending at once, unfinished: {}",
            unfinished.join("; ")
        );
    }
    if let Err(error) = emulate_default_handler(number) {
        tracing::error!(%error, "cannot end by the signal itself; exiting");
        std::process::exit(128 + number);
    }
}

#[cfg(test)]
mod tests {
    use super::{Activity::*, Signal::*, *};

    #[test]
    fn a_second_signal_ends_the_process_whatever_the_servers_are_doing() {
        for (signal, servers, expected) in [
            (End, &[Up][..], Decision::ShutDown),
            (End, &[GoingDown], Decision::Die),
            (End, &[GoingDown, GoingDown], Decision::Die),
        ] {
            assert_eq!(decide(signal, servers), expected, "{signal:?} {servers:?}");
        }
    }

    #[test]
    fn a_server_that_is_up_is_not_killed_because_another_one_is_going_down() {
        assert_eq!(decide(End, &[GoingDown, Up]), Decision::ShutDown);
        assert_eq!(decide(Reload, &[GoingDown, Up]), Decision::Reload);
    }

    #[test]
    fn signals_are_not_swallowed_after_the_last_server_has_ended() {
        assert_eq!(decide(End, &[]), Decision::Die);
        assert_eq!(decide(Reload, &[]), Decision::Die);
    }

    #[test]
    fn a_closing_terminal_does_not_cut_an_orderly_shutdown_short() {
        assert_eq!(decide(Reload, &[GoingDown]), Decision::Ignore);
    }
}
