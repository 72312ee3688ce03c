//! A real archive of OpenBao, archives of our own, and bad ones with the
//! answers that OpenBao 2.7.2 gave to the same.

use std::convert::Infallible;
use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::types::Pair;

/// `operator raft snapshot save` of OpenBao 2.7.2: one node, one KV mount.
const OPENBAO: &[u8] = include_bytes!("testdata/openbao.snap");

type Entries = Vec<Pair>;

fn meta() -> ArchiveMeta {
    let server = |id: &str, voter| ArchiveServer {
        id: id.to_owned(),
        address: format!("{id}.example:8201"),
        voter,
    };
    ArchiveMeta {
        index: 35,
        term: 3,
        servers: vec![server("n1", true), server("n2", false)],
        configuration_index: 7,
    }
}

fn entries(pairs: &[(&str, &[u8])]) -> Entries {
    let entry = |(key, value): &(&str, &[u8])| Pair::new(key, value);
    pairs.iter().map(entry).collect()
}

/// The seal of these tests: every byte is inverted.
fn invert(bytes: &[u8]) -> Result<Vec<u8>, Infallible> {
    Ok(bytes.iter().map(|byte| !byte).collect())
}

fn write(meta: &ArchiveMeta, entries: &Entries) -> Vec<u8> {
    ArchiveWriter::prepare(meta, || entries.iter().cloned(), invert)
        .expect("is prepared")
        .write(Vec::new(), 1_700_000_000)
        .expect("is written")
}

fn read(archive: &[u8], reader: &ArchiveReader) -> Entries {
    let entries = reader.entries(archive).expect("opens");
    entries
        .map(|entry| entry.map(|(key, value)| Pair::new(&key, &value)))
        .collect::<Result<_, _>>()
        .expect("is sound")
}

/// Members of an archive, by the `tar` crate.
fn unpack(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    let members = tar.entries().expect("is a tar file");
    members
        .map(|member| {
            let mut member = member.expect("a member");
            let name = member.path().expect("a name").display().to_string();
            let mut content = Vec::new();
            io::copy(&mut member, &mut content).expect("is read");
            (name, content)
        })
        .collect()
}

/// An archive of these members, by the `tar` crate.
fn pack(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, content.as_slice())
            .expect("is appended");
    }
    compress(&tar.into_inner().expect("is finished"))
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).expect("into memory");
    gzip.finish().expect("into memory")
}

/// Our own archive with one member changed, or without it.
fn changed(name: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let members = unpack(&write(&meta(), &entries(&[("a", b"1"), ("b", b"2")])));
    let changed: Vec<_> = members
        .into_iter()
        .filter_map(|(member, content)| match member == name {
            true => change(content).map(|content| (member, content)),
            false => Some((member, content)),
        })
        .collect();
    pack(&changed)
}

fn refusal(archive: &[u8]) -> String {
    let refused = ArchiveReader::verify(archive, invert);
    refused.expect_err("it is bad").to_string()
}

#[test]
fn archive_written_reads_back() {
    let long = vec![7; 3 << 20];
    let content = entries(&[
        ("core/keyring", b"x"),
        ("logical/é", b""),
        ("z/long", &long),
    ]);
    let archive = write(&meta(), &content);
    let reader = ArchiveReader::verify(archive.as_slice(), invert).expect("is sound");
    assert_eq!(reader.meta(), &meta());
    assert_eq!(reader.entry_count(), 3);
    assert_eq!(read(&archive, &reader), content);
    assert_eq!(
        ArchiveReader::verify_unsealed(archive.as_slice()).expect("is sound"),
        reader
    );
}

#[test]
fn archive_has_the_members_in_order() {
    let archive = write(&meta(), &entries(&[("a", b"1")]));
    let members = unpack(&archive);
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["meta.json", "state.bin", "SHA256SUMS", "SHA256SUMS.sealed"]
    );
    assert_eq!(
        String::from_utf8_lossy(&members[0].1),
        "{\"Version\":1,\"ID\":\"bolt-snapshot\",\"Index\":35,\"Term\":3,\"Peers\":null,\
         \"Configuration\":{\"Servers\":[\
         {\"Suffrage\":0,\"ID\":\"n1\",\"Address\":\"n1.example:8201\"},\
         {\"Suffrage\":1,\"ID\":\"n2\",\"Address\":\"n2.example:8201\"}]},\
         \"ConfigurationIndex\":7,\"Size\":7}\n"
    );
    assert_eq!(members[1].1, b"\x06\x0a\x01a\x12\x011");
    assert_eq!(invert(&members[3].1).expect("opens"), members[2].1);
}

#[test]
fn archive_of_openbao_is_read() {
    let reader = ArchiveReader::verify_unsealed(OPENBAO).expect("is sound");
    let server = ArchiveServer {
        id: "fixture1".to_owned(),
        address: "127.0.0.1:18291".to_owned(),
        voter: true,
    };
    let meta = ArchiveMeta {
        index: 35,
        term: 3,
        servers: vec![server],
        configuration_index: 1,
    };
    assert_eq!(reader.meta(), &meta);
    let content = read(OPENBAO, &reader);
    assert_eq!(content.len() as u64, reader.entry_count());
    assert!(content.is_sorted_by(|left, right| left.key() < right.key()));
    for key in ["core/keyring", "core/seal-config", "core/raft/tls"] {
        assert!(content.iter().any(|found| found.key() == key), "{key}");
    }
    let secrets = |pair: &&Pair| pair.key().ends_with("team/nested");
    assert_eq!(content.iter().filter(secrets).count(), 1);
}

/// The same state gives the same `meta.json`, `state.bin` and sums as OpenBao.
#[test]
fn archive_of_openbao_written_again_has_the_same_members() {
    let reader = ArchiveReader::verify_unsealed(OPENBAO).expect("is sound");
    let theirs = unpack(OPENBAO);
    let sealed = theirs[3].1.clone();
    let content = read(OPENBAO, &reader);
    let ours = ArchiveWriter::prepare(
        reader.meta(),
        || content.iter().cloned(),
        |sums| {
            assert_eq!(sums, theirs[2].1);
            Ok::<_, Infallible>(sealed)
        },
    )
    .expect("is prepared")
    .write(Vec::new(), 0)
    .expect("is written");
    assert_eq!(unpack(&ours), theirs);
}

/// What OpenBao says before what is wrong with the file, and with the sums.
const READ: &str = "failed to read snapshot file: ";
const INTEGRITY: &str = "failed to read snapshot file: failed checking integrity of snapshot: ";

#[test]
fn archive_that_is_none_is_refused_with_the_words_of_openbao() {
    let cut = |length| OPENBAO[..length].to_vec();
    let cases = [
        (vec![], "failed to decompress snapshot: EOF".to_owned()),
        (
            b"hello world this is not gzip".to_vec(),
            "failed to decompress snapshot: gzip: invalid header".to_owned(),
        ),
        (
            cut(5),
            "failed to decompress snapshot: unexpected EOF".to_owned(),
        ),
        (
            cut(5000),
            format!("{READ}failed to read or write snapshot data: unexpected EOF"),
        ),
        (
            cut(OPENBAO.len() - 600),
            format!("{READ}failed reading snapshot: unexpected EOF"),
        ),
        (
            cut(OPENBAO.len() - 1),
            format!("{READ}failed reading snapshot: unexpected EOF"),
        ),
        (
            compress(&[b'x'; 2000]),
            format!("{READ}failed reading snapshot: archive/tar: invalid tar header"),
        ),
    ];
    for (archive, text) in cases {
        assert_eq!(refusal(&archive), text);
    }
}

#[test]
fn archive_with_other_members_is_refused_with_the_words_of_openbao() {
    let with = |name: &str| {
        let mut members = unpack(&write(&meta(), &entries(&[])));
        members.push((name.to_owned(), b"zz".to_vec()));
        pack(&members)
    };
    let cases = [
        (
            with("evil \"x\".txt"),
            format!("{READ}unexpected file \"evil \\\"x\\\".txt\" in snapshot"),
        ),
        (
            with(META),
            format!("{READ}unexpected file \"meta.json\" in snapshot"),
        ),
        (
            changed(META, |_| None),
            format!("{INTEGRITY}hash check failed for \"meta.json\""),
        ),
        (
            changed(STATE, |_| None),
            format!("{INTEGRITY}hash check failed for \"state.bin\""),
        ),
        (
            changed(SUMS, |_| None),
            format!("{INTEGRITY}file missing for \"state.bin\""),
        ),
    ];
    for (archive, text) in cases {
        assert_eq!(refusal(&archive), text);
    }
}

#[test]
fn archive_with_changed_members_is_refused_with_the_words_of_openbao() {
    let flipped = |mut content: Vec<u8>| {
        content[4] ^= 1;
        Some(content)
    };
    let longer = |content: Vec<u8>| Some([&content[..], b"x"].concat());
    let sums_plus = |line: &'static [u8]| changed(SUMS, move |sums| Some([&sums, line].concat()));
    let cases = [
        (
            changed(STATE, longer),
            format!("{INTEGRITY}hash check failed for \"state.bin\""),
        ),
        (
            changed(STATE, flipped),
            format!("{INTEGRITY}hash check failed for \"state.bin\""),
        ),
        (
            sums_plus(b"00  other.txt\n"),
            format!("{INTEGRITY}list missing hash for \"other.txt\""),
        ),
        (
            sums_plus(b"hello\n"),
            format!("{INTEGRITY}malformed line of sums"),
        ),
    ];
    for (archive, text) in cases {
        assert_eq!(refusal(&archive), text);
    }
    let no_json = refusal(&changed(META, |_| Some(b"{nope".to_vec())));
    let begin = format!("{READ}failed to decode snapshot metadata: ");
    assert!(no_json.starts_with(&begin), "{no_json}");
}

#[test]
fn small_member_of_8192_bytes_is_refused_with_the_words_of_openbao() {
    for (name, action) in [
        (META, "failed to read snapshot metadata"),
        (SUMS, "failed to read snapshot hashes"),
        (SEALED_SUMS, "failed to read snapshot hashes"),
    ] {
        let resized = |length| {
            changed(name, move |mut content| {
                content.resize(length, b' ');
                Some(content)
            })
        };
        assert_eq!(
            refusal(&resized(8192)),
            format!(
                "{READ}{action}: read max specified bytes (8192) without EOF - possible truncation"
            )
        );
        assert!(!refusal(&resized(8191)).contains("truncation"));
    }
}

#[test]
fn sealed_sums_that_do_not_open_are_refused_unless_skipped() {
    let missing = changed(SEALED_SUMS, |_| None);
    let archive = write(&meta(), &entries(&[("a", b"1")]));
    let failing = |_: &[u8]| Err::<Vec<u8>, _>("wrong key");
    for refused in [
        ArchiveReader::verify(missing.as_slice(), invert),
        ArchiveReader::verify(archive.as_slice(), failing),
        ArchiveReader::verify(compress(b"").as_slice(), failing),
    ] {
        let error = refused.expect_err("not sealed by us");
        assert!(matches!(error, ArchiveError::SealedSums { .. }));
        assert_eq!(
            error.to_string(),
            "could not verify hash file, possibly the snapshot is using a different set of \
             unseal keys; use the snapshot-force API to bypass this check"
        );
    }
    ArchiveReader::verify_unsealed(missing.as_slice()).expect("skipped");
    // Sealed sums of another archive, opened: they name other content.
    let other = |_: &[u8]| Ok::<_, Infallible>(b"00  meta.json\n".to_vec());
    let error = ArchiveReader::verify(archive.as_slice(), other).expect_err("other sums");
    assert!(matches!(error, ArchiveError::Content { .. }));
}

#[test]
fn sealing_that_fails_is_told_before_anything_is_written() {
    let failing = |_: &[u8]| Err::<Vec<u8>, _>("the seal is gone");
    let refused = ArchiveWriter::prepare(&meta(), || entries(&[]).into_iter(), failing);
    let error = refused.map(|_| ()).expect_err("cannot be sealed");
    assert_eq!(
        error.to_string(),
        "failed to seal snapshot hashes: the seal is gone"
    );
}

#[test]
fn entry_that_does_not_decode_is_refused() {
    for state in [
        &b"\x02\x0a\x05"[..],
        b"\x03\x0a\x01\xff",
        b"\x05\x0a",
        b"\x85",
        b"\xff\xff\xff\xff\xff\xff",
    ] {
        let meta = b"{\"Version\":1,\"Index\":1,\"Term\":1}".to_vec();
        let sum = |bytes: &[u8]| {
            hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
        };
        let sums = format!("{}  {META}\n{}  {STATE}\n", sum(&meta), sum(state)).into_bytes();
        let archive = pack(&[
            (META.to_owned(), meta),
            (STATE.to_owned(), state.to_vec()),
            (SUMS.to_owned(), sums.clone()),
            (SEALED_SUMS.to_owned(), invert(&sums).expect("seals")),
        ]);
        let text = refusal(&archive);
        assert!(text.contains("entry 0: storage entry"), "{text}");
    }
}

#[test]
fn archive_that_changed_between_the_passes_is_noticed() {
    let archive = write(&meta(), &entries(&[("a", b"1"), ("b", b"2")]));
    let reader = ArchiveReader::verify(archive.as_slice(), invert).expect("is sound");
    for other in [
        write(&meta(), &entries(&[("a", b"1"), ("b", b"3")])),
        write(&meta(), &entries(&[("a", b"1")])),
    ] {
        let last = reader.entries(other.as_slice()).expect("opens").last();
        assert!(matches!(last, Some(Err(_))));
    }
}

#[test]
fn extended_header_may_state_the_length() {
    let members = unpack(&write(&meta(), &entries(&[("a", b"1")])));
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in &members {
        let length = content.len().to_string();
        tar.append_pax_extensions([("size", length.as_bytes())])
            .expect("is appended");
        let mut header = tar::Header::new_ustar();
        header.set_path(name).expect("is short");
        header.set_size(0);
        header.set_cksum();
        tar.get_mut().extend_from_slice(header.as_bytes());
        tar.get_mut().extend_from_slice(content);
        let padded = tar.get_ref().len().next_multiple_of(512);
        tar.get_mut().resize(padded, 0);
    }
    let archive = compress(&tar.into_inner().expect("is finished"));
    ArchiveReader::verify(archive.as_slice(), invert).expect("is sound");
}

#[test]
fn entries_can_move_to_another_thread() {
    fn movable<T: Send + 'static>(_: &T) {}
    let reader = ArchiveReader::verify_unsealed(OPENBAO).expect("is sound");
    movable(&reader.entries(Cursor::new(OPENBAO)).expect("opens"));
}

#[test]
fn archive_cut_anywhere_is_refused() {
    for length in (0..OPENBAO.len()).step_by(53) {
        ArchiveReader::verify_unsealed(&OPENBAO[..length]).expect_err("cut off");
    }
}

proptest! {
    #[test]
    fn any_entries_read_back(
        pairs in prop::collection::btree_map("[a-z/é]{1,12}", prop::collection::vec(any::<u8>(), 0..700), 0..12),
    ) {
        let content: Entries = pairs
            .into_iter()
            .map(|(key, value)| Pair::new(&key, &value))
            .collect();
        let archive = write(&meta(), &content);
        let reader = ArchiveReader::verify(archive.as_slice(), invert).expect("is sound");
        prop_assert_eq!(read(&archive, &reader), content);
    }

    /// A changed byte is found, or (in gzip and tar headers) does not matter.
    #[test]
    fn changed_byte_never_changes_the_content(offset in 0..OPENBAO.len(), flip in 1..=255_u8) {
        let sound = ArchiveReader::verify_unsealed(OPENBAO).expect("is sound");
        let mut archive = OPENBAO.to_vec();
        archive[offset] ^= flip;
        if let Ok(reader) = ArchiveReader::verify_unsealed(archive.as_slice()) {
            prop_assert_eq!(reader, sound);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), header in any::<bool>()) {
        let _ = ArchiveReader::verify_unsealed(bytes.as_slice());
        let mut tar = unpacked_header(header);
        tar.extend_from_slice(&bytes);
        let _ = ArchiveReader::verify_unsealed(compress(&tar).as_slice());
    }
}

/// The beginning of a tar file whose first member is `state.bin`, or nothing.
fn unpacked_header(wanted: bool) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(STATE).expect("is short");
    header.set_size(1500);
    header.set_cksum();
    match wanted {
        true => header.as_bytes().to_vec(),
        false => Vec::new(),
    }
}
