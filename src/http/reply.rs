//! Replies: the envelope, bare objects, errors and redirects, with the headers
//! that every reply of a real server carries.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, STRICT_TRANSPORT_SECURITY,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::body::{Body, empty, full};
use crate::vault;

/// Status, body and headers that only http decides.
pub type Reply = Response<Body>;

/// Adds the headers every reply but the first two kinds of refusal has.
pub fn add_common_headers(reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000; includeSubDomains"),
    );
}

/// An object as it is, without the envelope.
#[must_use]
pub fn bare<T: Serialize>(status: StatusCode, object: &T) -> Reply {
    let mut text = match serde_json::to_vec(object) {
        Ok(text) => text,
        Err(error) => return errors(StatusCode::INTERNAL_SERVER_ERROR, &[error.to_string()]),
    };
    text.push(b'\n');
    typed(status, "application/json", full(text))
}

/// `{"errors":[…]}`.
#[must_use]
pub fn errors(status: StatusCode, texts: &[String]) -> Reply {
    let mut text = json!({ "errors": texts }).to_string();
    text.push('\n');
    typed(status, "application/json", full(text))
}

/// 204; it names a content type all the same.
#[must_use]
pub fn no_content() -> Reply {
    typed(StatusCode::NO_CONTENT, "application/json", empty())
}

/// A body of some type.
#[must_use]
pub fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 307 to `location`. `page` adds the little page a browser shows: a cleaned
/// path has it for GET, a redirect to the active node has not.
#[must_use]
pub fn redirect(location: &str, page: bool) -> Reply {
    let mut reply = if page {
        let target = escape_html(location);
        let text = format!("<a href=\"{target}\">Temporary Redirect</a>.\n\n");
        typed(
            StatusCode::TEMPORARY_REDIRECT,
            "text/html; charset=utf-8",
            full(text),
        )
    } else {
        let mut reply = Response::new(empty());
        *reply.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        reply
    };
    match HeaderValue::from_str(location) {
        Ok(location) => {
            reply.headers_mut().insert(LOCATION, location);
            reply
        }
        Err(_) => errors(StatusCode::BAD_REQUEST, &[]),
    }
}

/// A logical reply in the envelope with its eight fields, or 204.
#[must_use]
pub fn logical(response: vault::Response) -> Reply {
    let nothing =
        response.data.is_none() && response.auth.is_none() && response.warnings.is_empty();
    let status = match response.status {
        Some(code) => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        None if nothing => StatusCode::NO_CONTENT,
        None => StatusCode::OK,
    };
    if status == StatusCode::NO_CONTENT {
        return no_content();
    }
    if nothing && status.as_u16() >= 400 {
        return errors(status, &[]);
    }
    let copied = match &response.data {
        Some(data) if response.copies_data_to_top => data.clone(),
        _ => Map::new(),
    };
    let envelope = Envelope {
        copied,
        request_id: uuid::Uuid::new_v4().to_string(),
        lease_id: "",
        renewable: false,
        lease_duration: response.lease_duration,
        data: response.data,
        wrap_info: None,
        warnings: Some(response.warnings).filter(|warnings| !warnings.is_empty()),
        auth: response.auth,
    };
    bare(status, &envelope)
}

/// `data` of a help request, without the envelope.
#[must_use]
pub fn help(response: vault::Response) -> Reply {
    bare(StatusCode::OK, &response.data.unwrap_or_default())
}

/// Between nodes: the forwarded request was certainly not executed.
pub const NOT_DONE: HeaderName = HeaderName::from_static("x-holdfast-not-done");

#[derive(Serialize)]
struct Envelope {
    #[serde(flatten)]
    copied: Map<String, Value>,
    request_id: String,
    lease_id: &'static str,
    renewable: bool,
    lease_duration: u64,
    data: Option<Map<String, Value>>,
    wrap_info: Option<Value>,
    warnings: Option<Vec<String>>,
    auth: Option<Value>,
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `2026-11-23T02:51:41.655855653Z`; trailing zeros of the fraction are cut.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil_date(since.as_secs() / 86_400);
    let seconds = since.as_secs() % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!(".{:09}", since.subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian):
/// years are counted from March, so that the leap day is the last one.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rfc3339_known_instants() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_795_402_301, 655_855_653, "2026-11-23T02:51:41.655855653Z"),
            (1_795_402_301, 650_000_000, "2026-11-23T02:51:41.65Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            assert_eq!(rfc3339(time), text);
        }
    }

    #[test]
    fn logical_statuses() {
        let data = || json!({"a": 1}).as_object().cloned();
        let check = |response, status: u16| assert_eq!(logical(response).status(), status);
        check(vault::Response::default(), 204);
        check(
            vault::Response {
                data: data(),
                ..Default::default()
            },
            200,
        );
        check(
            vault::Response {
                warnings: vec!["w".into()],
                ..Default::default()
            },
            200,
        );
        check(
            vault::Response {
                data: data(),
                status: Some(404),
                ..Default::default()
            },
            404,
        );
        check(
            vault::Response {
                status: Some(404),
                ..Default::default()
            },
            404,
        );
    }
}
