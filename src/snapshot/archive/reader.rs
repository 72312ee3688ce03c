//! Reads an archive: once to verify everything, then again for its entries.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read};

use aws_lc_rs::digest;
use flate2::bufread::GzDecoder;

use super::super::writer::sha256_of;
use super::member::{Member, MemberReader};
use super::{ArchiveError, ArchiveMeta, META, MetaFile, SEALED_SUMS, STATE, SUMS, entry};

/// A verified archive: what it says, and where its entries are. It holds no
/// input, so the archive is read once more for the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveReader {
    meta: ArchiveMeta,
    entry_count: u64,
    state: StatePlace,
}

/// Where `state.bin` is in the tar file, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatePlace {
    offset: u64,
    bytes: u64,
    sha256: [u8; 32],
}

impl ArchiveReader {
    /// Reads the whole archive and checks that it is complete, that its sums
    /// are those of its members and were sealed by this cluster (`open`
    /// undoes the seal), and that every entry decodes. Blocks.
    ///
    /// # Errors
    /// See [`ArchiveError`]; nothing was changed anywhere.
    pub fn verify<E: Display>(
        input: impl Read,
        open: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, ArchiveError> {
        let parts = Parts::read(input)?;
        if parts.sealed_sums.is_empty() {
            let reason = format!("{SEALED_SUMS} is missing");
            return Err(ArchiveError::SealedSums { reason });
        }
        let opened = open(&parts.sealed_sums).map_err(|error| ArchiveError::SealedSums {
            reason: error.to_string(),
        })?;
        parts.check_sums(&opened)?;
        parts.into_reader()
    }

    /// As [`ArchiveReader::verify`], without a look at the sealed sums: the
    /// archive may be of another cluster.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub fn verify_unsealed(input: impl Read) -> Result<Self, ArchiveError> {
        Parts::read(input)?.into_reader()
    }

    /// What `meta.json` says.
    #[must_use]
    pub fn meta(&self) -> &ArchiveMeta {
        &self.meta
    }

    /// How many entries there are.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entry_count
    }

    /// Iterates over the entries of the same archive, read again from its
    /// beginning. Holds one entry in memory.
    ///
    /// # Errors
    /// It is not the same archive, or cannot be read.
    pub fn entries<R: Read>(&self, input: R) -> Result<ArchiveEntries<R>, ArchiveError> {
        let mut content = decompress(input)?;
        let skipped = io::copy(&mut (&mut content).take(self.state.offset), &mut io::sink())
            .map_err(|error| ArchiveError::reading(READ_STATE, error))?;
        if skipped < self.state.offset {
            return Err(ArchiveError::content("the archive has changed"));
        }
        Ok(ArchiveEntries {
            content: BufReader::new(Hashing::new(content.take(self.state.bytes))),
            expected: self.state,
            left: self.entry_count,
            buffer: Vec::new(),
            ended: false,
        })
    }
}

/// The entries of a verified archive, in the order written. An archive that
/// has changed since gives an error in place of the end. After an error it
/// ends.
pub struct ArchiveEntries<R> {
    content: BufReader<Hashing<io::Take<Decompressed<R>>>>,
    expected: StatePlace,
    left: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read> ArchiveEntries<R> {
    fn read(&mut self) -> Result<Option<(String, Vec<u8>)>, ArchiveError> {
        let entry = entry::read(&mut self.content, &mut self.buffer)
            .map_err(|error| ArchiveError::reading(READ_STATE, error))?;
        if let Some(entry) = entry {
            self.left = self.left.saturating_sub(1);
            return Ok(Some((entry.key, entry.value)));
        }
        let sha256 = sha256_of(self.content.get_ref().sha256.clone());
        if self.left != 0 || sha256 != self.expected.sha256 {
            return Err(ArchiveError::content("the archive has changed"));
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for ArchiveEntries<R> {
    type Item = Result<(String, Vec<u8>), ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.read().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

/// What one pass over an archive finds. The checks that do not need all of it
/// were made.
#[derive(Default)]
struct Parts {
    meta: Option<MetaFile>,
    state: Option<StatePlace>,
    entry_count: u64,
    /// An entry that does not decode: told only when the sums are right, since
    /// a damaged file should be called that.
    entry_flaw: Option<String>,
    sums: Vec<u8>,
    sealed_sums: Vec<u8>,
    /// Of the members named in the sums.
    found: BTreeMap<&'static str, [u8; 32]>,
}

impl Parts {
    fn read(input: impl Read) -> Result<Self, ArchiveError> {
        let empty = digest_of(&[]);
        let mut parts = Self {
            found: BTreeMap::from([(META, empty), (STATE, empty)]),
            ..Self::default()
        };
        let mut seen = Vec::new();
        let mut members = MemberReader::new(decompress(input)?);
        while let Some(member) = members
            .next_member()
            .map_err(|error| ArchiveError::reading("failed reading snapshot", error))?
        {
            let name = &member.name;
            if !member.is_file || seen.contains(name) {
                return Err(unexpected(name));
            }
            parts.take_in(&member, &mut members)?;
            seen.push(member.name);
        }
        read_to_end(members.into_inner())?;
        Ok(parts)
    }

    fn take_in(
        &mut self,
        member: &Member,
        body: &mut MemberReader<impl Read>,
    ) -> Result<(), ArchiveError> {
        match member.name.as_str() {
            META => {
                let text = read_small(body, "failed to read snapshot metadata")?;
                let meta = serde_json::from_slice(&text).map_err(|error| {
                    ArchiveError::content(format!("failed to decode snapshot metadata: {error}"))
                })?;
                self.meta = Some(meta);
                self.found.insert(META, digest_of(&text));
            }
            STATE => self.take_in_state(member, body)?,
            SUMS => self.sums = read_small(body, READ_SUMS)?,
            SEALED_SUMS => self.sealed_sums = read_small(body, READ_SUMS)?,
            name => return Err(unexpected(name)),
        }
        Ok(())
    }

    fn take_in_state(
        &mut self,
        member: &Member,
        body: &mut MemberReader<impl Read>,
    ) -> Result<(), ArchiveError> {
        let reading = |error| ArchiveError::reading(READ_STATE, error);
        let mut content = BufReader::new(Hashing::new(body));
        let mut buffer = Vec::new();
        loop {
            match entry::read(&mut content, &mut buffer) {
                Ok(None) => break,
                Ok(Some(_)) => self.entry_count += 1,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.entry_flaw = Some(format!("entry {}: {error}", self.entry_count));
                    break;
                }
                Err(error) => return Err(reading(error)),
            }
        }
        io::copy(&mut content, &mut io::sink()).map_err(reading)?;
        let sha256 = sha256_of(content.into_inner().sha256);
        self.found.insert(STATE, sha256);
        self.state = Some(StatePlace {
            offset: member.offset,
            bytes: member.bytes,
            sha256,
        });
        Ok(())
    }

    /// Whether these sums name all members, and nothing else.
    fn check_sums(&self, sums: &[u8]) -> Result<(), ArchiveError> {
        let failed = |reason: String| {
            ArchiveError::content(format!("failed checking integrity of snapshot: {reason}"))
        };
        let sums = str::from_utf8(sums).map_err(|_| failed("sums are not text".to_owned()))?;
        let mut missing = self.found.clone();
        for line in sums.lines() {
            let Some((sum, name)) = line.split_once("  ") else {
                return Err(failed("malformed line of sums".to_owned()));
            };
            match self.found.get(name) {
                None => return Err(failed(format!("list missing hash for {name:?}"))),
                Some(found) if hex::decode(sum).ok().as_deref() != Some(found) => {
                    return Err(failed(format!("hash check failed for {name:?}")));
                }
                Some(_) => missing.remove(name),
            };
        }
        match missing.keys().next_back() {
            Some(name) => Err(failed(format!("file missing for {name:?}"))),
            None => Ok(()),
        }
    }

    fn into_reader(self) -> Result<ArchiveReader, ArchiveError> {
        self.check_sums(&self.sums)?;
        if let Some(flaw) = self.entry_flaw {
            return Err(ArchiveError::content(format!("{READ_STATE}: {flaw}")));
        }
        let (Some(meta), Some(state)) = (self.meta, self.state) else {
            return Err(ArchiveError::content(format!("no {META} or no {STATE}")));
        };
        Ok(ArchiveReader {
            meta: meta.into_meta(),
            entry_count: self.entry_count,
            state,
        })
    }
}

type Decompressed<R> = BufReader<GzDecoder<BufReader<R>>>;

fn decompress<R: Read>(input: R) -> Result<Decompressed<R>, ArchiveError> {
    let failed = |reason: &str| ArchiveError::Compression {
        reason: reason.to_owned(),
    };
    let mut input = BufReader::new(input);
    if input.fill_buf().map_err(ArchiveError::Read)?.is_empty() {
        return Err(failed("EOF"));
    }
    let mut content = GzDecoder::new(input);
    if content.header().is_none() {
        return Err(match content.read(&mut [0]).map_err(|error| error.kind()) {
            Err(io::ErrorKind::UnexpectedEof) => failed("unexpected EOF"),
            _ => failed("gzip: invalid header"),
        });
    }
    Ok(BufReader::new(content))
}

/// Reads what follows the tar file, so that the checksum at the end of the
/// gzip file is checked.
fn read_to_end(content: impl Read) -> Result<(), ArchiveError> {
    let left = io::copy(&mut content.take(TRAILING_BYTES_MAX + 1), &mut io::sink())
        .map_err(|error| ArchiveError::reading("failed reading snapshot", error))?;
    if TRAILING_BYTES_MAX < left {
        return Err(ArchiveError::content("too many bytes after the last file"));
    }
    Ok(())
}

fn read_small(body: impl Read, action: &str) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    body.take(SMALL_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| ArchiveError::reading(action, error))?;
    if SMALL_BYTES_MAX <= bytes.len() as u64 {
        return Err(ArchiveError::content(format!(
            "{action}: read max specified bytes ({SMALL_BYTES_MAX}) without EOF - possible truncation"
        )));
    }
    Ok(bytes)
}

fn unexpected(name: &str) -> ArchiveError {
    ArchiveError::content(format!("unexpected file {name:?} in snapshot"))
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(bytes);
    sha256_of(context)
}

/// Passes bytes on and computes their SHA-256.
struct Hashing<R> {
    input: R,
    sha256: digest::Context,
}

impl<R> Hashing<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            sha256: digest::Context::new(&digest::SHA256),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.sha256.update(&buffer[..count]);
        Ok(count)
    }
}

/// Members other than `state.bin` are shorter than this.
const SMALL_BYTES_MAX: u64 = 8192;
/// Tar programs pad to a multiple of their own record length.
const TRAILING_BYTES_MAX: u64 = 1 << 20;
const READ_STATE: &str = "failed to read or write snapshot data";
const READ_SUMS: &str = "failed to read snapshot hashes";
