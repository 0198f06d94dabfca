//! Tiers of retention, the same in both languages.

use std::time::Duration;

use evertide::RetentionTier;

use super::{
    error::{Mistake, Place},
    replica::{RETENTION, RETENTION_TIER_EVERY, RETENTION_TIER_KEEP},
    section::{Report, Section, similar},
};

const FIELDS: [&str; 2] = ["every", "keep"];
const TIER: &str = "a list of tiers, each such as `{ every = \"1h\", keep = \"7d\" }`,";
const HINT: &str = "say what the tier keeps, such as `{ every = \"1h\", keep = \"7d\" }`";

/// Reads what a replica keeps of states that are older than its retention: its own, or else the
/// `inherited` one.
pub(super) fn read(
    report: &mut Report,
    section: &Section<'_>,
    key: &str,
    inherited: Option<Duration>,
) -> Vec<RetentionTier> {
    let Some(field) = section.get(key).filter(|field| !field.is_empty_list()) else {
        return Vec::new();
    };
    let tables = field.tables(report, TIER, HINT);
    let (mut tiers, mut places) = (Vec::new(), Vec::new());
    for table in &tables {
        let tier = read_tier(report, table);
        tiers.extend(tier);
        let place = |key| {
            table
                .get(key)
                .map_or(table.place.clone(), |field| field.place)
        };
        places.extend(tier.map(|_| FIELDS.map(place)));
    }
    let own = section.get("retention").filter(|field| !field.is_empty());
    let retention = section.duration(report, "retention", &RETENTION);
    let torn = tables.is_empty() || tiers.len() < tables.len();
    // What is wrong between values of which some cannot be read follows from that.
    if !torn && own.is_some() == retention.is_some() {
        check(report, retention.or(inherited), &tiers, &places);
    }
    tiers
}

fn read_tier(report: &mut Report, tier: &Section<'_>) -> Option<RetentionTier> {
    for (key, field) in tier.fields().filter(|(key, _)| !FIELDS.contains(key)) {
        let (similar, expected) = (similar(key, &FIELDS), FIELDS.to_vec());
        report.add(&field.place, Mistake::UnknownKey { similar, expected });
    }
    let limits = [RETENTION_TIER_EVERY, RETENTION_TIER_KEEP];
    let mut fields = FIELDS.into_iter().zip(limits).map(|(key, limits)| {
        tier.required(report, key, HINT)?;
        tier.duration(report, key, &limits)
    });
    // Both are read, whatever the first one is like.
    let [every, keep] = [fields.next()?, fields.next()?];
    Some(RetentionTier::new(every?, keep?))
}

fn check(
    report: &mut Report,
    retention: Option<Duration>,
    tiers: &[RetentionTier],
    places: &[[Place; 2]],
) {
    for (at, field, reason) in RetentionTier::mistakes(retention, tiers) {
        let of_tier = places.get(at).into_iter().flatten().zip(FIELDS);
        for (place, _) in of_tier.filter(|(_, name)| *name == field) {
            report.add(place, Mistake::BadTier(reason));
        }
    }
}
