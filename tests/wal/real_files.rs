//! The same log on real files, with the background thread and maps.

use std::sync::Arc;

use holdfast::disk::{AppendMode, Disk, RealDisk};
use holdfast::types::{LogIndex, LogWrite};
use holdfast::wal::{Verdict, Wal, WalOptions};

use crate::model::{IDENTITY, Model};

fn check_on(folder: &std::path::Path) {
    for append in [AppendMode::Direct, AppendMode::Cached, AppendMode::Mapped] {
        check_mode(&folder.join(format!("{append:?}")), append);
    }
}

fn check_mode(folder: &std::path::Path, append: AppendMode) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let dir = folder.join("raft/log");
    let options = WalOptions {
        segment_bytes: 256 << 10,
        append,
        ..WalOptions::default()
    };
    let mut wal = Wal::create(Arc::clone(&disk), &dir, IDENTITY, options).unwrap();
    let mut model = Model::default();
    let write = |wal: &mut Wal, model: &mut Model, make: &dyn Fn(&Model) -> LogWrite| {
        let next = make(model);
        wal.append(std::slice::from_ref(&next)).unwrap();
        model.apply(&next);
    };
    write(&mut wal, &mut model, &|m| m.hard_state(1, Some(5), 0));
    for round in 0..40 {
        write(&mut wal, &mut model, &|m| m.append(1, &[round * 500, 256]));
    }
    write(&mut wal, &mut model, &|m| m.append(1, &[1 << 20]));
    write(&mut wal, &mut model, &|m| m.hard_state(1, Some(5), 60));

    // A reader on another thread, while the log goes on.
    let reader = wal.reader();
    let expected = model.entries.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..20 {
            let read = reader
                .entries(LogIndex(1), LogIndex(81), usize::MAX)
                .unwrap();
            assert!(read == expected[..]);
        }
    });
    for _ in 0..50 {
        write(&mut wal, &mut model, &|m| m.append(1, &[3000]));
    }
    thread.join().unwrap();

    wal.purge(LogIndex(60)).unwrap();
    wal.mark_idle().unwrap();
    drop(wal);
    let (wal, opened) = Wal::open(disk, &dir, Some(IDENTITY), options).unwrap();
    assert_eq!(opened.verdict, Verdict::Clean);
    assert_eq!(opened.hard_state, model.hard_state);
    assert!(opened.base.0 > LogIndex(20));
    assert!(model.matches_entries(&opened));
    let first = opened.base.0.next();
    let read = wal
        .reader()
        .entries(first, model.last().0, usize::MAX)
        .unwrap();
    assert!(read == opened.entries);
}

#[test]
fn log_on_real_files_comes_back() {
    check_on(tempfile::tempdir().unwrap().path());
}

#[test]
fn log_in_a_memory_file_system_comes_back() {
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        check_on(folder.path());
    }
}
