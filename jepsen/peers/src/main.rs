//! `storage-peers ENGINE DIR BYTES COUNT MILLISECONDS`: appends COUNT records
//! of BYTES and makes them durable, again and again, and prints how long each
//! took, in nanoseconds, one a line.
//!
//! Engines: `raw` (whole blocks, one direct synchronous write each: what the
//! device gives), `raft-engine`, `okaywal`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use okaywal::{LogVoid, WriteAheadLog};
use protobuf::well_known_types::Any;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::{ReadWriteFlags, pwritev2};

type Failure = Box<dyn std::error::Error>;

/// What is appended at a time.
#[derive(Clone, Copy)]
struct Shape {
    bytes: usize,
    count: usize,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, directory, bytes, count, milliseconds] = arguments.as_slice() else {
        return Err("storage-peers ENGINE DIR BYTES COUNT MILLISECONDS".into());
    };
    let shape = Shape {
        bytes: bytes.parse()?,
        count: count.parse()?,
    };
    let length = Duration::from_millis(milliseconds.parse()?);
    let directory = Path::new(directory);
    fs::create_dir_all(directory)?;
    let took = match engine.as_str() {
        "raw" => raw(directory, shape, length),
        "raft-engine" => raft_engine(directory, shape, length),
        "okaywal" => okaywal(directory, shape, length),
        other => Err(format!("no engine {other:?}").into()),
    }?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    for one in took {
        writeln!(output, "{}", one.as_nanos())?;
    }
    Ok(output.flush()?)
}

fn measure(
    length: Duration,
    mut append: impl FnMut() -> Result<(), Failure>,
) -> Result<Vec<Duration>, Failure> {
    let (begin, mut took) = (Instant::now(), Vec::new());
    while begin.elapsed() < length {
        let before = Instant::now();
        append()?;
        took.push(before.elapsed());
    }
    Ok(took)
}

const BLOCK: usize = 4096;
const FILE_BYTES: usize = 64 << 20;

/// As many blocks as the records need with a header each, over and over
/// through a file of zeros. `RWF_DSYNC` and not the open flag, which rustix maps
/// to `O_SYNC`: that would wait for time stamps, too.
fn raw(directory: &Path, shape: Shape, length: Duration) -> Result<Vec<Duration>, Failure> {
    let path = directory.join("raw");
    let mut zeros = File::create(&path)?;
    for _ in 0..FILE_BYTES >> 20 {
        zeros.write_all(&[0; 1 << 20])?;
    }
    zeros.sync_all()?;
    fadvise(&zeros, 0, None, Advice::DontNeed)?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(&path)?;
    let record = 32 + shape.bytes.next_multiple_of(32);
    let blocks = (128 + shape.count * record).next_multiple_of(BLOCK);
    let buffer = vec![0x5A_u8; blocks + BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    let buffer = &buffer[start..start + blocks];
    let mut offset = 0;
    measure(length, || {
        if FILE_BYTES < offset + blocks {
            offset = 0;
        }
        let slices = [IoSlice::new(buffer)];
        let written = pwritev2(&file, &slices, offset as u64, ReadWriteFlags::DSYNC)?;
        if written != blocks {
            return Err("a short write".into());
        }
        offset += blocks;
        Ok(())
    })
}

/// An entry as raft-engine wants it: some protobuf message that tells its index.
#[derive(Clone)]
struct Record;

impl MessageExt for Record {
    type Entry = Any;

    fn index(entry: &Any) -> u64 {
        entry.type_url.parse().unwrap_or_default()
    }
}

fn raft_engine(directory: &Path, shape: Shape, length: Duration) -> Result<Vec<Duration>, Failure> {
    let config = Config {
        dir: directory.display().to_string(),
        batch_compression_threshold: ReadableSize::kb(0),
        target_file_size: ReadableSize::mb(64),
        ..Config::default()
    };
    let engine = Engine::open(config)?;
    let mut index = 0_u64;
    measure(length, || {
        let mut batch = LogBatch::default();
        let entries: Vec<Any> = (0..shape.count)
            .map(|_| {
                index += 1;
                let mut entry = Any::new();
                entry.type_url = index.to_string();
                entry.value = vec![0x5A; shape.bytes];
                entry
            })
            .collect();
        batch.add_entries::<Record>(1, &entries)?;
        engine.write(&mut batch, true)?;
        Ok(())
    })
}

fn okaywal(directory: &Path, shape: Shape, length: Duration) -> Result<Vec<Duration>, Failure> {
    let log = WriteAheadLog::recover(directory, LogVoid)?;
    let record = vec![0x5A; shape.bytes];
    measure(length, || {
        let mut writer = log.begin_entry()?;
        for _ in 0..shape.count {
            writer.write_chunk(&record)?;
        }
        writer.commit()?;
        Ok(())
    })
}
