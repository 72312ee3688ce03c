//! Walks the members of a tar file, with nothing unbounded in memory.
//!
//! The `tar` crate's own iterator borrows the archive and collects long names
//! and extensions of any length; here only its header type is used.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

/// A member whose body is about to be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Length of its body.
    pub bytes: u64,
    /// Where its body begins in the tar file.
    pub offset: u64,
    /// Whether it is an ordinary file.
    pub is_file: bool,
}

/// A tar file being walked. Reading from it gives the present member's body.
pub struct MemberReader<R> {
    input: R,
    /// Bytes of the present body not read yet.
    body: u64,
    /// Bytes after the body up to the next block.
    padding: u64,
    /// Bytes of the tar file read so far.
    offset: u64,
}

impl<R: Read> MemberReader<R> {
    /// Begins at the first member.
    pub fn new(input: R) -> Self {
        Self {
            input,
            body: 0,
            padding: 0,
            offset: 0,
        }
    }

    /// Goes to the next member, past whatever is left of this one; `None` at
    /// the end.
    ///
    /// # Errors
    /// `UnexpectedEof` when cut off, `InvalidData` when it is no tar file.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut extension = Extension::default();
        loop {
            self.skip_rest()?;
            let Some(block) = self.read_block()? else {
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            if !checksum_holds(header) {
                return Err(invalid());
            }
            let bytes = header.entry_size().map_err(|_| invalid())?;
            if header.entry_type() == EntryType::XHeader {
                self.begin_body(bytes);
                extension = self.read_extension()?;
                continue;
            }
            let bytes = extension.bytes.unwrap_or(bytes);
            self.begin_body(bytes);
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            return Ok(Some(Member {
                name: extension.path.unwrap_or(name),
                bytes,
                offset: self.offset,
                is_file: header.entry_type() == EntryType::Regular,
            }));
        }
    }

    /// What is below.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn begin_body(&mut self, bytes: u64) {
        self.body = bytes;
        self.padding = (BLOCK_BYTES as u64 - bytes % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        self.body = std::mem::take(&mut self.padding);
        io::copy(self, &mut io::sink()).map(|_| ())
    }

    /// The next header; `None` at the end of the input or at a block of zeros.
    fn read_block(&mut self) -> io::Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset += BLOCK_BYTES as u64;
        Ok((block != [0; BLOCK_BYTES]).then_some(block))
    }

    /// Go's writer states a length above 8 GiB in such an extension.
    fn read_extension(&mut self) -> io::Result<Extension> {
        if EXTENSION_BYTES_MAX < self.body {
            return Err(invalid());
        }
        let mut records = Vec::new();
        self.read_to_end(&mut records)?;
        let mut extension = Extension::default();
        for record in PaxExtensions::new(&records) {
            let record = record.map_err(|_| invalid())?;
            let (Ok(key), Ok(value)) = (record.key(), record.value()) else {
                return Err(invalid());
            };
            match key {
                "size" => extension.bytes = Some(value.parse().map_err(|_| invalid())?),
                "path" => extension.path = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(extension)
    }
}

impl<R: Read> Read for MemberReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.body).unwrap_or(usize::MAX);
        let limit = limit.min(buffer.len());
        if limit == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..limit])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.body -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

/// What an extended header changes about the member after it.
#[derive(Default)]
struct Extension {
    bytes: Option<u64>,
    path: Option<String>,
}

/// The sum of all bytes, with the field of the sum itself taken as blanks.
fn checksum_holds(header: &Header) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(position, byte)| match FIELD.contains(&position) {
            true => u32::from(b' '),
            false => u32::from(*byte),
        })
        .sum();
    header.cksum().is_ok_and(|stated| stated == sum)
}

fn invalid() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "archive/tar: invalid tar header",
    )
}

/// Unit of a tar file.
pub const BLOCK_BYTES: usize = 512;
const EXTENSION_BYTES_MAX: u64 = 8192;
