//! Files that are whole or absent, whatever interrupts the writer. Files in checksummed folders are verified before
//! they are read.
//!
//! A file is written to a temporary name, flushed to disk and renamed. A folder is written under a temporary name, each
//! file flushed, `SHA256SUMS` last; then the folder is renamed. A power loss, an out-of-memory kill or a lost race in
//! between leaves only a name that ends in `.tmp`, which readers ignore.

use kinglet_core::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, TryLockError},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

/// Lists the checksums of the other files in a folder, in the format of `sha256sum`; `sha256sum -c` verifies it.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn sha256_of(file: &mut File) -> io::Result<String> {
    let (mut file, mut hasher) = (BufReader::with_capacity(1 << 20, file), Sha256::new());
    loop {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(piece);
        let n = piece.len();
        file.consume(n);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Called before every disk write, so that tests can make each one fail or simulate a crash there.
#[cfg(not(test))]
pub(crate) fn allowed() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use faults::{Fault, allowed, with_fault};

#[cfg(test)]
mod faults {
    use std::{cell::Cell, io};

    /// How a thread's disk writes fail.
    #[derive(Clone, Copy)]
    pub(crate) enum Fault {
        /// Write number `n` fails, as on a disk that is briefly full.
        At(usize),
        /// Write number `n` and all later ones fail, clean-up included, as if the process had been killed.
        From(usize),
    }

    thread_local!(static FAULT: Cell<(Option<Fault>, usize)> = const { Cell::new((None, 0)) });

    /// Runs `work` with an injected fault; also returns whether the fault was reached.
    pub(crate) fn with_fault<R>(fault: Fault, work: impl FnOnce() -> R) -> (R, bool) {
        FAULT.set((Some(fault), 0));
        let result = work();
        let (_, changes) = FAULT.replace((None, 0));
        let (Fault::At(n) | Fault::From(n)) = fault;
        (result, changes > n)
    }

    pub(crate) fn allowed() -> io::Result<()> {
        let (fault, changes) = FAULT.get();
        FAULT.set((fault, changes + 1));
        let fails = match fault {
            None => false,
            Some(Fault::At(n)) => changes == n,
            Some(Fault::From(n)) => changes >= n,
        };
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

/// Makes a rename in a folder durable, on systems that support it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// `path` with `.tmp` appended.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Renames the temporary file or folder to its final path.
fn place(aside: &Path, path: &Path) -> io::Result<()> {
    allowed()?;
    fs::rename(aside, path)?;
    // The parent of a bare name is an empty path, which cannot be opened.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

fn write_flushed(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    allowed()?;
    let mut file = BufWriter::with_capacity(1 << 16, File::create(path)?);
    allowed()?;
    write(&mut file)?;
    file.into_inner()?.sync_all()
}

/// Writes a file of a folder that is not there yet, and waits until it is on the disk.
///
/// # Errors
/// Any file system error.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_flushed(path, |file| file.write_all(bytes))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// Any file system error; the previous content of `path` is kept then.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_by(path, |file| file.write_all(bytes))
}

/// The same, with the content produced by `write`.
pub(crate) fn write_whole_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let aside = aside(path);
    write_flushed(&aside, write)
        .and_then(|()| place(&aside, path))
        .inspect_err(|_| _ = allowed().and_then(|()| fs::remove_file(&aside)))
}

/// Creates a folder if it is missing.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    allowed().and_then(|()| fs::create_dir_all(path)).map_err(Error::io("create", path))
}

/// Creates a folder and those above it that are missing, and remembers which these were, so that a start that fails can
/// remove them again.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Creates what is missing of `path`.
    ///
    /// # Errors
    /// If a folder cannot be created; none is left then.
    pub(crate) fn create(path: &Path) -> Result<NewFolders> {
        // The last of a relative path's ancestors is empty: the current folder.
        let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let new = NewFolders(missing.map(Path::to_owned).collect());
        create_folder(path).inspect_err(|_| new.remove())?;
        Ok(new)
    }

    /// Removes them, innermost first, as long as they are empty.
    pub(crate) fn remove(&self) {
        let _ = self.0.iter().try_for_each(fs::remove_dir);
    }
}

/// Begins a folder of our own, which must be as `refuse` wants it: creates and locks it, and calls `begin`. If that fails, nothing is
/// left of it.
///
/// # Errors
/// Those of `refuse` and `begin`, or if the folder cannot be created or locked.
pub(crate) fn begin_folder<T>(
    out: &Path,
    refuse: impl Fn(&Path) -> Result<()>,
    begin: impl FnOnce(Lock) -> Result<T>,
) -> Result<T> {
    refuse(out)?;
    let folders = NewFolders::create(out)?;
    let lock = Lock::take(out).inspect_err(|_| folders.remove())?;
    // Check again under the lock: another process may have got there first.
    refuse(out)?;
    begin(lock).inspect_err(|_| {
        let _ = fs::remove_file(out.join(Lock::FILE));
        folders.remove();
    })
}

/// A folder of files, being written under a temporary name.
pub(crate) struct FolderWriter {
    path: PathBuf,
    aside: PathBuf,
    sums: String,
    /// Whether an existing folder may be replaced.
    replaces: bool,
    /// Tells other processes that `aside` is being written.
    lock: Option<Lock>,
    /// Folders that were created to hold it.
    parents: NewFolders,
    /// Leftovers of earlier writers that were removed.
    pub(crate) notes: Vec<String>,
}

impl FolderWriter {
    /// Begins writing `path`, a folder of our own: existing content is replaced, leftovers of an interrupted writer are
    /// removed.
    pub(crate) fn new(path: &Path) -> Result<FolderWriter> {
        let aside = aside(path);
        remove_folder(&aside)?;
        allowed().and_then(|()| fs::create_dir_all(&aside)).map_err(Error::io("create", &aside))?;
        let (path, sums, parents) = (path.to_owned(), String::new(), NewFolders::default());
        Ok(FolderWriter { path, aside, sums, replaces: true, lock: None, parents, notes: Vec::new() })
    }

    /// Begins writing a folder at a path chosen by the user. Nothing existing is touched, except an empty folder at
    /// that path and leftovers of killed writers in the same parent folder, whatever they were writing.
    pub(crate) fn beside(path: &Path) -> Result<FolderWriter> {
        let path = std::path::absolute(path).map_err(Error::io("create", path))?;
        let name = path.file_name().unwrap_or_default().display();
        let aside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let parent = path.parent().unwrap_or(&path);
        let parents = NewFolders::create(parent)?;
        let mut notes = Vec::new();
        for left in abandoned(parent) {
            remove_folder(&left)?;
            notes.push(format!("removed {}, which an interrupted kinglet left behind", left.display()));
        }
        let sums = String::new();
        // From here on, whatever fails removes what was made.
        let mut writer = FolderWriter { path, aside, sums, replaces: false, lock: None, parents, notes };
        fs::create_dir(&writer.aside).map_err(Error::io("create", &writer.aside))?;
        unfinished().push((writer.aside.clone(), writer.parents.clone()));
        writer.lock = Some(Lock::take(&writer.aside)?);
        Ok(writer)
    }

    /// The temporary folder that files are written to until the folder is finished.
    pub(crate) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Adds a file, which `write` writes to the path it is given.
    pub(crate) fn add(&mut self, name: &str, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
        let path = self.aside.join(name);
        let sum = allowed().and_then(|()| write(&path)).and_then(|()| {
            // Windows can flush only files opened for writing.
            let mut file = File::options().read(true).write(true).open(&path)?;
            file.sync_all()?;
            sha256_of(&mut file)
        });
        self.sums += &format!("{}  {name}\n", sum.map_err(Error::io("write", &self.path.join(name)))?);
        Ok(())
    }

    /// Writes the checksums of the files that were added, if any were, and renames the folder to its final path,
    /// replacing an older one of the same name.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.replaces {
            remove_folder(&self.path)?;
        } else if self.path.exists() {
            // Fails if another process has put something there meanwhile.
            fs::remove_dir(&self.path).map_err(Error::io("replace", &self.path))?;
        }
        let summed = match self.sums.as_str() {
            "" => Ok(()),
            sums => write_flushed(&self.aside.join(SUMS), |file| file.write_all(sums.as_bytes())),
        };
        summed.and_then(|()| sync_folder(&self.aside)).map_err(Error::io("write", &self.path))?;
        // The lock shows the next writer what a killed one left, so it goes last. Windows cannot rename a folder with an
        // open file in it.
        if cfg!(windows) {
            self.unlock(&self.aside.clone())?;
        }
        place(&self.aside, &self.path).map_err(Error::io("write", &self.path))?;
        self.forget();
        self.parents = NewFolders::default();
        self.unlock(&self.path.clone())
    }

    /// The same where a folder is at the final path: it is moved away first, and removed at last. If this process is killed in
    /// between, one of the two is there, or none.
    pub(crate) fn finish_over(self) -> Result<()> {
        let path = self.path.clone();
        let mut old = path.file_name().unwrap_or_default().to_owned();
        old.push(".old");
        let old = doomed(&path.with_file_name(old));
        allowed().and_then(|()| fs::rename(&path, &old)).map_err(Error::io("replace", &path))?;
        // What could not be placed leaves what was there.
        self.finish().inspect_err(|_| _ = allowed().and_then(|()| fs::rename(&old, &path)))?;
        remove_folder(&old)
    }

    /// From now on a signal has nothing to remove.
    fn forget(&self) {
        unfinished().retain(|(aside, _)| *aside != self.aside);
    }

    /// Removes the lock file, which is in `folder`, and unlocks it. In this order: a lock file that is not locked means
    /// that the writer is dead.
    fn unlock(&mut self, folder: &Path) -> Result<()> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        let path = folder.join(Lock::FILE);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        drop(lock);
        Ok(())
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        self.forget();
        // Windows cannot remove a folder that contains an open file.
        self.lock = None;
        // After `finish` nothing is left. If removing fails, the next writer removes the leftovers.
        let _ = allowed().and_then(|()| fs::remove_dir_all(&self.aside));
        self.parents.remove();
    }
}

/// Temporary folders that this process is writing beside their final path, and what was made to hold them.
static UNFINISHED: Mutex<Vec<(PathBuf, NewFolders)>> = Mutex::new(Vec::new());

fn unfinished() -> std::sync::MutexGuard<'static, Vec<(PathBuf, NewFolders)>> {
    UNFINISHED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How often a folder is removed in which another thread may still be writing, and how long it is waited in between.
const REMOVALS: usize = 50;
const BETWEEN: Duration = Duration::from_millis(2);

/// Removes the folders that are being written, so that a process which is told to end leaves nothing. The process must end
/// then.
pub fn remove_unfinished() {
    for (aside, parents) in unfinished().drain(..) {
        for _ in 0..REMOVALS {
            // Its writer may go on until the process has ended.
            if fs::remove_dir_all(&aside).is_ok() && !aside.exists() || !aside.exists() {
                break;
            }
            thread::sleep(BETWEEN);
        }
        parents.remove();
    }
}

/// The folders in `parent` named `.NAME.PID.tmp` whose writer is dead: the lock file in them names the same process, and
/// is not locked.
pub(crate) fn abandoned(parent: &Path) -> Vec<PathBuf> {
    let pid = |folder: &Path| -> Option<u32> {
        let name = folder.file_name()?.to_str()?;
        let (_, pid) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
        pid.parse().ok()
    };
    let dead = |folder: &PathBuf| {
        let Some(pid) = pid(folder) else { return false };
        let Ok(mut file) = File::options().read(true).write(true).open(folder.join(Lock::FILE)) else { return false };
        file.try_lock().is_ok() && owner(&mut file) == Some(pid)
    };
    let entries = parent.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(dead).collect()
}

/// The process that a lock file names.
fn owner(lock: &mut File) -> Option<u32> {
    let mut owner = String::new();
    lock.take(64).read_to_string(&mut owner).ok()?;
    owner.trim().parse().ok()
}

/// Returns an error if the folder contains anything that is not `harmless`. A missing folder counts as empty.
pub(crate) fn refuse_full(path: &Path, harmless: impl Fn(&fs::DirEntry) -> bool) -> Result<()> {
    let entries = match path.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("create", path))?,
    };
    for entry in entries {
        if !harmless(&entry.map_err(Error::io("read", path))?) {
            return Err(Error::run(path, "this folder is not empty: choose another with --out"));
        }
    }
    Ok(())
}

/// The text, if its checksum from the same file was found and matches; `advice` is appended to the error.
pub(crate) fn unseal<'a>(path: &Path, text_and_sum: Option<(&'a str, &str)>, advice: &str) -> Result<&'a str> {
    match text_and_sum {
        Some((text, sum)) if sha256(text.as_bytes()) == sum => Ok(text),
        _ => Err(Error::damaged(path, format!("its checksum does not match: damaged or edited by hand{advice}"))),
    }
}

/// Removes a folder if it exists. It is renamed first, so that a half-removed folder never has the original name.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    let remove = || {
        allowed()?;
        let mut doomed = path.to_owned();
        if path.extension().is_none_or(|extension| extension != "tmp") {
            doomed = path.with_extension("old.tmp");
            fs::rename(path, &doomed)?;
        }
        allowed()?;
        fs::remove_dir_all(doomed)
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Replaces a file in a folder with checksums. At any moment the folder can be read, with the old file or the new one:
/// in between, both have their line in `SHA256SUMS`.
pub(crate) fn replace_in_folder(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let FolderReader { sums, .. } = FolderReader::new(folder)?;
    let line = format!("{}  {name}\n", sha256(bytes));
    let others: String = sums.split_inclusive('\n').filter(|line| !line.ends_with(&format!("  {name}\n"))).collect();
    for (file, bytes) in [(SUMS, (sums + &line).as_bytes()), (name, bytes), (SUMS, (others + &line).as_bytes())] {
        let path = folder.join(file);
        write_whole(&path, bytes).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// Removes a file from a folder with checksums. Its line goes first, so that no file is ever missing that has one.
pub(crate) fn remove_from_folder(folder: &Path, name: &str) -> Result<()> {
    let FolderReader { sums, .. } = FolderReader::new(folder)?;
    let others: String = sums.split_inclusive('\n').filter(|line| !line.ends_with(&format!("  {name}\n"))).collect();
    let (path, file) = (folder.join(SUMS), folder.join(name));
    write_whole(&path, others.as_bytes()).map_err(Error::io("write", &path))?;
    allowed().and_then(|()| fs::remove_file(&file)).map_err(Error::io("remove", &file))
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match allowed().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The folder that a folder of the same parent, which is being removed, is renamed to. With our lock in it, it is known as a
/// leftover if this process ends before all of it is gone.
pub(crate) fn doomed(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().display();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// A folder with checksums, opened for reading.
#[derive(Debug)]
pub(crate) struct FolderReader {
    path: PathBuf,
    sums: String,
}

impl FolderReader {
    /// Reads the checksums of the folder `path`.
    pub(crate) fn new(path: &Path) -> Result<FolderReader> {
        let sums = read_text(&path.join(SUMS), 1 << 24)?;
        Ok(FolderReader { path: path.to_owned(), sums })
    }

    /// An error about one of the files.
    pub(crate) fn error(&self, name: &str, error: &Error) -> Error {
        Error::run(&self.path.join(name), error.to_string())
    }

    /// Reads a file of at most `limit` bytes and verifies it.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let bytes = read_at_most(&path, limit)?;
        self.verify(name, &sha256(&bytes))?;
        Ok(bytes)
    }

    /// Verifies a file and opens it for streaming.
    pub(crate) fn open(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let sum = sha256_of(&mut file).map_err(Error::io("read", &path))?;
        self.verify(name, &sum)?;
        file.rewind().map_err(Error::io("read", &path))?;
        Ok(file)
    }

    /// Whether a file has a checksum.
    pub(crate) fn lists(&self, name: &str) -> bool {
        self.sums.lines().any(|line| line.ends_with(&format!("  {name}")))
    }

    fn verify(&self, name: &str, sum: &str) -> Result<()> {
        let line = format!("{sum}  {name}");
        if self.sums.lines().any(|listed| listed == line) {
            return Ok(());
        }
        Err(Error::damaged(&self.path.join(name), format!("damaged: its SHA-256 differs from the one in {SUMS}")))
    }
}

/// Reads a file unless it is larger than `limit`; an oversized file is rejected before memory is allocated for it.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let too_large =
        |size: u64| Error::damaged(path, format!("damaged: {size} bytes, but at most {limit} are expected"));
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > limit => return Err(too_large(metadata.len())),
        _ => {}
    }
    let bytes = read().map_err(Error::io("read", path))?;
    // Checked again for files whose size is not known beforehand, such as pipes.
    if bytes.len() as u64 > limit { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Opens a regular file. Of anything else, such as a pipe, nobody knows whether it ever answers.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(not_regular()) }
}

/// What is not a regular file is not read.
pub(crate) fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Fills `bytes` with what a file has from `at` on, whatever its cursor is.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` with what a file has from `at` on.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        at += read as u64;
    }
    Ok(())
}

/// As [`read_at_most`], for text.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_at_most(path, limit)?)
        .map_err(|error| Error::damaged(path, format!("not UTF-8 text: see byte {}", error.utf8_error().valid_up_to())))
}

/// A file that grows line by line. Lines that could not be written are kept and written before the next one.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    /// Length of the part of the file known to be good.
    len: u64,
    pending: String,
}

impl Appender {
    /// Opens a file whose content is known to be good.
    pub(crate) fn new(path: &Path) -> io::Result<Appender> {
        // Not in append mode: Windows cannot truncate a file opened that way.
        let file = File::options().write(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Appender { file, len, pending: String::new() })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Any file system error; the line is retried with the next one.
    pub(crate) fn append(&mut self, line: &str) -> io::Result<()> {
        self.pending.push_str(line);
        self.pending.push('\n');
        allowed()?;
        // An earlier attempt may have left a partial line.
        if self.file.seek(io::SeekFrom::End(0))? != self.len {
            self.file.set_len(self.len)?;
            self.file.seek(io::SeekFrom::End(0))?;
        }
        self.file.write_all(self.pending.as_bytes())?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Waits until what was appended is on the disk.
    ///
    /// # Errors
    /// Any file system error.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        allowed()?;
        self.file.sync_data()
    }
}

/// An exclusive lock on writing in a folder. It is released when the value is dropped or the process ends, however it
/// ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// The lock file. It is never removed from a run, and names the process that holds or held the lock. The OS tracks
    /// whether the lock is held, so a file left by a dead process blocks nobody.
    pub(crate) const FILE: &str = "lock";

    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// If another process holds it.
    pub(crate) fn take(folder: &Path) -> Result<Lock> {
        let path = folder.join(Lock::FILE);
        let io = |error| Error::io("lock", &path)(error);
        let mut file = File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(io)?;
        let mut tried = file.try_lock();
        for _ in 0..GLANCES {
            if !matches!(tried, Err(TryLockError::WouldBlock)) {
                break;
            }
            thread::sleep(GLANCE);
            tried = file.try_lock();
        }
        match tried {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = owner(&mut file).map_or_else(String::new, |pid| format!(" (process {pid})"));
                let what = format!("another kinglet{owner} is training this run; wait for it or stop it");
                return Err(Error::Locked { path: folder.to_owned(), what });
            }
            // The file system does not support locks. An unguarded run is better than none.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        // The lock is valid even if the disk is too full to record the process id.
        let _ = named;
        Ok(Lock { _file: file })
    }

    /// Whether a process holds the lock of a folder. Where the system cannot tell, nobody does.
    pub(crate) fn is_held(folder: &Path) -> bool {
        let Ok(file) = File::open(folder.join(Lock::FILE)) else { return false };
        // Released at once. Whoever takes the lock tries longer than that.
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// How often, and after which time, a lock is tried again: [`Lock::is_held`] holds it for a moment.
const GLANCES: usize = 5;
const GLANCE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_old_or_the_new_one_whatever_fails() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        write_whole(&path, b"old").unwrap();
        for n in 0.. {
            for fault in [Fault::At(n), Fault::From(n)] {
                let (result, reached) = with_fault(fault, || write_whole(&path, b"new"));
                assert_eq!(result.is_err(), reached);
                assert_eq!(fs::read(&path).unwrap(), if reached { b"old" } else { b"new" });
                if !reached {
                    return assert!(n == 3, "{n} changes");
                }
            }
        }
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next_and_a_living_one_is_not_disturbed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("out");
        // Of the same folder, and of others.
        let left = [".out.1.tmp", ".other.2.tmp", ".a.b.3.tmp"].map(|name| temp.path().join(name));
        let me = format!(".living.{}.tmp", std::process::id());
        let others = [".out.x.tmp", ".other.1.tmp", &me, ".foreign.5.tmp"].map(|name| temp.path().join(name));
        others.iter().chain(&left).for_each(|folder| fs::create_dir(folder).unwrap());
        for (folder, pid) in left.iter().zip(1..) {
            fs::write(folder.join(Lock::FILE), format!("{pid}\n")).unwrap();
            fs::write(folder.join("train-00000.bin"), "much").unwrap();
        }
        // Somebody else's file of this name.
        fs::write(others[3].join(Lock::FILE), "mine").unwrap();
        let _living = Lock::take(&others[2]).unwrap();
        let mut writer = FolderWriter::beside(&path).unwrap();
        assert_eq!(writer.notes.len(), 3, "{:?}", writer.notes);
        assert!(writer.notes.iter().any(|note| note.contains(".other.2.tmp")), "{:?}", writer.notes);
        assert!(left.iter().all(|folder| !folder.exists()) && others.iter().all(|folder| folder.exists()));
        assert!(abandoned(temp.path()).is_empty(), "this one lives");
        writer.add("file", |path| fs::write(path, "x")).unwrap();
        let aside = writer.aside().to_owned();
        writer.finish().unwrap();
        let mut names: Vec<_> = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [SUMS, "file"]);
        assert!(!aside.exists());
    }

    #[test]
    fn a_writer_that_gives_up_removes_the_folders_it_made() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("there")).unwrap();
        for path in ["there/a/b/out", "new/a/out"] {
            drop(FolderWriter::beside(&temp.path().join(path)).unwrap());
        }
        let left: Vec<_> = temp.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["there"]);
        assert_eq!(temp.path().join("there").read_dir().unwrap().count(), 0);
        // Below a file nothing can be made.
        fs::write(temp.path().join("file"), "x").unwrap();
        assert!(NewFolders::create(&temp.path().join("file/a/b")).is_err());
    }

    #[test]
    fn a_file_in_a_folder_with_checksums_is_the_old_or_the_new_one_whatever_fails() {
        for n in 0.. {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("folder");
            let mut writer = FolderWriter::new(&path).unwrap();
            for name in ["a", "b"] {
                writer.add(name, |path| fs::write(path, "old")).unwrap();
            }
            writer.finish().unwrap();
            let (result, reached) = with_fault(Fault::From(n), || replace_in_folder(&path, "a", b"new"));
            assert_eq!(result.is_err(), reached);
            let reader = FolderReader::new(&path).unwrap();
            let found = reader.read("a", 9).unwrap();
            assert!(found == b"new" || reached && found == b"old");
            assert_eq!(reader.read("b", 9).unwrap(), b"old");
            if !reached {
                assert_eq!(reader.sums.lines().count(), 2);
                return assert!(n == 9, "{n} changes");
            }
        }
    }

    #[test]
    fn a_line_that_could_not_be_written_is_not_lost() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "a\n").unwrap();
        let mut file = Appender::new(&path).unwrap();
        assert!(with_fault(Fault::At(0), || file.append("b")).0.is_err());
        // What half a write leaves.
        File::options().append(true).open(&path).unwrap().write_all(b"half").unwrap();
        file.append("c").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn large_files_are_refused_before_they_are_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_at_most(&path, 100).unwrap_err().to_string();
        assert!(error.contains("1099511627776 bytes, but at most 100 are expected"), "{error}");
    }

    #[test]
    fn a_lock_is_taken_once_and_given_back() {
        let temp = tempfile::tempdir().unwrap();
        // Left by a process that died.
        fs::write(temp.path().join(Lock::FILE), "123456789\n").unwrap();
        let lock = Lock::take(temp.path()).unwrap();
        let error = Lock::take(temp.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("another kinglet (process {}) is training", std::process::id())), "{error}");
        assert!(Lock::is_held(temp.path()));
        drop(lock);
        assert!(!Lock::is_held(temp.path()) && !Lock::is_held(&temp.path().join("missing")));
        Lock::take(temp.path()).unwrap();
    }
}
