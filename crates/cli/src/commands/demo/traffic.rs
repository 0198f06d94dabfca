//! Customers of the demo's application.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use super::{app::Order, client::Client, process::Application};

/// Orders for which the application has answered, as ID and item.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    /// Answered when every replica had them.
    pub(super) durable: Vec<(i64, String)>,
    /// Answered when they were committed.
    pub(super) others: Vec<(i64, String)>,
}

impl Confirmed {
    fn add(&mut self, durable: bool, id: i64, item: String) {
        let list = if durable {
            &mut self.durable
        } else {
            &mut self.others
        };
        list.push((id, item));
    }

    fn append(&mut self, mut other: Self) {
        self.durable.append(&mut other.durable);
        self.others.append(&mut other.others);
    }
}

/// How long it took from commits to the replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lags {
    pub(super) median: Duration,
    pub(super) worst: Duration,
}

fn order(customer: usize, serial: usize, durable: bool) -> Order {
    const GOODS: [&str; 5] = ["tea", "bread", "a lamp", "two apples", "a very long rope"];
    let goods = GOODS.get(serial % GOODS.len()).unwrap_or(&"tea");
    Order {
        item: format!("{goods}, for customer {customer}, order {serial}"),
        durable,
    }
}

/// One customer places orders with pauses, and waits for the replica each time.
pub(super) async fn one_by_one(
    address: SocketAddr,
    count: usize,
    confirmed: &mut Confirmed,
) -> anyhow::Result<Lags> {
    let mut client = Client::connect(address).await?;
    let mut lags = Vec::with_capacity(count);
    for serial in 0..count {
        let order = order(0, serial, true);
        let placed = client.place(&order).await?;
        let lag = placed
            .lag_us
            .context("the application did not wait for the replica")?;
        lags.push(Duration::from_micros(lag));
        confirmed.add(true, placed.id, order.item);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lags.sort_unstable();
    let median = lags.get(lags.len() / 2).copied().unwrap_or_default();
    Ok(Lags {
        median,
        worst: lags.last().copied().unwrap_or_default(),
    })
}

/// What a burst came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    pub(super) orders: usize,
    pub(super) customers: usize,
    pub(super) took: Duration,
}

/// Several customers place orders as fast as they can, and do not wait for the replica.
pub(super) async fn burst(
    address: SocketAddr,
    length: Duration,
    confirmed: &mut Confirmed,
) -> anyhow::Result<Burst> {
    const CUSTOMERS: usize = 4;
    let began = Instant::now();
    let mut customers = JoinSet::new();
    for customer in 1..=CUSTOMERS {
        customers.spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut mine = Confirmed::default();
            let mut serial = 0;
            while began.elapsed() < length {
                serial += 1;
                let order = order(customer, serial, false);
                let placed = client.place(&order).await?;
                mine.add(false, placed.id, order.item);
            }
            Ok::<_, anyhow::Error>(mine)
        });
    }
    let before = confirmed.others.len();
    while let Some(done) = customers.join_next().await {
        confirmed.append(done??);
    }
    let orders = confirmed.others.len() - before;
    Ok(Burst {
        orders,
        customers: CUSTOMERS,
        took: began.elapsed(),
    })
}

/// Customers place orders, some waiting for the replica and some not, while the application is
/// killed. How many were waiting for an answer at that moment.
pub(super) async fn until_killed(
    application: Application,
    confirmed: &mut Confirmed,
) -> anyhow::Result<usize> {
    const WAITING: usize = 3;
    const OTHERS: usize = 2;
    let address = application.address;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut customers = JoinSet::new();
    for customer in 10..10 + WAITING + OTHERS {
        let durable = customer < 10 + WAITING;
        let answered = Arc::clone(&answered);
        customers.spawn(async move {
            let mut mine = Confirmed::default();
            let mut client = Client::connect(address).await?;
            for serial in 0.. {
                let order = order(customer, serial, durable);
                // The end is an error, and the only one there is.
                let Ok(placed) = client.place(&order).await else {
                    break;
                };
                mine.add(durable, placed.id, order.item);
                if durable {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<_, anyhow::Error>(mine)
        });
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while answered.load(Ordering::Relaxed) < 100 {
        if Instant::now() > deadline {
            bail!("the application stopped answering: 100 replicated orders were expected in 10 s");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    application.kill().await?;
    let mut cut_short = 0;
    while let Some(done) = customers.join_next().await {
        confirmed.append(done??);
        cut_short += 1;
    }
    Ok(cut_short)
}
