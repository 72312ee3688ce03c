//! Bodies: the one type used everywhere, reading them within bounds of size
//! and time, and spooling large ones to a file.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::AsyncWriteExt;

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request or response body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// 413.
    #[error("http: request body too large")]
    TooLarge,
    /// 408: the client is too slow.
    #[error("request body did not arrive in time")]
    TimedOut,
    /// 400: the connection or the encoding broke.
    #[error("failed to read request body: {0}")]
    Broken(String),
    /// 500: the temporary file.
    #[error("failed to buffer request body: {0}")]
    Spool(#[source] std::io::Error),
}

/// Reads a whole body of at most `bytes_max` within `time_max`.
///
/// # Errors
/// See [`ReadError`]; a declared length over the limit is refused unread.
pub async fn read(body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, ReadError> {
    use hyper::body::Body as _;
    let mut body = body;
    let outcome = if body.size_hint().lower() > bytes_max as u64 {
        Err(ReadError::TooLarge)
    } else {
        within(time_max, read_bounded(&mut body, bytes_max)).await?
    };
    if matches!(outcome, Err(ReadError::TooLarge)) {
        tokio::spawn(discard(body));
    }
    outcome
}

/// Reads on a little after a refusal: closing with bytes unread would reset
/// the connection, and the client might never see why.
async fn discard(mut body: Body) {
    let discarding = async {
        let mut bytes_left = DISCARD_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match bytes_left.checked_sub(length) {
                Some(left) => bytes_left = left,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, discarding).await;
}

const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

async fn read_bounded(body: &mut Body, bytes_max: usize) -> Result<Bytes, ReadError> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + whole.len() + data.len() > bytes_max {
            return Err(ReadError::TooLarge);
        }
        // Most bodies are one frame: no copy for them.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Writes a body of any length to an unnamed temporary file (mode 0600,
/// removed from its folder at once) and returns it, rewound. Each piece must
/// arrive within `pause_max`.
///
/// # Errors
/// See [`ReadError`].
pub async fn spool(mut body: Body, pause_max: Duration) -> Result<File, ReadError> {
    let file = temporary_file().map_err(ReadError::Spool)?;
    let mut file = tokio::fs::File::from_std(file);
    while let Some(frame) = within(pause_max, body.frame()).await? {
        let frame = frame.map_err(|error| ReadError::Broken(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await.map_err(ReadError::Spool)?;
        }
    }
    file.flush().await.map_err(ReadError::Spool)?;
    let mut file = file.into_std().await;
    file.seek(SeekFrom::Start(0)).map_err(ReadError::Spool)?;
    Ok(file)
}

fn temporary_file() -> std::io::Result<File> {
    let path = std::env::temp_dir().join(format!("holdfast-{}", uuid::Uuid::new_v4()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    // Without a name nothing is left behind, however the process ends.
    std::fs::remove_file(&path)?;
    Ok(file)
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, ReadError> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| ReadError::TimedOut)
}
