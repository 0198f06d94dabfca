//! Every client of this crate passes the suite.
#![allow(clippy::unwrap_used)] // a test

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use evertide_storage::{
    CountingClient, Destination, FileClient, FileOptions, MemoryClient, OsDisk, ReplicaClient,
    conformance::Replicas,
};

mod file {
    evertide_storage::conformance!(super::Directory::new());
}

mod memory {
    evertide_storage::conformance!(super::Memory::default());
}

/// Layers must not change what they pass on.
mod counted {
    evertide_storage::conformance!(super::Counted(super::Memory::default()));
}

/// The way users get a client: a `%` or a space in a URL must not change on the way.
#[tokio::test]
async fn odd_paths_survive_their_url() {
    let replicas = Url(Directory::new());
    evertide_storage::conformance::odd_paths_are_ordinary_paths(&replicas).await;
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Replicas for Directory {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        let options = FileOptions {
            path: self.0.path().join(path),
        };
        Arc::new(FileClient::new(options, Arc::new(OsDisk)))
    }
}

struct Url(Directory);

impl Replicas for Url {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        let url = format!("file://{}/{path}", self.0.0.path().display());
        let destination = Destination::parse(&url).expect("a URL");
        assert_eq!(destination.to_string(), url);
        destination.connect(Arc::new(OsDisk)).expect("a client")
    }
}

#[derive(Default)]
struct Memory(Mutex<HashMap<String, Arc<MemoryClient>>>);

impl Replicas for Memory {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        let mut replicas = self.0.lock().unwrap();
        let new = || Arc::new(MemoryClient::new(path));
        replicas.entry(path.to_owned()).or_insert_with(new).clone()
    }

    fn nest(&self) -> bool {
        false
    }
}

struct Counted(Memory);

impl Replicas for Counted {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        Arc::new(CountingClient::new(self.0.open(path)))
    }

    fn nest(&self) -> bool {
        self.0.nest()
    }
}
