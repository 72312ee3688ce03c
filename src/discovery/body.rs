//! Reading an answer's body without trusting its length.

use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};

/// The largest answer read, in bytes: a keyring and the addresses of peers.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// A body that was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The server sends more than an answer of this API can be.
    #[error("the answer exceeds {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The connection failed.
    #[error("read the answer")]
    Read(#[source] hyper::Error),
}

/// Reads the whole body, at most [`BODY_BYTES_MAX`].
pub(super) async fn read(mut body: Incoming) -> Result<Vec<u8>, BodyError> {
    if (BODY_BYTES_MAX as u64) < body.size_hint().lower() {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(BodyError::Read)?;
        if let Some(data) = frame.data_ref() {
            if BODY_BYTES_MAX < bytes.len() + data.len() {
                return Err(BodyError::TooLarge);
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}
