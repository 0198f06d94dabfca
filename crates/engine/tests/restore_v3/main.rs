//! Restoring replicas that the real Litestream 0.3.13 wrote, page for page.

mod damage;
mod formats;
mod golden;
mod live;
mod scene;
