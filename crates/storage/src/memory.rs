//! A replica in memory, for tests and simulations.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use evertide_ltx::{Level, LtxName, Txid};
use futures_util::StreamExt;

use crate::{
    ByteStream, Capabilities, Error, LtxObject, Precondition, ReplicaClient, SmallKey, SmallObject,
    Version, bytes_stream,
};

/// A replica in memory, for tests and simulations. Keeps every promise of [`ReplicaClient`] except
/// durability.
#[derive(Debug, Default)]
pub struct MemoryClient {
    name: String,
    local: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ltx: BTreeMap<(Level, LtxName), (Bytes, SystemTime)>,
    small: BTreeMap<SmallKey, (Bytes, u64)>,
    /// How often a small object was stored; the versions are taken from here.
    stored: u64,
}

impl MemoryClient {
    /// An empty replica. The name is for its location, `memory:<name>`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            local: true,
            state: Mutex::default(),
        }
    }

    /// The same, which says of itself that it is a service and no file system.
    pub fn service(name: impl Into<String>) -> Self {
        Self {
            local: false,
            ..Self::new(name)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ReplicaClient for MemoryClient {
    fn location(&self) -> String {
        format!("memory:{}", self.name)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            conditional_create: true,
            compare_and_set: true,
            local: self.local,
        }
    }

    async fn list(&self, level: Level, after: Option<Txid>) -> Result<Vec<LtxObject>, Error> {
        let state = self.state();
        let objects = state
            .ltx
            .iter()
            .filter(|((of, name), _)| *of == level && after.is_none_or(|after| after < name.min));
        let objects = objects.map(|((_, name), (content, created))| LtxObject {
            level,
            name: *name,
            size: content.len() as u64,
            created: *created,
        });
        Ok(objects.collect())
    }

    async fn get(
        &self,
        level: Level,
        name: LtxName,
        range: Option<Range<u64>>,
    ) -> Result<ByteStream, Error> {
        let object = || format!("ltx/{level}/{name}");
        let content = self
            .state()
            .ltx
            .get(&(level, name))
            .map(|(content, _)| content.clone());
        let Some(content) = content else {
            return Err(Error::NotFound {
                location: self.location(),
                object: object(),
            });
        };
        let size = content.len() as u64;
        let Range { start, end } = range.unwrap_or(0..size);
        let slice = match (usize::try_from(start), usize::try_from(end)) {
            (Ok(from), Ok(to)) if from <= to && end <= size => content.slice(from..to),
            _ => {
                let (location, object) = (self.location(), object());
                return Err(Error::OutOfRange {
                    location,
                    object,
                    size,
                    start,
                    end,
                });
            }
        };
        Ok(bytes_stream(slice))
    }

    async fn put(
        &self,
        level: Level,
        name: LtxName,
        created: SystemTime,
        mut body: ByteStream,
    ) -> Result<LtxObject, Error> {
        let object = format!("ltx/{level}/{name}");
        let mut content = BytesMut::new();
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => content.extend_from_slice(&chunk),
                Err(source) => {
                    return Err(Error::Body {
                        location: self.location(),
                        object,
                        source,
                    });
                }
            }
        }
        let size = content.len() as u64;
        let mut state = self.state();
        if state.ltx.contains_key(&(level, name)) {
            return Err(Error::AlreadyExists {
                location: self.location(),
                object,
            });
        }
        state.ltx.insert((level, name), (content.freeze(), created));
        Ok(LtxObject {
            level,
            name,
            size,
            created,
        })
    }

    async fn delete(&self, level: Level, names: &[LtxName]) -> Result<(), Error> {
        let mut state = self.state();
        for name in names {
            state.ltx.remove(&(level, *name));
        }
        Ok(())
    }

    async fn get_small(&self, key: &SmallKey) -> Result<Option<SmallObject>, Error> {
        let state = self.state();
        let found = state.small.get(key).map(|(content, number)| SmallObject {
            content: content.clone(),
            version: version(*number),
        });
        Ok(found)
    }

    async fn put_small(
        &self,
        key: &SmallKey,
        content: Bytes,
        precondition: Precondition,
    ) -> Result<Version, Error> {
        let mut state = self.state();
        let found = state.small.get(key).map(|(_, number)| version(*number));
        let (location, object) = (self.location(), format!("evertide/{key}"));
        match precondition {
            Precondition::Absent if found.is_some() => {
                return Err(Error::AlreadyExists { location, object });
            }
            Precondition::Unchanged(expected) if found != Some(expected.clone()) => {
                return Err(Error::Changed { location, object });
            }
            _ => {}
        }
        state.stored += 1;
        let number = state.stored;
        state.small.insert(key.clone(), (content, number));
        Ok(version(number))
    }

    async fn list_small(&self) -> Result<Vec<SmallKey>, Error> {
        Ok(self.state().small.keys().cloned().collect())
    }

    async fn delete_small(&self, key: &SmallKey) -> Result<(), Error> {
        self.state().small.remove(key);
        Ok(())
    }
}

fn version(number: u64) -> Version {
    Version::new(number.to_string())
}
