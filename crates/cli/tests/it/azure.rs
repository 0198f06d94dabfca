//! Replicas in Azure Blob Storage, together with the official Litestream.

use evertide_testkit::AzureServer;

use super::interop::{self, Store};

/// A container that both know: Evertide by its URL, Litestream by settings, since it takes no endpoint from a URL.
fn container() -> (AzureServer, Store) {
    let server = AzureServer::start();
    let (account, container) = (AzureServer::ACCOUNT, AzureServer::CONTAINER);
    let endpoint = server.endpoint();
    let url = format!("abs://{account}@{container}/backup/app?endpoint={endpoint}");
    let environment = [
        ("AZURE_STORAGE_KEY", AzureServer::KEY.to_owned()),
        ("LITESTREAM_AZURE_ACCOUNT_KEY", AzureServer::KEY.to_owned()),
    ];
    let mut store = Store::new(url, environment.to_vec());
    let database = store.place.path("app.db");
    let yaml = format!(
        "dbs: [{{path: '{}', replica: {{type: abs, account-name: {account}, bucket: {container}, \
         path: backup/app, endpoint: '{endpoint}'}}}}]\n",
        database.display()
    );
    store.place.write("litestream.yml", &yaml);
    store.official_config = Some("litestream.yml");
    (server, store)
}

#[test]
fn what_we_wrote_to_a_container_of_azure_both_programs_restore() {
    let (_server, store) = container();
    interop::both_programs_restore_what_we_wrote(&store);
}

#[test]
fn what_litestream_0_3_wrote_to_a_container_of_azure_we_restore() {
    let (server, store) = container();
    let settings = format!(
        "type: abs, account-name: {}, bucket: {}, path: backup/app, endpoint: '{}'",
        AzureServer::ACCOUNT,
        AzureServer::CONTAINER,
        server.endpoint()
    );
    interop::what_litestream_0_3_wrote_we_restore(&store, &settings);
}

#[test]
fn what_litestream_wrote_to_a_container_of_azure_we_restore_and_continue() {
    let (_server, store) = container();
    interop::we_go_on_with_what_litestream_wrote(&store);
}
