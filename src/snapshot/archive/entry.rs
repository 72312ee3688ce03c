//! The records of `state.bin`: a varint length, then a protobuf message.

use std::io::{self, BufRead, Read};

use prost::Message;

/// The longest record accepted, in bytes. OpenBao's default is 1 MiB a value
/// and can be configured higher.
pub const ENTRY_BYTES_MAX: usize = 8 << 20;

/// `StorageEntry` of OpenBao's `pb` package.
#[derive(Clone, PartialEq, Message)]
pub struct StorageEntry {
    /// Storage path.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Barrier ciphertext.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// Not used in snapshots.
    #[prost(bool, tag = "3")]
    pub seal_wrap: bool,
}

/// Reads the next record into `buffer`; `None` at the end of the input.
///
/// # Errors
/// `InvalidData` for what is no record, or the beginning of one; else the
/// input's own.
pub fn read(input: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<StorageEntry>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let length = read_length(input)?;
    buffer.clear();
    input.take(length).read_to_end(buffer)?;
    if (buffer.len() as u64) < length {
        return Err(invalid("storage entry is cut off"));
    }
    match StorageEntry::decode(buffer.as_slice()) {
        Ok(entry) => Ok(Some(entry)),
        Err(_) => Err(invalid("storage entry does not decode")),
    }
}

fn read_length(input: &mut impl BufRead) -> io::Result<u64> {
    let mut length = 0_u64;
    // Four groups of seven bits hold any acceptable length.
    for shift in [0, 7, 14, 21] {
        let Some(&byte) = input.fill_buf()?.first() else {
            return Err(invalid("storage entry is cut off"));
        };
        input.consume(1);
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return match length <= ENTRY_BYTES_MAX as u64 {
                true => Ok(length),
                false => Err(invalid("storage entry too long")),
            };
        }
    }
    Err(invalid("storage entry too long"))
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
