//! Writes an archive in two passes over the entries: one for length and sums,
//! one for the bytes.

use std::fmt::Display;
use std::io::{self, Write};

use aws_lc_rs::digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use tar::{EntryType, Header};

use super::super::writer::sha256_of;
use super::entry::StorageEntry;
use super::member::BLOCK_BYTES;
use super::{ArchiveError, ArchiveMeta, META, MetaFile, SEALED_SUMS, STATE, SUMS};
use crate::types::Pair;

/// An archive that is ready to be written: everything that can fail but the
/// output has been done, so that an error can still be told properly.
pub struct ArchiveWriter<F> {
    entries: F,
    meta: Vec<u8>,
    state_bytes: u64,
    sums: Vec<u8>,
    sealed_sums: Vec<u8>,
}

impl<F, I> ArchiveWriter<F>
where
    F: Fn() -> I,
    I: Iterator<Item = Pair>,
{
    /// Walks the entries once, and seals the sums. `entries` must give the
    /// same entries each time, in key order. Blocks.
    ///
    /// # Errors
    /// Sealing failed.
    pub fn prepare<E: Display>(
        meta: &ArchiveMeta,
        entries: F,
        seal: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, ArchiveError> {
        let mut measure = Measure {
            bytes: 0,
            sha256: digest::Context::new(&digest::SHA256),
        };
        write_entries(&mut measure, entries()).map_err(ArchiveError::Write)?;
        let state_bytes = measure.bytes;
        let mut meta = serde_json::to_vec(&MetaFile::new(meta, state_bytes))
            .expect("text and numbers have a JSON form");
        meta.push(b'\n');
        let meta_sha256 = digest::digest(&digest::SHA256, &meta);
        let sums = format!(
            "{}  {META}\n{}  {STATE}\n",
            hex::encode(meta_sha256),
            hex::encode(sha256_of(measure.sha256)),
        )
        .into_bytes();
        let sealed_sums = seal(&sums).map_err(|error| ArchiveError::Seal {
            reason: error.to_string(),
        })?;
        Ok(Self {
            entries,
            meta,
            state_bytes,
            sums,
            sealed_sums,
        })
    }

    /// Length in bytes and SHA-256 of what [`Self::write`] will write with this
    /// `modified`. Walks the entries once more. Blocks.
    ///
    /// # Panics
    /// When `entries` gave other entries than the first time.
    #[must_use]
    pub fn measure(&self, modified: u64) -> (u64, [u8; 32]) {
        let measure = Measure {
            bytes: 0,
            sha256: digest::Context::new(&digest::SHA256),
        };
        let measure = self
            .try_write(measure, modified)
            .expect("a measure takes every byte");
        (measure.bytes, sha256_of(measure.sha256))
    }

    /// Writes the archive; `modified` is the time of its members in seconds
    /// since 1970. Holds one entry and a small buffer in memory. Blocks as the
    /// output does.
    ///
    /// # Errors
    /// The output failed.
    ///
    /// # Panics
    /// When `entries` gave other entries than the first time.
    pub fn write<W: Write>(self, output: W, modified: u64) -> Result<W, ArchiveError> {
        self.try_write(output, modified)
            .map_err(ArchiveError::Write)
    }

    fn try_write<W: Write>(&self, output: W, modified: u64) -> io::Result<W> {
        // Ciphertext does not compress: stored blocks, as OpenBao writes them.
        let mut tar = GzEncoder::new(output, Compression::none());
        write_member(&mut tar, META, &self.meta, modified)?;
        tar.write_all(header(STATE, self.state_bytes, modified).as_bytes())?;
        let mut counted = Counted {
            output: &mut tar,
            bytes: 0,
        };
        write_entries(&mut counted, (self.entries)())?;
        assert_eq!(counted.bytes, self.state_bytes);
        pad(&mut tar, self.state_bytes)?;
        write_member(&mut tar, SUMS, &self.sums, modified)?;
        write_member(&mut tar, SEALED_SUMS, &self.sealed_sums, modified)?;
        tar.write_all(&[0; 2 * BLOCK_BYTES])?;
        let mut output = tar.finish()?;
        output.flush()?;
        Ok(output)
    }
}

fn write_entries(output: &mut impl Write, entries: impl Iterator<Item = Pair>) -> io::Result<()> {
    let mut buffer = Vec::new();
    for pair in entries {
        let entry = StorageEntry {
            key: pair.key().to_owned(),
            value: pair.value().to_vec(),
            seal_wrap: false,
        };
        buffer.clear();
        entry
            .encode_length_delimited(&mut buffer)
            .expect("a vector grows");
        output.write_all(&buffer)?;
    }
    Ok(())
}

fn write_member(
    output: &mut impl Write,
    name: &str,
    content: &[u8],
    modified: u64,
) -> io::Result<()> {
    let length = content.len() as u64;
    output.write_all(header(name, length, modified).as_bytes())?;
    output.write_all(content)?;
    pad(output, length)
}

fn header(name: &str, length: u64, modified: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(name).expect("the names are short");
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified);
    header.set_entry_type(EntryType::Regular);
    header.set_size(length);
    header.set_cksum();
    header
}

fn pad(output: &mut impl Write, length: u64) -> io::Result<()> {
    let beyond = (length % BLOCK_BYTES as u64) as usize;
    output.write_all(&[0; BLOCK_BYTES][..(BLOCK_BYTES - beyond) % BLOCK_BYTES])
}

/// Takes bytes only to count and hash them.
struct Measure {
    bytes: u64,
    sha256: digest::Context,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes bytes on and counts them.
struct Counted<'a, W> {
    output: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
