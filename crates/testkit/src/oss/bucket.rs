//! What is in the bucket.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use jiff::Timestamp;

/// User metadata: names without what they begin with, and values.
pub(super) type Metadata = Vec<(String, String)>;

#[derive(Debug, Default)]
pub(super) struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: HashMap<String, Upload>,
    stored: u64,
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) content: Bytes,
    pub(super) metadata: Metadata,
    pub(super) etag: String,
    pub(super) modified: Timestamp,
}

#[derive(Debug)]
struct Upload {
    key: String,
    metadata: Metadata,
    parts: BTreeMap<u32, Bytes>,
}

/// Part of a listing.
pub(super) struct Page<'a> {
    pub(super) objects: Vec<(&'a str, &'a Object)>,
    pub(super) folders: Vec<String>,
    /// What the next page begins after.
    pub(super) next: Option<String>,
}

impl Bucket {
    pub(super) fn keys(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let metadata = &self.objects.get(key)?.metadata;
        let found = metadata.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone())
    }

    pub(super) fn uploads(&self) -> usize {
        self.uploads.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)
    }

    pub(super) fn delete(&mut self, key: &str) {
        self.objects.remove(key);
    }

    /// Stores an object; its ETag. (A random one would do as well: it tells contents apart.)
    pub(super) fn put(&mut self, key: &str, content: Bytes, metadata: Metadata) -> String {
        self.stored += 1;
        let etag = format!("\"{:032X}\"", self.stored);
        let object = Object {
            content,
            metadata,
            etag: etag.clone(),
            modified: Timestamp::now(),
        };
        self.objects.insert(key.to_owned(), object);
        etag
    }

    pub(super) fn begin(&mut self, key: &str, metadata: Metadata) -> String {
        let id = format!("{:016X}{:016X}", fastrand::u64(..), fastrand::u64(..));
        let upload = Upload {
            key: key.to_owned(),
            metadata,
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        id
    }

    pub(super) fn put_part(&mut self, id: &str, number: u32, content: Bytes) -> Option<String> {
        let upload = self.uploads.get_mut(id)?;
        upload.parts.insert(number, content);
        Some(format!("\"{number:032X}\""))
    }

    /// Makes an object of an upload; its ETag.
    pub(super) fn complete(&mut self, id: &str) -> Option<String> {
        let upload = self.uploads.remove(id)?;
        let parts: Vec<_> = upload.parts.into_values().collect();
        Some(self.put(&upload.key, parts.concat().into(), upload.metadata))
    }

    pub(super) fn give_up(&mut self, id: &str) -> bool {
        self.uploads.remove(id).is_some()
    }

    /// At most so many objects and folders after a key.
    pub(super) fn list(&self, prefix: &str, delimiter: &str, after: &str, most: usize) -> Page<'_> {
        let mut page = Page {
            objects: Vec::new(),
            folders: Vec::new(),
            next: None,
        };
        let mut last = after.to_owned();
        let from = prefix.max(after).to_owned();
        let below = self.objects.range(from..);
        for (key, object) in below.take_while(|(key, _)| key.starts_with(prefix)) {
            let rest = &key[prefix.len()..];
            let folder = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            let folder = folder.map(|end| format!("{prefix}{}", &rest[..end + delimiter.len()]));
            let name = folder.as_ref().unwrap_or(key);
            if *name <= last && !after.is_empty()
                || page.folders.last() == folder.as_ref() && folder.is_some()
            {
                continue;
            }
            if page.objects.len() + page.folders.len() == most {
                page.next = Some(last);
                break;
            }
            last.clone_from(name);
            match folder {
                Some(folder) => page.folders.push(folder),
                None => page.objects.push((key, object)),
            }
        }
        page
    }
}
