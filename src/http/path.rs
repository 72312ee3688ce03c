//! Request paths: what is refused, what is redirected, what reaches the vault.
//!
//! Cleaning works on the path as sent, as Go's multiplexer does, so that
//! `a%2F%2Fb` stays one name; decoding comes after.

/// What to do with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/v1/<path>`, percent-decoded, without the prefix.
    Api(String),
    /// 307 to this path, still encoded.
    Redirect(String),
    /// 400 with an empty body: it contains a control character.
    Unprintable,
    /// 400 with this text: not percent-encoded UTF-8.
    Malformed(&'static str),
    /// 404.
    Unknown,
}

/// Judges a path as sent (no query).
#[must_use]
pub fn target(encoded: &str) -> Target {
    let decoded = match percent_decode(encoded, Plus::IsItself) {
        Ok(decoded) => decoded,
        Err(reason) => return Target::Malformed(reason),
    };
    if decoded.chars().any(char::is_control) {
        return Target::Unprintable;
    }
    let cleaned = clean(encoded);
    if decoded != encoded && cleaned == encoded && decoded.split('/').any(|part| part == "..") {
        return Target::Malformed("relative paths not supported");
    }
    if cleaned != encoded {
        return Target::Redirect(cleaned);
    }
    match encoded {
        "/" | "/ui" => Target::Redirect("/ui/".into()),
        "/v1/sys" => Target::Redirect("/v1/sys/".into()),
        _ => match decoded.strip_prefix("/v1/") {
            Some(path) => Target::Api(path.into()),
            None => Target::Unknown,
        },
    }
}

/// Resolves `.`, `..` and empty segments; a trailing slash stays.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut cleaned = String::with_capacity(path.len());
    for segment in &segments {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    if cleaned.is_empty() || matches!(last, "" | ".") {
        cleaned.push('/');
    }
    cleaned
}

/// How to read `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// In paths.
    IsItself,
    /// In queries and forms.
    IsSpace,
}

/// Decodes `%XX`.
///
/// # Errors
/// A `%` without two hexadecimal digits; a result that is not UTF-8 (lossy
/// decoding would make two different paths one).
pub fn percent_decode(text: &str, plus: Plus) -> Result<String, &'static str> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("invalid URL escape");
                };
                u8::try_from(high * 16 + low).expect("two hexadecimal digits make a byte")
            }
            b'+' if plus == Plus::IsSpace => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| "path is not valid UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_as_a_real_server_judges() {
        let api = |path: &str| Target::Api(path.into());
        let redirect = |path: &str| Target::Redirect(path.into());
        for (path, expected) in [
            ("/v1/kv1/f", api("kv1/f")),
            ("/v1/", api("")),
            ("/v1/sys/", api("sys/")),
            ("/v1/kv1/a%2F%2Fb", api("kv1/a//b")),
            ("/v1/kv1/a+b%20c", api("kv1/a+b c")),
            ("/v1/kv1/%C3%A9", api("kv1/é")),
            ("/v1", Target::Unknown),
            ("/v2/foo", Target::Unknown),
            ("/favicon.ico", Target::Unknown),
            ("/", redirect("/ui/")),
            ("/ui", redirect("/ui/")),
            ("/v1/sys", redirect("/v1/sys/")),
            ("/v1//kv1/raw", redirect("/v1/kv1/raw")),
            ("/v1/kv1/a/../b", redirect("/v1/kv1/b")),
            ("/v1/../../x", redirect("/x")),
            ("/v1/./kv1/f", redirect("/v1/kv1/f")),
            ("/v1//", redirect("/v1/")),
            ("//", redirect("/")),
            ("//evil.example/x", redirect("/evil.example/x")),
            ("/v1/kv1/..", redirect("/v1")),
            ("/v1/kv1/raw%00x", Target::Unprintable),
            ("/v1/kv1/a%0ab", Target::Unprintable),
            ("/v1/kv1/%zz", Target::Malformed("invalid URL escape")),
            ("/v1/kv1/%4", Target::Malformed("invalid URL escape")),
            (
                "/v1/kv1/%2e%2e/core",
                Target::Malformed("relative paths not supported"),
            ),
            ("/v1/kv1/%ff", Target::Malformed("path is not valid UTF-8")),
        ] {
            assert_eq!(target(path), expected, "{path}");
        }
    }
}
