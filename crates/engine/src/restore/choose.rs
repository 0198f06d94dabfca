//! Which format is restored, where a replica has files of Litestream 0.3 and LTX files.

use std::time::SystemTime;

use evertide_storage::{LtxObject, ReplicaClient, V3Object};

use super::{RestoreError, RestorePlan, RestoreTarget, fetch::listing, plan::plan, v3};

/// Plans the restore of a replica as it is now.
pub(super) async fn plan_now(
    client: &dyn ReplicaClient,
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    match plan_of_one_look(client, target).await {
        // A snapshot and what follows it may have been stored since the level of snapshots was listed.
        Err(RestoreError::Gap { .. }) => plan_of_one_look(client, target).await,
        planned => planned,
    }
}

async fn plan_of_one_look(
    client: &dyn ReplicaClient,
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    let ltx = listing(client, target).await?;
    if let (RestoreTarget::Txid(_), false) = (target, ltx.is_empty()) {
        return plan_ltx(client, &ltx, target); // only this format has transaction IDs
    }
    let v3 = client.list_v3().await?;
    let plan = match choose(&ltx, &v3, target) {
        Format::Ltx => plan_ltx(client, &ltx, target),
        Format::V3 => plan_v3(client, &v3, target),
    };
    Ok(plan?.compared_with(&ltx, &v3))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Ltx,
    V3,
}

/// The format with the newest file that the target admits: what reaches furthest is what was written
/// last. That it cannot be restored is no reason to take the other one, which would be an older
/// database, in silence.
fn choose(ltx: &[LtxObject], v3: &[V3Object], target: RestoreTarget) -> Format {
    let time = wanted_time(target);
    let newest_ltx = ltx
        .iter()
        .filter(|file| target.admits(file))
        .map(|file| file.created)
        .max();
    let newest_v3 = v3
        .iter()
        .map(|file| file.created)
        .filter(|created| time.is_none_or(|time| *created <= time))
        .max();
    match (newest_ltx, newest_v3) {
        (Some(ltx), Some(v3)) if v3 > ltx => Format::V3,
        (Some(_), _) => Format::Ltx,
        (None, Some(_)) => Format::V3,
        (None, None) if v3.is_empty() => Format::Ltx,
        (None, None) => Format::V3, // it is the older one, and says when it begins
    }
}

fn wanted_time(target: RestoreTarget) -> Option<SystemTime> {
    match target {
        RestoreTarget::Timestamp(time) => Some(time),
        RestoreTarget::Latest | RestoreTarget::Txid(_) => None,
    }
}

fn plan_ltx(
    client: &dyn ReplicaClient,
    files: &[LtxObject],
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    plan(files, target).map_err(|obstacle| RestoreError::obstacle(client.location(), obstacle))
}

fn plan_v3(
    client: &dyn ReplicaClient,
    files: &[V3Object],
    target: RestoreTarget,
) -> Result<RestorePlan, RestoreError> {
    let location = client.location();
    if let RestoreTarget::Txid(_) = target {
        return Err(RestoreError::V3HasNoTxids { location });
    }
    match v3::plan(files, wanted_time(target)) {
        Ok(Some(files)) => Ok(RestorePlan::of_v3(files)),
        Ok(None) => Err(RestoreError::NoBackup { location }),
        Err(obstacle) => Err(RestoreError::v3_obstacle(location, obstacle)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use evertide_ltx::{Level, LtxName, Txid};
    use evertide_storage::V3Key;

    use super::*;

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn ltx(second: u64) -> LtxObject {
        LtxObject {
            level: Level::L0,
            name: LtxName::new(Txid::FIRST, Txid::new(second)),
            size: 1,
            created: time(second),
        }
    }

    fn v3(second: u64) -> V3Object {
        let text = format!("generations/{:016x}/snapshots/00000000.snapshot.lz4", 1);
        V3Object {
            key: V3Key::parse(&text).unwrap(),
            size: 1,
            created: time(second),
        }
    }

    #[test]
    fn the_format_that_was_written_last_is_restored_and_at_a_time_the_one_that_was_then() {
        let at = |second| RestoreTarget::Timestamp(time(second));
        let upgraded = (vec![ltx(30), ltx(40)], vec![v3(10), v3(20)]);
        let went_back = (vec![ltx(10), ltx(20)], vec![v3(30), v3(40)]);
        let one_moment = (vec![ltx(10)], vec![v3(10)]);
        for ((ltx, v3), target, expected) in [
            (&upgraded, RestoreTarget::Latest, Format::Ltx),
            (&upgraded, at(50), Format::Ltx),
            (&upgraded, at(30), Format::Ltx),
            (&upgraded, at(29), Format::V3),
            (&upgraded, at(5), Format::V3),
            (&went_back, RestoreTarget::Latest, Format::V3),
            (&went_back, at(29), Format::Ltx),
            (&went_back, at(30), Format::V3),
            (&one_moment, RestoreTarget::Latest, Format::Ltx),
            (&(vec![], vec![v3(10)]), RestoreTarget::Latest, Format::V3),
            (&(vec![ltx(10)], vec![]), RestoreTarget::Latest, Format::Ltx),
            (&(vec![], vec![]), RestoreTarget::Latest, Format::Ltx),
        ] {
            assert_eq!(
                choose(ltx, v3, target),
                expected,
                "{ltx:?} {v3:?} {target:?}"
            );
        }
    }
}
