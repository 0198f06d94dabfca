//! Connections that tasks keep up.

use std::sync::Arc;

use tokio::{
    runtime::{Handle, Id},
    sync::Mutex,
};

/// The connection of a client, if there is one.
///
/// The tasks that keep it up are of the runtime where it was made. It is not used on another: the one it is
/// of may be about to end, which shows no earlier than in the middle of a request.
pub(crate) struct Connected<C>(Mutex<Option<(Id, Arc<C>)>>);

impl<C> Connected<C> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// The connection where it is of use, or else a new one.
    pub(crate) async fn get<E>(
        &self,
        is_of_use: impl FnOnce(&C) -> bool,
        connect: impl Future<Output = Result<C, E>>,
    ) -> Result<Arc<C>, E> {
        let here = Handle::current().id();
        let mut held = self.0.lock().await;
        if let Some((made, connection)) = held.as_ref()
            && *made == here
            && is_of_use(connection)
        {
            return Ok(connection.clone());
        }
        let connection = Arc::new(connect.await?);
        *held = Some((here, connection.clone()));
        Ok(connection)
    }

    /// Makes the next one to ask connect anew.
    pub(crate) fn forget(&self) {
        // Whoever holds the lock is looking at it.
        if let Ok(mut held) = self.0.try_lock() {
            *held = None;
        }
    }
}
