//! Snapshots across modules: store and file, archive and seal, and a real
//! OpenBao at the other end.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use holdfast::codec;
use holdfast::disk::{Disk, MemoryDisk, RealDisk};
use holdfast::seal;
use holdfast::snapshot::archive::{ArchiveReader, ArchiveWriter};
use holdfast::snapshot::{SnapshotDirectory, SnapshotInfo};
use holdfast::store::{Store, View};
use holdfast::types::{
    ClusterId, Command as StoreCommand, Entry, EntryPayload, Operation, Pair, RestoreStep, Term,
    Transaction,
};

const OPENBAO: &[u8] = include_bytes!("../src/snapshot/archive/testdata/openbao.snap");
const OPENBAO_KEYS: &str = include_str!("../src/snapshot/archive/testdata/openbao.keys.json");

/// Any three shares combine to the key that opens the sealed sums of the real
/// archive: shares, cipher and archive agree with OpenBao's all at once.
#[test]
fn sealed_sums_of_openbao_open_with_its_shares() {
    let keys: serde_json::Value = serde_json::from_str(OPENBAO_KEYS).expect("is JSON");
    let shares: Vec<Vec<u8>> = keys["unseal_keys_b64"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|share| BASE64_STANDARD.decode(share.as_str().expect("text")))
        .collect::<Result<_, _>>()
        .expect("is base64");
    let key = seal::combine(&shares[2..]).expect("they belong together");
    let reader = ArchiveReader::verify(OPENBAO, |blob| open_blob(&key, blob)).expect("is sound");
    assert_eq!(reader.meta().index, 35);

    let two = seal::combine(&shares[..2]).expect("some value");
    ArchiveReader::verify(OPENBAO, |blob| open_blob(&two, blob)).expect_err("two are not enough");
}

/// `BlobInfo` with the ciphertext (nonce, text, tag) in field 1, which is as
/// much of it as a Shamir seal uses.
fn open_blob(key: &[u8], blob: &[u8]) -> Result<Vec<u8>, &'static str> {
    let [0x0a, low, high, rest @ ..] = blob else {
        return Err("no ciphertext");
    };
    let length = usize::from(low & 0x7f) | usize::from(*high) << 7;
    let (nonce, text) = rest[..length].split_first_chunk().ok_or("too short")?;
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| "bad key")?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::empty(), &mut text);
    opened
        .map(|opened| opened.to_vec())
        .map_err(|_| "wrong key")
}

fn apply(store: &mut Store, command: &StoreCommand) {
    store.apply(&Entry {
        index: store.applied_index().next(),
        term: Term(2),
        payload: EntryPayload::Command(codec::encode_command(command)),
    });
}

fn put(store: &mut Store, key: &str, value: &[u8]) {
    let operation = Operation::Put {
        key: key.to_owned(),
        value: value.to_vec(),
    };
    let transaction = Transaction {
        preconditions: Vec::new(),
        operations: vec![operation],
    };
    apply(store, &StoreCommand::Transaction(transaction));
}

fn save(directory: &SnapshotDirectory, view: &View) -> SnapshotInfo {
    let mut writer = directory
        .writer(ClusterId([9; 16]), view.meta(), view.header())
        .expect("begins");
    for record in view.records() {
        writer.add(&record).expect("is written");
    }
    writer.finish().expect("is verified")
}

fn load(directory: &SnapshotDirectory, info: &SnapshotInfo) -> Store {
    let mut store = Store::new();
    let reader = directory.reader(info).expect("opens");
    store
        .restore_from(reader, &info.meta, &info.state)
        .expect("is sound");
    store
}

/// On both disks, in the middle of a restore, with values beyond a chunk.
#[test]
fn store_saved_and_loaded_saves_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let real: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let memory: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    for (disk, path) in [(real, folder.path()), (memory, Path::new("/snapshots"))] {
        let directory = SnapshotDirectory::open(disk, path).expect("opens");
        let mut store = Store::new();
        put(&mut store, "long", &vec![5; 2 << 20]);
        put(&mut store, "short", b"1");
        let steps = [
            RestoreStep::Begin { id: 3 },
            RestoreStep::Chunk {
                id: 3,
                sequence: 0,
                entries: vec![("staged".to_owned(), vec![6; 2 << 20])],
            },
        ];
        for step in steps {
            apply(&mut store, &StoreCommand::Restore(step));
        }
        let saved = save(&directory, &store.view());
        let mut loaded = load(&directory, &saved);
        assert_eq!(save(&directory, &loaded.view()), saved);

        let commit = StoreCommand::Restore(RestoreStep::Commit {
            id: 3,
            chunk_count: 1,
        });
        apply(&mut store, &commit);
        apply(&mut loaded, &commit);
        assert_eq!(loaded.view().list(""), ["staged"]);
        let after = save(&directory, &store.view());
        assert_eq!(save(&directory, &loaded.view()).sha256, after.sha256);
        assert_eq!(directory.all().len(), 2);
    }
}

/// An archive that this program wrote, restored into a fresh OpenBao of other
/// keys: unsealed with the keys of the archive it shows the archive's secrets.
#[test]
fn archive_written_here_restores_into_openbao() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("ours.snap");
    std::fs::write(&archive, rewritten()).expect("is written");

    let bao = Bao::start(folder.path());
    // The same shape as the archive's cluster: OpenBao keeps the number of
    // shares in memory across a restore.
    let init = ["operator", "init", "-key-shares=5", "-key-threshold=3"];
    let fresh = bao.json(&init, "");
    bao.unseal(&fresh);
    let fresh_token = text(&fresh["root_token"]);
    let restore = ["operator", "raft", "snapshot", "restore", "-force"];
    let restore = [&restore[..], &[archive.to_str().expect("is text")]].concat();
    bao.run(&restore, fresh_token);

    let keys: serde_json::Value = serde_json::from_str(OPENBAO_KEYS).expect("is JSON");
    bao.wait_until(Bao::sealed);
    bao.unseal(&keys);
    let token = text(&keys["root_token"]);
    let one = bao.json(&["kv", "get", "kv/app/one"], token);
    assert_eq!(one["data"]["value"], "first");
    let nested = bao.json(&["kv", "get", "kv/team/nested"], token);
    assert_eq!(nested["data"]["limits"]["nested"]["deep"], true);
}

/// The fixture's entries and sealed sums, through our reader and writer.
fn rewritten() -> Vec<u8> {
    let reader = ArchiveReader::verify_unsealed(OPENBAO).expect("is sound");
    let entries: Vec<Pair> = reader
        .entries(OPENBAO)
        .expect("opens")
        .map(|entry| entry.map(|(key, value)| Pair::new(&key, &value)))
        .collect::<Result<_, _>>()
        .expect("is sound");
    let seal = |_: &[u8]| Ok::<_, Infallible>(b"not sealed: restored by force".to_vec());
    let entries = || entries.clone().into_iter();
    ArchiveWriter::prepare(reader.meta(), entries, seal)
        .expect("is prepared")
        .write(Vec::new(), 0)
        .expect("is written")
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a text")
}

/// A real server in a folder of its own, killed on drop.
struct Bao {
    server: Child,
    address: String,
}

impl Bao {
    fn start(folder: &Path) -> Self {
        let (api, cluster) = (free_port(), free_port());
        let data: PathBuf = folder.join("data");
        std::fs::create_dir(&data).expect("is created");
        let configuration = format!(
            "storage \"raft\" {{\n path = {data:?}\n node_id = \"n1\"\n}}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{api}\"\n \
             cluster_address = \"127.0.0.1:{cluster}\"\n tls_disable = true\n}}\n\
             api_addr = \"http://127.0.0.1:{api}\"\n\
             cluster_addr = \"https://127.0.0.1:{cluster}\"\n\
             disable_mlock = true\n"
        );
        let file = folder.join("bao.hcl");
        std::fs::write(&file, configuration).expect("is written");
        let server = Command::new("bao")
            .arg("server")
            .arg(format!("-config={}", file.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bao is on the PATH");
        let bao = Self {
            server,
            address: format!("http://127.0.0.1:{api}"),
        };
        // `status` exits with 2 when the server answers that it is sealed.
        bao.wait_until(|bao| bao.command(&["status"], "").status.code() == Some(2));
        bao
    }

    fn command(&self, arguments: &[&str], token: &str) -> std::process::Output {
        Command::new("bao")
            .args(arguments)
            .env("BAO_ADDR", &self.address)
            .env("BAO_TOKEN", token)
            .env("BAO_FORMAT", "json")
            .output()
            .expect("bao is on the PATH")
    }

    fn run(&self, arguments: &[&str], token: &str) -> Vec<u8> {
        let output = self.command(arguments, token);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bao {arguments:?}: {errors}");
        output.stdout
    }

    fn json(&self, arguments: &[&str], token: &str) -> serde_json::Value {
        serde_json::from_slice(&self.run(arguments, token)).expect("is JSON")
    }

    fn unseal(&self, keys: &serde_json::Value) {
        for share in 0..3 {
            let share = text(&keys["unseal_keys_b64"][share]);
            self.run(&["operator", "unseal", share], "");
        }
        self.wait_until(Self::active);
    }

    fn sealed(&self) -> bool {
        self.command(&["status"], "").status.code() == Some(2)
    }

    /// Unsealed and, as `status` prints it, leading.
    fn active(&self) -> bool {
        let status = self.command(&["status"], "");
        let json = serde_json::from_slice::<serde_json::Value>(&status.stdout);
        status.status.success() && json.is_ok_and(|status| status["is_self"] == true)
    }

    fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
