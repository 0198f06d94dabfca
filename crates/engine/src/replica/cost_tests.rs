//! What a replica costs: the requests of the real task of a replica in hours of a clock that stands still while
//! anything works, and the table of docs/costs.md, which is computed from them.

use std::{path::Path, sync::Arc, time::Duration};

use evertide_storage::{MemoryClient, Requests};

use super::scene::Scene;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// What a month has on average.
const HOURS_OF_A_MONTH: f64 = 730.0;

/// How a database is written to.
struct Load {
    name: &'static str,
    /// Between two commits, if there are any.
    pause: Option<Duration>,
    sync_interval: Duration,
}

const LOADS: [Load; 6] = [
    Load {
        name: "a writer that never pauses",
        pause: Some(Duration::from_millis(700)),
        sync_interval: SECOND,
    },
    Load {
        name: "the same, `sync_interval = \"10s\"`",
        pause: Some(Duration::from_millis(4_000)),
        sync_interval: Duration::from_secs(10),
    },
    Load {
        name: "the same, `sync_interval = \"1m\"`",
        pause: Some(Duration::from_secs(20)),
        sync_interval: MINUTE,
    },
    Load {
        name: "a commit in each minute",
        pause: Some(MINUTE),
        sync_interval: SECOND,
    },
    Load {
        name: "a commit in each hour",
        pause: Some(HOUR),
        sync_interval: SECOND,
    },
    Load {
        name: "nobody writes",
        pause: None,
        sync_interval: SECOND,
    },
];

/// Requests in an hour.
#[derive(Clone, Copy, Default, Debug)]
struct Rates {
    put: f64,
    get: f64,
    list: f64,
    delete: f64,
}

impl Load {
    /// The most there can be with the default settings, as docs/costs.md says it.
    fn most(&self) -> Rates {
        let Some(pause) = self.pause else {
            return Rates::default();
        };
        let uploads = HOUR.as_secs_f64() / pause.max(self.sync_interval).as_secs_f64();
        let [half_minutes, five_minutes, hours] = [120.0, 12.0, 1.0].map(|most| uploads.min(most));
        let (lease, checksums) = ((4.0 * uploads).min(60.0), uploads.min(6.0));
        let snapshot = 1.0 / 24.0;
        Rates {
            put: uploads + half_minutes + five_minutes + hours + snapshot + lease + checksums,
            get: 2.0 * half_minutes + five_minutes + hours * snapshot + uploads.min(192.0),
            list: 0.0,
            delete: five_minutes,
        }
    }
}

fn between(before: Requests, after: Requests, hours: u32) -> Rates {
    let rate = |before, after| (after - before) as f64 / f64::from(hours);
    Rates {
        put: rate(before.put, after.put),
        get: rate(before.get, after.get),
        list: rate(before.list, after.list),
        delete: rate(before.delete, after.delete),
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_compaction_and_little_else_is_paid_for_and_nothing_while_nobody_writes() {
    for load in LOADS {
        let hours = match load.pause {
            Some(pause) if pause < MINUTE => 1,
            _ => 22,
        };
        let mut scene = Scene::start(
            Arc::new(MemoryClient::service("bucket")),
            load.sync_interval,
        );
        let database = &mut scene.database;
        database
            .live(12 * MINUTE, Some(load.pause.unwrap_or(MINUTE)))
            .await;
        if load.pause.is_none() {
            // What was written is compacted, and the day gets its snapshot.
            database.live(25 * HOUR, None).await;
        }
        let before = scene.client.requests();
        database.live(hours * HOUR, load.pause).await;
        let found = between(before, scene.client.requests(), hours);
        scene.cancel.cancel();
        let most = load.most();
        eprintln!("{}: {found:?} of {most:?}", load.name);
        let kinds = [
            (found.put, most.put),
            (found.get, most.get),
            (found.list, most.list),
            (found.delete, most.delete),
        ];
        // A window may end on either side of the hours that are looked at, where there is one.
        let one_more = load.pause.map_or(0.0, |_| 1.0 / f64::from(hours));
        for (found, most) in kinds {
            assert!(found <= most + one_more, "{}", load.name);
            assert!(found >= 0.8 * most, "{}: the table is too dear", load.name);
        }
    }
}

/// What a service wants for a thousand requests, in dollars.
struct Prices {
    name: &'static str,
    put: f64,
    list: f64,
    get: f64,
    delete: f64,
}

/// List prices, without what is free in each month.
const PRICES: [Prices; 4] = [
    Prices {
        name: "Amazon S3",
        put: 0.005,
        list: 0.005,
        get: 0.0004,
        delete: 0.0,
    },
    Prices {
        name: "Cloudflare R2",
        put: 0.0045,
        list: 0.0045,
        get: 0.00036,
        delete: 0.0,
    },
    Prices {
        name: "Google Cloud Storage",
        put: 0.005,
        list: 0.005,
        get: 0.0004,
        delete: 0.0,
    },
    Prices {
        name: "Backblaze B2",
        put: 0.0,
        list: 0.004,
        get: 0.0004,
        delete: 0.0,
    },
];

/// `1234567` as `1,234,567`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn table() -> String {
    let names = PRICES.map(|prices| prices.name).join(" | ");
    let mut table = format!("| load | PUT | GET | LIST | DELETE | {names} |\n|---|");
    table.push_str(&"---:|".repeat(4 + PRICES.len()));
    for load in LOADS {
        let a_month = |rate: f64| rate * HOURS_OF_A_MONTH;
        let Rates {
            put,
            get,
            list,
            delete,
        } = load.most();
        table.push_str(&format!("\n| {} |", load.name));
        for rate in [put, get, list, delete] {
            table.push_str(&format!(" {} |", grouped(a_month(rate))));
        }
        for prices in PRICES {
            let price =
                put * prices.put + get * prices.get + list * prices.list + delete * prices.delete;
            table.push_str(&format!(" ${:.2} |", a_month(price) / 1_000.0));
        }
    }
    table
}

#[test]
#[allow(clippy::disallowed_methods)] // the document is none of the product's files
fn the_table_of_costs_is_the_one_that_the_counts_give() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/costs.md");
    let document = std::fs::read_to_string(path).unwrap();
    let table = table();
    assert!(
        document.contains(&table),
        "docs/costs.md has to have this table:\n{table}"
    );
}
