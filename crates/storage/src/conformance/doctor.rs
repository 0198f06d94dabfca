//! The case of the examination of a destination.

use super::Replicas;
use crate::{Ability, SystemClock, Verdict, doctor::try_everything};

/// Whoever asks what a store can do is told what it promises, and finds the store as it was.
pub async fn an_examination_finds_what_the_store_promises(replicas: &impl Replicas) {
    let client = replicas.open("one");
    let found = try_everything(&*client, &SystemClock).await;
    let promised = client.capabilities();
    let abilities = [
        (Ability::List, true),
        (Ability::Put, true),
        (Ability::Get, true),
        (Ability::ConditionalCreate, promised.conditional_create),
        (Ability::CompareAndSet, promised.compare_and_set),
        // Not every store has one, and all of these are on this machine.
        (Ability::Clock, found.clock_ahead_ms.is_some()),
        (Ability::Delete, true),
    ];
    assert_eq!(found.verdicts.len(), abilities.len());
    for ((ability, verdict), expected) in found.verdicts.iter().zip(abilities) {
        let works = match verdict {
            Verdict::Works => true,
            Verdict::NotPromised => false,
            other => panic!("{ability:?}: {other:?}"),
        };
        assert_eq!((*ability, works), expected, "{found:?}");
    }
    assert!(found.works());
    assert_eq!(client.list_small().await.expect("list"), []);
}
