//! A write or sync that fails once, as Linux does it: what was unsynced counts
//! as clean, later syncs succeed, and the cache shows the new bytes or the old.
//! The process ends and is started again on the same system, without a power
//! cut; what it then believes must be on the disk.

use holdfast::disk::{CacheAfter, Fate, MemoryDisk};
use holdfast::types::LogIndex;
use holdfast::wal::{WalError, WalOptions};

use crate::crashes::{Script, Step, check_recovered, run};
use crate::model::{MODES, create, open, options};

fn fail_everywhere(name: &str, script: &Script, options: WalOptions) {
    let mut failures = 0;
    for append in MODES {
        let options = WalOptions { append, ..options };
        let whole = MemoryDisk::new();
        run(&whole, script, options);
        for call in 0..whole.calls() {
            for cache in [CacheAfter::New, CacheAfter::Old] {
                let disk = MemoryDisk::new();
                disk.fail_losing_at(call, cache);
                let progress = run(&disk, script, options);
                failures += 1;
                let (wal, opened) = match open(&disk, options) {
                    Err(WalError::Missing(_)) if progress.begun == 0 => {
                        drop(create(&disk, options).unwrap());
                        continue;
                    }
                    Err(error) => panic!("{name}, {append:?}, call {call}, {cache:?}: {error}"),
                    Ok(opened) => opened,
                };
                check_recovered(&opened, script, &progress);
                drop(wal);
                // And now the power fails: it was no dream of the cache.
                let after = disk.crash(|_| Fate::Lost);
                let (_, again) = open(&after, options).unwrap();
                assert_eq!(again.entries, opened.entries, "call {call}, {cache:?}");
                assert_eq!(again.hard_state, opened.hard_state);
            }
        }
    }
    println!("{name}: {failures} failures");
}

#[test]
fn failed_sync_while_appending_rotating_and_purging() {
    let mut script = Script::new();
    script
        .append([&|m| m.hard_state(1, Some(1), 0)])
        .append([&|m| m.append(1, &[3000; 3])])
        .append([&|m| m.append(1, &[3000; 3])])
        .append([&|m| m.replace(5, 2, &[10, 4000])])
        .step(Step::Mark)
        .append([&|m| m.append(2, &[5000]), &|m| m.hard_state(3, None, 4)])
        .step(Step::Purge(LogIndex(3)))
        .append([&|m| m.reset(50, 3, &[10])])
        .step(Step::Purge(LogIndex(50)))
        .step(Step::Reopen)
        .append([&|m| m.append(3, &[8000])]);
    fail_everywhere("appending, rotating, purging", &script, options(8));
}
