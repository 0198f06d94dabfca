//! What a server says about the content of a folder (RFC 4918, section 14).

use std::time::SystemTime;

use percent_encoding::percent_decode_str;
use quick_xml::{
    NsReader,
    events::Event,
    name::{Namespace, ResolveResult},
};

use crate::web;

/// What is asked for.
pub(super) const REQUEST: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>";

/// A file or folder.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Entry {
    /// Its name in the folder, without escapes.
    pub(super) name: String,
    pub(super) is_folder: bool,
    /// In bytes.
    pub(super) size: Option<u64>,
    pub(super) modified: Option<SystemTime>,
}

/// Reads an answer. What it says of the folder itself is left out.
pub(super) fn read(xml: &str) -> Result<Vec<Entry>, String> {
    let mut found = entries(xml)?;
    // The folder's own path is the only one that all others begin with, and so the shortest.
    let length = |(path, _): &(String, Entry)| path.trim_end_matches('/').len();
    let own = (0..found.len()).min_by_key(|at| found.get(*at).map(length));
    if let Some(own) = own {
        found.remove(own);
    }
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
}

/// All entries, each with its path as it stands there.
fn entries(xml: &str) -> Result<Vec<(String, Entry)>, String> {
    let mut reader = NsReader::from_str(xml);
    let mut found = Vec::new();
    let mut text = String::new();
    let mut path = String::new();
    let mut entry = Entry::default();
    let mut is_whole = false;
    loop {
        let (namespace, event) = reader
            .read_resolved_event()
            .map_err(|error| error.to_string())?;
        let in_dav = namespace == ResolveResult::Bound(Namespace("DAV:"));
        match event {
            Event::Start(tag) if in_dav => {
                text.clear();
                match tag.local_name().as_ref() {
                    "response" => (path, entry) = Default::default(),
                    "collection" => entry.is_folder = true,
                    _ => {}
                }
            }
            Event::Empty(tag) if in_dav => match tag.local_name().as_ref() {
                "multistatus" => is_whole = true,
                "collection" => entry.is_folder = true,
                _ => {}
            },
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::CData(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(reference) => text.push(resolved(&reference)?),
            Event::End(tag) if in_dav => match tag.local_name().as_ref() {
                // An answer may have properties it does not know, without content.
                "href" if path.is_empty() => path = text.trim().to_owned(),
                "getcontentlength" => entry.size = text.trim().parse().ok().or(entry.size),
                "getlastmodified" => entry.modified = web::time(text.trim()).or(entry.modified),
                "multistatus" => is_whole = true,
                "response" => {
                    entry.name = name(&path).ok_or("a path in it is not UTF-8")?;
                    found.push((std::mem::take(&mut path), std::mem::take(&mut entry)));
                }
                _ => {}
            },
            Event::Eof if is_whole => return Ok(found),
            Event::Eof => return Err("it is no list of files".to_owned()),
            _ => {}
        }
    }
}

/// The character that an entity stands for.
fn resolved(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, String> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Ok(character);
    }
    match &**reference {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err("it has an unknown entity".to_owned()),
    }
}

/// The last part of a path.
fn name(path: &str) -> Option<String> {
    let last = path.trim_end_matches('/').rsplit('/').next()?;
    Some(percent_decode_str(last).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As Apache answers.
    const APACHE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:"><D:href>/dav/a%20b/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Mon, 12 Jan 1998 09:25:56 GMT</lp1:getlastmodified>
</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/a%20b/b%C3%BCro%26&amp;</D:href><D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>12</lp1:getcontentlength>
<lp1:getlastmodified>Mon, 12 Jan 1998 09:25:56 GMT</lp1:getlastmodified>
</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
</D:multistatus>"#;

    /// As others may: the folder last and without a slash, whole URLs, other prefixes, properties not known.
    const ANOTHER: &str = r#"<multistatus xmlns="DAV:" xmlns:x="http://example.org/">
<response><href>http://host/dav/sub/</href><propstat><prop><resourcetype><collection></collection></resourcetype>
<x:getcontentlength>7</x:getcontentlength></prop><status>HTTP/1.1 200 OK</status></propstat>
<propstat><prop><getcontentlength/></prop><status>HTTP/1.1 404 Not Found</status></propstat></response>
<response><href>http://host/dav</href></response></multistatus>"#;

    #[test]
    fn the_files_of_a_folder_are_read_whatever_the_form_of_the_answer() {
        let expected = Entry {
            name: "büro&&".into(),
            is_folder: false,
            size: Some(12),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(884_597_156)),
        };
        assert_eq!(read(APACHE).unwrap(), [expected]);
        let expected = Entry {
            name: "sub".into(),
            is_folder: true,
            ..Entry::default()
        };
        assert_eq!(read(ANOTHER).unwrap(), [expected]);
        assert_eq!(read("<multistatus xmlns='DAV:'/>").err(), None);
    }

    #[test]
    fn what_is_no_list_is_no_empty_folder() {
        let cut = &APACHE[..APACHE.len() / 2];
        for text in [
            "",
            "<html><body>Log in</body></html>",
            "<multistatus/>",
            cut,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
