//! A place in a file that grows, until it is written anew.

use crate::system::disk::{not_regular, read_exact_at};
use std::{
    fs::{self, File, Metadata},
    io::{self, Seek, SeekFrom},
    path::Path,
    time::SystemTime,
};

/// So many bytes before the place are remembered: if they have changed, the file is another.
const REMEMBERED: usize = 64;

/// Which file it is, as far as the system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    number: u64,
    /// Numbers of files that are gone are given to new ones.
    born: Option<SystemTime>,
}

impl Identity {
    fn of(about: &Metadata) -> Identity {
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(about);
        #[cfg(not(unix))]
        let number = 0;
        Identity { number, born: about.created().ok() }
    }
}

/// How far a file was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Follow {
    identity: Option<Identity>,
    /// The end of the last line that was read.
    at: u64,
    /// What stands before that.
    before: Vec<u8>,
    /// Its length and time at the last look after which all of it was read.
    seen: Option<(u64, Option<SystemTime>)>,
    /// The same at the last look.
    looked: Option<(u64, Option<SystemTime>)>,
}

/// What a look at a file shows.
pub(super) enum Look {
    /// Nothing new.
    Same,
    /// It may have grown; it is at the place where the last look ended.
    More(File),
    /// It is not what it was; it is at its start.
    Anew(File),
    /// It is not there, or no longer.
    Gone,
}

impl Follow {
    /// Looks at the file.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<Look> {
        let about = match fs::metadata(path) {
            Ok(about) => about,
            // Only a missing file counts as none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let was_there = self.identity.is_some();
                *self = Follow::default();
                return Ok(if was_there { Look::Gone } else { Look::Same });
            }
            Err(error) => return Err(error),
        };
        if !about.is_file() {
            return Err(not_regular());
        }
        let seen = |about: &Metadata| Some((about.len(), about.modified().ok()));
        if self.identity == Some(Identity::of(&about)) && self.seen == seen(&about) {
            return Ok(Look::Same);
        }
        let mut file = File::open(path)?;
        // It may have been replaced in between.
        let about = file.metadata()?;
        let identity = Some(Identity::of(&about));
        if identity != self.identity || about.len() < self.at || !self.is_as_before(&file)? {
            *self = Follow { identity, looked: seen(&about), ..Follow::default() };
            return Ok(Look::Anew(file));
        }
        self.looked = seen(&about);
        file.seek(SeekFrom::Start(self.at))?;
        Ok(Look::More(file))
    }

    /// Whether what stands before the place is what stood there.
    fn is_as_before(&self, file: &File) -> io::Result<bool> {
        let len = self.before.len();
        let mut now = vec![0; len];
        read_exact_at(file, &mut now, self.at - len as u64)?;
        Ok(now == self.before)
    }

    /// The end of the last line that was read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The last line that was read, without its end.
    pub(super) fn passed(&mut self, line: &[u8]) {
        self.before.clear();
        self.before.extend_from_slice(&line[line.len().saturating_sub(REMEMBERED)..]);
        self.before.push(b'\n');
    }

    /// It was read up to its end. Until then, each look reads on.
    pub(super) fn finished(&mut self) {
        self.seen = self.looked;
    }

    /// It was read up to here.
    pub(super) fn reached(&mut self, at: u64) {
        self.at = at;
    }
}
