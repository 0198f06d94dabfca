//! Connections that tasks keep up.

use std::sync::Arc;

use tokio::{
    runtime::{Handle, Id},
    sync::Mutex,
};

/// A connection that carries all requests of a client.
pub(crate) trait Connection: Sized {
    type Options;
    type Failure;

    /// Connects to the server.
    fn open(
        options: &Self::Options,
    ) -> impl Future<Output = Result<Self, Self::Failure>> + Send + '_;

    /// Whether requests can be made.
    fn is_of_use(&self) -> bool;

    /// Whether this says that the connection may be of no use any more.
    fn is_broken(failure: &Self::Failure) -> bool;
}

/// The connection of a client, if there is one.
///
/// The tasks that keep it up are of the runtime where it was made. It is not used on another: the one it is
/// of may be about to end, which shows no earlier than in the middle of a request.
pub(crate) struct Connected<C>(Mutex<Option<(Id, Arc<C>)>>);

impl<C: Connection> Connected<C> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// The connection where it is of use, or else a new one.
    pub(crate) async fn get(&self, options: &C::Options) -> Result<Arc<C>, C::Failure> {
        let here = Handle::current().id();
        let mut held = self.0.lock().await;
        if let Some((made, connection)) = held.as_ref()
            && *made == here
            && connection.is_of_use()
        {
            return Ok(connection.clone());
        }
        let connection = Arc::new(C::open(options).await?);
        *held = Some((here, connection.clone()));
        Ok(connection)
    }

    /// Does what may be done twice, and does it again where the connection turns out to have broken.
    pub(crate) async fn repeatedly<T, W: Future<Output = Result<T, C::Failure>>>(
        &self,
        options: &C::Options,
        work: impl Fn(Arc<C>) -> W,
    ) -> Result<T, C::Failure> {
        match work(self.get(options).await?).await {
            Err(failure) if C::is_broken(&failure) => {
                self.forget();
                work(self.get(options).await?).await
            }
            done => done,
        }
    }

    /// Makes the next one to ask connect anew.
    pub(crate) fn forget(&self) {
        // Whoever holds the lock is looking at it.
        if let Ok(mut held) = self.0.try_lock() {
            *held = None;
        }
    }
}
