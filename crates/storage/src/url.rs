//! What the URLs of several stores have in common.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What a path in a URL may not have as it is.
pub(crate) const IN_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');
const IN_QUERY: &AsciiSet = &IN_PATH.add(b'&').add(b'+');

/// What a path may not have after a server's name: an `@` could as well end a password.
const IN_HOSTED_PATH: &AsciiSet = &IN_PATH.add(b'@');
const IN_USER: &AsciiSet = &IN_HOSTED_PATH.add(b':').add(b'/');

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

/// A number of a parameter.
#[cfg(any(feature = "s3", feature = "oss"))]
pub(crate) fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    let parsed = value.parse();
    parsed.map_err(|_| format!("`{key}` is no whole number that can be meant"))
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

/// What stands before the parameters where a server is named: `user@host:port/path`.
pub(crate) struct Hosted {
    pub(crate) user: Option<String>,
    /// With a port where one is given.
    pub(crate) host: String,
    /// Without slashes at its ends.
    pub(crate) path: String,
}

impl Hosted {
    /// Reads what stands after the scheme; with the parameters, which are not read yet. `password` says where
    /// passwords belong.
    pub(crate) fn parse<'a>(
        rest: &'a str,
        password: &str,
        expected: &str,
    ) -> Result<(Self, &'a str), String> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        // With an `@` behind it, a slash may be one of a password.
        if user.is_some_and(|user| user.contains(':')) || path.contains('@') {
            return Err(format!(
                "a password does not belong into a URL: {password}, or use the encrypted settings (an \
                 `@` of the path is written `%40`); expected {expected}"
            ));
        }
        if user == Some("") {
            return Err(format!("it has no user; expected {expected}"));
        }
        check_host(host).map_err(|wrong| format!("{wrong}; expected {expected}"))?;
        let hosted = Self {
            user: user.map(decoded).transpose()?,
            host: host.to_owned(),
            path: decoded(path)?.trim_matches('/').to_owned(),
        };
        Ok((hosted, query))
    }

    /// Writes it as it is read.
    pub(crate) fn write(
        f: &mut fmt::Formatter<'_>,
        user: Option<&str>,
        host: &str,
        path: &str,
    ) -> fmt::Result {
        if let Some(user) = user {
            write!(f, "{}@", utf8_percent_encode(user, IN_USER))?;
        }
        f.write_str(host)?;
        if !path.is_empty() {
            write!(f, "/{}", utf8_percent_encode(path, IN_HOSTED_PATH))?;
        }
        Ok(())
    }
}

/// What is wrong with the name of a server, to which a port may belong. It is not quoted: it may be a part
/// of a password.
pub(crate) fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an address without a port are in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let address = |b: u8| b.is_ascii_hexdigit() || b":.".contains(&b);
    let known = match name.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|inside| !inside.is_empty() && inside.bytes().all(address)),
        None => name.bytes().all(letter),
    };
    if name.is_empty() {
        Err("it has no host")
    } else if !known {
        Err("its host is no name or address")
    } else if port.is_some_and(|port| !port.parse().is_ok_and(|port: u16| port > 0)) {
        Err("its port is no number from 1 to 65535")
    } else {
        Ok(())
    }
}
