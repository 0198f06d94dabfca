//! What the URLs of several stores have in common.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What a path in a URL may not have as it is.
pub(crate) const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');
const IN_QUERY: &AsciiSet = &IN_PATH.add(b'&').add(b'+');

/// Text without its escapes.
pub(crate) fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    Ok(decoded
        .map_err(|_| "its escapes are not UTF-8".to_owned())?
        .into_owned())
}

/// The parameters after the `?`, decoded. Those without a value are left out.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = Result<(&str, String), String>> {
    let pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| Ok((key, decoded(value)?)))
}

/// A parameter that is `true` or `false`.
pub(crate) fn flag(key: &str, value: &str) -> Result<bool, String> {
    let parsed = value.parse();
    parsed.map_err(|_| format!("`{key}` has another value than `true` or `false`"))
}

/// What is wrong with a parameter that there is not. What is no word is not quoted: it may be a key
/// that was to be the value of one.
pub(crate) fn unknown(key: &str, expected: &str) -> String {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || b"-_".contains(&byte);
    if key.len() <= 32 && key.bytes().all(letter) {
        format!("unknown parameter `{key}`; expected {expected}")
    } else {
        format!("unknown parameter; expected {expected}")
    }
}

/// Writes a path, escaped.
pub(crate) fn write_path(f: &mut fmt::Formatter<'_>, path: &str) -> fmt::Result {
    write!(f, "{}", utf8_percent_encode(path, IN_PATH))
}

/// Writes those parameters that have a value, with the `?` before the first.
pub(crate) fn write_parameters(
    f: &mut fmt::Formatter<'_>,
    parameters: &[(&str, Option<&str>)],
) -> fmt::Result {
    let given = parameters
        .iter()
        .filter_map(|(key, value)| Some((key, (*value)?)));
    for (number, (key, value)) in given.enumerate() {
        let separator = if number == 0 { '?' } else { '&' };
        write!(
            f,
            "{separator}{key}={}",
            utf8_percent_encode(value, IN_QUERY)
        )?;
    }
    Ok(())
}
