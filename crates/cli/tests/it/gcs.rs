//! Replicas in Google Cloud Storage, together with the official Litestream, on an emulator that both find by the
//! same variable.

use evertide_testkit::GcsServer;

use super::interop::{self, Store};

fn bucket() -> (GcsServer, Store) {
    let server = GcsServer::start();
    let url = format!("gs://{}/backup/app", GcsServer::BUCKET);
    let store = Store::new(url, server.environment().to_vec());
    (server, store)
}

#[test]
fn what_we_wrote_to_a_bucket_of_google_both_programs_restore() {
    let (_server, store) = bucket();
    interop::both_programs_restore_what_we_wrote(&store);
}

#[test]
fn what_litestream_0_3_wrote_to_a_bucket_of_google_we_restore() {
    let (_server, store) = bucket();
    let settings = format!("type: gcs, bucket: {}, path: backup/app", GcsServer::BUCKET);
    interop::what_litestream_0_3_wrote_we_restore(&store, &settings);
}

#[test]
fn what_litestream_wrote_to_a_bucket_of_google_we_restore_and_continue() {
    let (_server, store) = bucket();
    interop::we_go_on_with_what_litestream_wrote(&store);
}
