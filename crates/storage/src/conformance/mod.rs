//! What every client must do, as tests.
//!
//! A backend joins with one line, see [`conformance!`](crate::conformance!). Each case gets clients
//! from a function that takes a path, such as `one` or `with space/é/100%`, and gives the client of
//! an empty replica there; the same path gives the same replica within a case.

mod body;
mod cases;
mod doctor;
mod lease;
mod puts;

pub use self::{
    body::{Gauge, Pieces},
    cases::*,
    doctor::an_examination_finds_what_the_store_promises,
    lease::of_several_writers_one_has_the_lease,
    puts::*,
};

/// Makes one `#[tokio::test]` of each case.
///
/// ```ignore
/// mod memory {
///     evertide_storage::conformance!(Store::new());
/// }
/// ```
///
/// The expression is evaluated once per test. Its value must implement
/// [`Replicas`](crate::conformance::Replicas).
#[macro_export]
macro_rules! conformance {
    ($store:expr) => {
        $crate::conformance!(@cases $store;
            an_object_reads_back_as_it_was_put
            a_range_gives_those_bytes_and_no_others
            a_missing_object_is_not_found
            five_thousand_objects_are_listed_in_order
            levels_and_replicas_do_not_mix
            a_deleted_object_is_gone
            an_existing_object_is_never_replaced
            of_two_creators_one_wins
            a_large_body_is_streamed_in_bounded_memory
            a_put_dropped_at_any_point_leaves_nothing_torn
            a_put_that_waits_for_its_body_and_is_dropped_leaves_nothing
            a_body_that_fails_leaves_nothing
            the_time_of_creation_is_kept
            odd_paths_are_ordinary_paths
            small_objects_are_stored_apart
            what_is_too_long_for_a_small_object_is_not_read
            an_object_that_somebody_changed_is_not_replaced
            many_who_count_at_the_same_time_lose_nothing
            of_several_writers_one_has_the_lease
            an_examination_finds_what_the_store_promises
        );
    };
    (@cases $store:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let store = $store;
                $crate::conformance::$case(&store).await;
            }
        )*
    };
}

/// Somewhere to put replicas.
pub trait Replicas {
    /// The replica at this path, empty at first; later calls with the same path give the same
    /// replica.
    fn open(&self, path: &str) -> std::sync::Arc<dyn crate::ReplicaClient>;

    /// How exactly the store itself keeps times. What is finer is then read from the LTX file, which the
    /// contents of the cases are not.
    fn resolution(&self) -> std::time::Duration {
        std::time::Duration::from_millis(1)
    }

    /// Whether a replica can be below another one, as in directories.
    fn nest(&self) -> bool {
        true
    }

    /// Whether the server heeds conditions on what it is given in parts. Where it does not, the requests themselves have
    /// to be looked at.
    fn heeds_conditions_in_parts(&self) -> bool {
        true
    }

    /// Uploads that were begun and neither finished nor given up, where the server tells.
    fn unfinished(&self) -> usize {
        0
    }

    /// A replica with LTX files 1 to 5,000, each of one byte, on level 0: for stores that take long to be
    /// given them one by one.
    fn full(&self) -> Option<std::sync::Arc<dyn crate::ReplicaClient>> {
        None
    }
}
