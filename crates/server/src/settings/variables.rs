//! Variables of the environment in a `litestream.yml`, as Litestream replaces them: in the whole
//! text, before it is read.

/// Replaces `$NAME` and `${NAME}`, `PID` included. A variable that is not set stays as it is, for whoever
/// reads the value it is in to refuse: Litestream puts nothing in its place, in silence.
pub(super) fn replaced(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        match name(after) {
            Some((name, length)) => {
                let (whole, left) = after.split_at(length);
                match value(name) {
                    Some(value) => out.push_str(&value),
                    None => {
                        out.push('$');
                        out.push_str(whole);
                    }
                }
                rest = left;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The name behind a `$`, and how many bytes it takes.
fn name(text: &str) -> Option<(&str, usize)> {
    if let Some(inside) = text.strip_prefix('{') {
        let (name, _) = inside.split_once('}')?;
        return is_name(name).then_some((name, name.len() + 2));
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let name = text.get(..end.unwrap_or(text.len()))?;
    is_name(name).then_some((name, name.len()))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The value of a variable of this process.
pub(super) fn of_process(name: &str) -> Option<String> {
    match name {
        "PID" => Some(std::process::id().to_string()),
        name => std::env::var(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_what_is_not_set_stays() {
        let value = |name: &str| match name {
            "A" => Some("x".to_owned()),
            "LONG_1" => Some("$A".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("path: $A/b", "path: x/b"),
            ("${A}b$A", "xbx"),
            ("$LONG_1!", "$A!"), // once, not again
            ("[$EMPTY]", "[]"),
            ("$NOT_SET ${NOT_SET}", "$NOT_SET ${NOT_SET}"),
            ("$$A $ ${ $1 ${} $é ${A", "$x $ ${ $1 ${} $é ${A"),
            ("nothing", "nothing"),
            ("ends $", "ends $"),
        ] {
            assert_eq!(replaced(text, value), expected, "{text}");
        }
    }
}
