//! Whatever a server answers when it is asked for the files of a folder.

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use evertide_testkit::{Fuzz, phrase};

use super::listing::{Entry, read};

const CORPUS: [&str; 4] = [
    r#"<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:"><D:response xmlns:l="DAV:">
<D:href>/dav/a%20b/</D:href><D:propstat><D:prop><l:resourcetype><D:collection/></l:resourcetype></D:prop></D:propstat>
</D:response><D:response xmlns:l="DAV:"><D:href>/dav/a%20b/b%C3%BCro%26&amp;</D:href><D:propstat><D:prop>
<l:resourcetype/><l:getcontentlength>12</l:getcontentlength>
<l:getlastmodified>Mon, 12 Jan 1998 09:25:56 GMT</l:getlastmodified></D:prop></D:propstat></D:response></D:multistatus>"#,
    r#"<multistatus xmlns="DAV:" xmlns:x="http://example.org/"><response><href>http://host/dav/sub/</href><propstat><prop>
<resourcetype><collection></collection></resourcetype><x:getcontentlength>7</x:getcontentlength></prop></propstat>
<propstat><prop><getcontentlength/></prop></propstat></response>
<response><href>http://host/dav</href></response></multistatus>"#,
    "<multistatus xmlns='DAV:'/>",
    "<html><body>Log in</body></html>",
];

/// So much of an error says which it is; what follows quotes the answer.
const KIND: usize = 36;

/// The answer of a server that has these files and nothing else.
fn answer(entries: &[Entry]) -> String {
    let mut text = "<multistatus xmlns=\"DAV:\"><response><href>/</href></response>".to_owned();
    for entry in entries {
        let name = utf8_percent_encode(&entry.name, NON_ALPHANUMERIC);
        text += &format!("<response><href>/{name}</href><propstat><prop>");
        if entry.is_folder {
            text += "<resourcetype><collection/></resourcetype>";
        }
        if let Some(size) = entry.size {
            text += &format!("<getcontentlength>{size}</getcontentlength>");
        }
        let time = entry
            .modified
            .and_then(|time| Timestamp::try_from(time).ok());
        let time = time.and_then(|time| {
            DateTimePrinter::new()
                .timestamp_to_rfc9110_string(&time)
                .ok()
        });
        if let Some(time) = time {
            text += &format!("<getlastmodified>{time}</getlastmodified>");
        }
        text += "</prop></propstat></response>";
    }
    text + "</multistatus>"
}

#[test]
fn no_answer_of_a_server_is_read_as_files_that_another_could_not_have() {
    let words = [
        "<response>",
        "</response>",
        "</multistatus>",
        "<href>",
        "<collection/>",
        "<getcontentlength>",
        "18446744073709551616",
        "<getlastmodified>",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "xmlns=\"DAV:\"",
        "&amp;",
        "&#0;",
        "&#x10ffff;",
        "&lol;",
        "<![CDATA[",
        "]]>",
        "<!-- ",
        "<!DOCTYPE multistatus [<!ENTITY lol \"lol\">]>",
        "%",
        "%2F",
        "%ff",
        "..",
        "/",
    ];
    Fuzz::target("webdav")
        .corpus(CORPUS)
        .words(&words)
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input.bytes) else {
                return "no text".into();
            };
            let mut entries = match read(text) {
                Ok(entries) => entries,
                Err(error) => return phrase(&error).chars().take(KIND).collect(),
            };
            assert!(entries.len() <= text.matches("response").count());
            // Without a name it is no file of any folder.
            entries.retain(|entry| !entry.name.is_empty());
            let written = answer(&entries);
            assert_eq!(read(&written).as_ref(), Ok(&entries), "{written}");
            // An answer that breaks off is no shorter list.
            let part = usize::from(input.other.last().copied().unwrap_or_default());
            let cut = written.floor_char_boundary(written.len() * part / 256);
            assert!(read(&written[..cut]).is_err(), "{}", &written[..cut]);
            format!("{} files", entries.len().min(3))
        })
        .assert_reached(&["0 files", "1 files", "it is no list of files"], 6);
}
