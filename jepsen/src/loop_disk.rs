//! A file system of its own for a node: ext4 in a file, mounted through a loop
//! device. Needs root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A mounted file system; dropping it unmounts and removes it.
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

/// A file system on which every write waits; dropping it lets them go on.
pub struct Frozen {
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes and mounts one of this size below `parent`, which must exist.
    ///
    /// # Errors
    /// No root, no loop device, no space.
    pub fn create(parent: &Path, name: &str, bytes: u64) -> anyhow::Result<LoopDisk> {
        let image = parent.join(format!("{name}.ext4"));
        let mount = parent.join(format!("{name}.mount"));
        let file = File::create(&image).with_context(|| format!("create {}", image.display()))?;
        file.set_len(bytes).context("size the image")?;
        fs::create_dir(&mount).with_context(|| format!("create {}", mount.display()))?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()])?;
        let disk = LoopDisk { image, mount };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        let (image, mount) = (self.image.as_ref(), self.mount.as_ref());
        run("mount", &["-o".as_ref(), "loop".as_ref(), image, mount])
    }

    /// Has the device take at most so many KiB at a time, until it is unmounted:
    /// a longer write is several to it, of which any number may be done.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn limit_requests(&self, kib: u32) -> anyhow::Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        let mount = self.mount.to_string_lossy();
        let mut lines = mounts.lines().map(|line| line.split(' '));
        let device = lines.find_map(|mut words| {
            let device = words.next()?.strip_prefix("/dev/")?;
            (words.next()? == mount).then_some(device)
        });
        let device = device.context("the device of the mount")?;
        let path = format!("/sys/block/{device}/queue/max_sectors_kb");
        fs::write(&path, kib.to_string()).with_context(|| format!("write {path}"))
    }

    /// Copies what the device holds, without asking the file system on it to
    /// write anything. Its image must not change meanwhile.
    ///
    /// # Errors
    /// No room.
    pub fn copy_to(&self, path: &Path) -> anyhow::Result<()> {
        let (image, sparse) = (self.image.as_ref(), "--sparse=always".as_ref());
        run("cp", &[sparse, image, path.as_ref()])
    }

    /// Goes on from such a copy; what was written since is lost. Nothing may
    /// use the disk.
    ///
    /// # Errors
    /// Something uses it, or the copy cannot be mounted.
    pub fn replace_by(&self, copy: &Path) -> anyhow::Result<()> {
        run("umount", &[self.mount.as_ref()])?;
        let sparse = "--sparse=always".as_ref();
        run("cp", &[sparse, copy.as_ref(), self.image.as_ref()])?;
        self.mount()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes every write wait.
    ///
    /// # Errors
    /// No root.
    pub fn freeze(&self) -> anyhow::Result<Frozen> {
        run("fsfreeze", &["-f".as_ref(), self.mount.as_ref()])?;
        Ok(Frozen {
            mount: self.mount.clone(),
        })
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[self.mount.as_ref()]) {
            eprintln!("harness: {error:#}");
            return;
        }
        for outcome in [fs::remove_file(&self.image), fs::remove_dir(&self.mount)] {
            if let Err(error) = outcome {
                eprintln!("harness: remove {}: {error}", self.mount.display());
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["-u".as_ref(), self.mount.as_ref()]) {
            eprintln!("harness: {error:#}");
        }
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {arguments:?}: {}", errors.trim());
    }
    Ok(())
}
