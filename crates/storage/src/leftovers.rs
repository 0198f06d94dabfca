//! What uploads that were given up left behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

/// Names of what is still to be deleted, since the store could not be reached when it was given up. Nobody sees any of it,
/// but it takes room.
#[derive(Clone, Default, Debug)]
pub(crate) struct Leftovers(Arc<Mutex<Vec<String>>>);

impl Leftovers {
    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes this in the background. If that fails, it is left.
    pub(crate) fn give_up(
        &self,
        name: String,
        deleted: impl Future<Output = bool> + Send + 'static,
    ) {
        self.names().push(name.clone());
        // Without a runtime the process is about to end.
        if let Ok(runtime) = Handle::try_current() {
            let left = self.clone();
            runtime.spawn(async move {
                if deleted.await {
                    left.forget(&name);
                }
            });
        }
    }

    /// What is still to be deleted, if anything.
    pub(crate) fn next(&self) -> Option<String> {
        self.names().last().cloned()
    }

    /// This has been deleted.
    pub(crate) fn forget(&self, name: &str) {
        self.names().retain(|left| left != name);
    }
}
