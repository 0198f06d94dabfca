//! What capture does to the locks and the WAL of a database, as it tells its log before it does it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{Layer, filter::filter_fn, layer::Context, registry::LookupSpan};

/// How often each step was taken for each database of this process.
static TAKEN: Mutex<BTreeMap<(String, String), u64>> = Mutex::new(BTreeMap::new());

fn taken() -> MutexGuard<'static, BTreeMap<(String, String), u64>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts them.
pub(crate) struct Steps;

impl Steps {
    pub(crate) fn layer<S>() -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        Self.with_filter(filter_fn(|event| event.target() == "evertide::capture"))
    }

    /// How often any of these steps was taken for a database.
    pub(crate) fn count(database: &Path, steps: &[&str]) -> u64 {
        let database = database.display().to_string();
        let key = |step: &&str| (database.clone(), (*step).to_owned());
        let taken = taken();
        steps.iter().filter_map(|step| taken.get(&key(step))).sum()
    }
}

impl<S: Subscriber> Layer<S> for Steps {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (mut database, mut step) = (String::new(), String::new());
        event.record(&mut |field: &Field, value: &dyn Debug| match field.name() {
            "database" => database = format!("{value:?}"),
            "step" => step = format!("{value:?}"),
            _ => {}
        });
        if !step.is_empty() {
            *taken().entry((database, step)).or_default() += 1;
        }
    }
}
