//! A replica's task after a fault of ours: it is started again, as after any failure.

use std::panic::AssertUnwindSafe;

use evertide_storage::{Clock, SystemClock};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{ReplicaContext, Succession, pause, publish_nothing_fails, report, run_once};
use crate::{
    error::panic_text,
    failing::{self, Work},
};

/// The task of one replica, until cancelled. A panic ends neither it nor those who wait for it.
pub(crate) async fn run(mut context: ReplicaContext, cancel: CancellationToken) {
    let mut panics = 0;
    publish_nothing_fails(&context);
    loop {
        let work = run_once(context.clone(), cancel.clone());
        let Err(panic) = AssertUnwindSafe(work).catch_unwind().await else {
            return;
        };
        let panic = panic_text(&*panic);
        tracing::error!(
            database = %context.status.borrow().path.clone().display(),
            replica = context.options.name,
            panic,
            "a fault in evertide stopped the work on the replica"
        );
        // Another task may have its name by then.
        if cancel.is_cancelled() {
            return;
        }
        panics = note_panic(&context, panics, &panic);
        // It may have been done.
        context.succession = Succession::Proven;
        // Once cancelled there is still the lease to let go of.
        let pause = tokio::time::sleep(pause(panics));
        cancel.run_until_cancelled(pause).await;
    }
}

/// Has the status and the metrics say so, after so many since something worked; how many it are now.
fn note_panic(context: &ReplicaContext, panics: u32, panic: &str) -> u32 {
    // Not by the clock of the task: it may be what panicked.
    let (now, mut before) = (SystemClock.now(), None);
    report(&context.status, &context.options.name, |status| {
        before = status.failing_since;
        status.failing_since = before.or(Some(now));
        status.error = Some(format!(
            "stopped by a panic, a fault in evertide ({panic}); it is started again"
        ));
        status.drill.running = false;
    });
    let database = context.status.borrow().path.clone();
    let since = before.or(Some(now));
    failing::publish(Work::Uploads, &database, &context.options.name, since);
    before.map_or(1, |_| panics.saturating_add(1))
}
