//! What the server says to a request.

use std::fmt::Write;

use bytes::Bytes;
use hyper::{
    Method, Response, StatusCode,
    header::{CONTENT_RANGE, ETAG, LAST_MODIFIED},
    http::response::Builder,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    OssServer,
    bucket::{Bucket, Metadata, Object},
    request::Asked,
    signature,
};

const METADATA: &str = "x-oss-meta-";
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const REQUEST_ID: &str = "5C3D9175B6FC201293AD4890";

type Answer = Response<Bytes>;

pub(super) fn to(asked: &Asked, bucket: &mut Bucket, versioned: bool) -> Answer {
    if let Err((code, message)) = signature::check(asked) {
        return refused(asked, 403, code, message);
    }
    if asked.bucket != OssServer::BUCKET {
        let message = "The specified bucket does not exist.";
        return refused(asked, 404, "NoSuchBucket", message);
    }
    let forbidden = asked.header("x-oss-forbid-overwrite") == Some("true") && !versioned;
    if forbidden && bucket.get(&asked.key).is_some() {
        let message = "The object you specified already exists and can not be overwritten.";
        return refused(asked, 409, "FileAlreadyExists", message);
    }
    let key = asked.key.as_str();
    let upload = asked.parameter("uploadId");
    match (asked.method.as_str(), asked.what()) {
        ("GET", "list-type") if key.is_empty() => list(asked, bucket),
        ("POST", "delete") if key.is_empty() => delete_many(asked, bucket),
        (_, _) if key.is_empty() => refused(asked, 405, "MethodNotAllowed", "Not allowed."),
        ("PUT", "object") => {
            let etag = bucket.put(key, asked.body.clone(), metadata(asked));
            with(Response::builder().header(ETAG, etag), Bytes::new())
        }
        ("GET" | "HEAD", "object") => match bucket.get(key) {
            Some(object) => content(asked, object),
            None => refused(asked, 404, "NoSuchKey", "The specified key does not exist."),
        },
        ("DELETE", "object") => {
            bucket.delete(key);
            with(Response::builder().status(204), Bytes::new())
        }
        ("POST", "uploads") => {
            let id = bucket.begin(key, metadata(asked));
            xml(format!(
                "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                asked.bucket,
                escaped(key)
            ))
        }
        (_, _) => match of_upload(asked, bucket, upload.unwrap_or_default()) {
            Some(answer) => answer,
            None => refused(
                asked,
                404,
                "NoSuchUpload",
                "The specified upload does not exist.",
            ),
        },
    }
}

/// What is asked of an upload that was begun; `None` where there is no such upload.
fn of_upload(asked: &Asked, bucket: &mut Bucket, id: &str) -> Option<Answer> {
    match asked.method {
        Method::PUT => {
            let number = asked.parameter("partNumber")?.parse().ok()?;
            let etag = bucket.put_part(id, number, asked.body.clone())?;
            Some(with(Response::builder().header(ETAG, etag), Bytes::new()))
        }
        Method::POST => {
            let etag = bucket.complete(id)?;
            Some(xml(format!(
                "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag>\
                 </CompleteMultipartUploadResult>",
                asked.bucket,
                escaped(&asked.key),
                escaped(&etag)
            )))
        }
        _ => {
            let gone = bucket.give_up(id);
            gone.then(|| with(Response::builder().status(204), Bytes::new()))
        }
    }
}

fn metadata(asked: &Asked) -> Metadata {
    let ours = asked.headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(METADATA)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    });
    ours.collect()
}

fn content(asked: &Asked, object: &Object) -> Answer {
    let modified = object.modified.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let mut answer = Response::builder()
        .header(ETAG, &object.etag)
        .header(LAST_MODIFIED, modified.to_string());
    for (name, value) in &object.metadata {
        answer = answer.header(format!("{METADATA}{name}"), value);
    }
    let size = object.content.len();
    if asked.method == Method::HEAD {
        return with(answer.header("content-length", size), Bytes::new());
    }
    let Some((start, end)) = asked.header("range").and_then(|range| bounds(range, size)) else {
        return with(answer, object.content.clone());
    };
    if start >= size {
        // As others do it, where the client asks for that; the whole object otherwise.
        return match asked.header("x-oss-range-behavior") {
            Some("standard") => refused(asked, 416, "InvalidRange", "The range is not valid."),
            _ => with(answer, object.content.clone()),
        };
    }
    let range = format!("bytes {start}-{}/{size}", end - 1);
    let answer = answer.status(206).header(CONTENT_RANGE, range);
    with(answer, object.content.slice(start..end))
}

/// Start and end of a range of bytes, as far as there are so many.
fn bounds(range: &str, size: usize) -> Option<(usize, usize)> {
    let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = match last {
        "" => size,
        last => last.parse::<usize>().ok()?.saturating_add(1).min(size),
    };
    Some((start.parse().ok()?, end))
}

fn list(asked: &Asked, bucket: &Bucket) -> Answer {
    let parameter = |name| asked.parameter(name).unwrap_or_default();
    let token = asked.parameter("continuation-token");
    let after = token.unwrap_or_else(|| parameter("start-after"));
    let most = parameter("max-keys").parse().unwrap_or(100).min(1_000);
    let page = bucket.list(parameter("prefix"), parameter("delimiter"), after, most);
    let encoded = parameter("encoding-type") == "url";
    let shown = |key: &str| match encoded {
        true => utf8_percent_encode(key, NON_ALPHANUMERIC).to_string(),
        false => escaped(key),
    };
    let count = page.objects.len() + page.folders.len();
    let mut text = format!(
        "<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix><MaxKeys>{most}</MaxKeys>\
         <IsTruncated>{}</IsTruncated><KeyCount>{count}</KeyCount>",
        asked.bucket,
        shown(parameter("prefix")),
        page.next.is_some(),
    );
    if encoded {
        text += "<EncodingType>url</EncodingType>";
    }
    if let Some(next) = &page.next {
        let _ = write!(
            text,
            "<NextContinuationToken>{}</NextContinuationToken>",
            shown(next)
        );
    }
    for (key, object) in page.objects {
        let _ = write!(
            text,
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Type>Normal</Type>\
             <Size>{}</Size><StorageClass>Standard</StorageClass></Contents>",
            shown(key),
            object.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            escaped(&object.etag),
            object.content.len(),
        );
    }
    for folder in page.folders {
        let folder = shown(&folder);
        let _ = write!(
            text,
            "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        );
    }
    xml(text + "</ListBucketResult>")
}

fn delete_many(asked: &Asked, bucket: &mut Bucket) -> Answer {
    if asked.header("content-md5").is_none() {
        return refused(
            asked,
            400,
            "MissingArgument",
            "Missing Some Required Arguments.",
        );
    }
    let body = String::from_utf8_lossy(&asked.body);
    let encoded = asked.parameter("encoding-type") == Some("url");
    let mut text = "<DeleteResult>".to_owned();
    for part in body.split("<Key>").skip(1) {
        let key = part.split("</Key>").next().unwrap_or_default();
        bucket.delete(&unescaped(key));
        let key = match encoded {
            true => utf8_percent_encode(&unescaped(key), NON_ALPHANUMERIC).to_string(),
            false => key.to_owned(),
        };
        let _ = write!(text, "<Deleted><Key>{key}</Key></Deleted>");
    }
    xml(text + "</DeleteResult>")
}

fn xml(body: String) -> Answer {
    let answer = Response::builder().header("content-type", "application/xml");
    with(answer, format!("{XML}{body}").into())
}

fn refused(asked: &Asked, status: u16, code: &str, message: &str) -> Answer {
    let body = match asked.method {
        Method::HEAD => Bytes::new(),
        _ => format!(
            "{XML}<Error><Code>{code}</Code><Message>{message}</Message>\
             <RequestId>{REQUEST_ID}</RequestId><HostId>{}</HostId></Error>",
            asked.host
        )
        .into(),
    };
    let answer = Response::builder().header("content-type", "application/xml");
    with(answer.status(status), body)
}

fn with(answer: Builder, body: Bytes) -> Answer {
    let answer = answer.header("x-oss-request-id", REQUEST_ID).body(body);
    answer.unwrap_or_else(|error| {
        let mut failed = Response::new(error.to_string().into());
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}

const ENTITIES: [(&str, &str); 5] = [
    ("&", "&amp;"),
    ("<", "&lt;"),
    (">", "&gt;"),
    ("\"", "&quot;"),
    ("'", "&apos;"),
];

fn escaped(text: &str) -> String {
    let each = ENTITIES.iter();
    each.fold(text.to_owned(), |text, (plain, entity)| {
        text.replace(plain, entity)
    })
}

fn unescaped(text: &str) -> String {
    let each = ENTITIES.iter().rev();
    each.fold(text.to_owned(), |text, (plain, entity)| {
        text.replace(entity, plain)
    })
}
