//! The MPI library: opened, and told apart from others by what is in it.

use crate::calls::{Calls, Constants, one_line, text};
use crate::launch::Library as Place;
use kinglet_core::error::{Error, Result};
use libloading::Library;
use std::{
    ffi::{c_char, c_int, c_void},
    path::Path,
};

/// How programs talk to an MPI library, in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Open MPI's, of version 3 to 5: `libmpi.so.40`.
    OpenMpi,
    /// MPICH's, which Intel's, Cray's and others' have too: `libmpi.so.12`.
    Mpich,
    /// The standard's, since MPI 5: `libmpi_abi.so.1`.
    Standard,
}

/// What is called in a library.
pub(crate) enum Spoken {
    /// Handles are pointers.
    Pointers(Calls<usize>, Constants<usize>),
    /// Handles are numbers.
    Numbers(Calls<c_int>, Constants<c_int>),
}

/// Opens the first library that is there. It stays open: MPI may have threads of its own in it.
pub(crate) fn open(places: &[Place]) -> Result<(&'static Library, String)> {
    let mut tried = Vec::new();
    for place in places {
        let path = place.path();
        if matches!(place, Place::At(path) if !path.exists()) && places.len() > 1 {
            continue;
        }
        match open_one(path) {
            Ok(library) => return Ok((Box::leak(Box::new(library)), path.display().to_string())),
            Err(error) => tried.push(format!("  {}", innermost(&error, path))),
        }
    }
    Err(Error::Ranks(format!("no MPI library could be opened:\n{}", tried.join("\n"))))
}

fn open_one(path: &Path) -> Result<Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // The parts that a library of MPI opens itself look for its functions among those of the program.
        // SAFETY: an MPI library does nothing to this process before it is initialized.
        unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above.
        unsafe { Library::new(path) }
    }
}

/// The system's words, which may name the file.
fn innermost(error: &libloading::Error, path: &Path) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let (what, path) = (error.to_string(), path.display().to_string());
    if what.contains(&path) { what } else { format!("{path}: {what}") }
}

/// The library's own words for what it is. Some go on about how it was compiled.
pub(crate) fn version(library: &Library) -> Option<String> {
    type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
    // SAFETY: the standard's declaration; it may be called before MPI is initialized, and there is room for the text.
    unsafe {
        let version = library.get::<Version>("MPI_Get_library_version\0").ok()?;
        let version = text(|to, len| version(to, len))?;
        Some(one_line(version.lines().next().unwrap_or_default()))
    }
}

impl Interface {
    /// The interface of a library, whatever it is called.
    pub(crate) fn of(library: &Library) -> Result<Interface> {
        type AbiVersion = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the standard's declaration; it may be called before MPI is initialized. A library with another interface says -1.
        let asked = unsafe {
            library.get::<AbiVersion>("MPI_Abi_get_version\0").map(|version| version(&mut major, &mut minor))
        };
        if asked.is_ok_and(|code| code == 0) && major >= 1 {
            return Ok(Interface::Standard);
        }
        if symbol(library, "ompi_mpi_comm_world\0").is_ok() {
            return Ok(Interface::OpenMpi);
        }
        let version = version(library).unwrap_or_default();
        let family = ["MPICH", "Intel", "CRAY", "MVAPICH", "ParaStation"];
        match family.iter().any(|name| version.contains(name)) {
            true => Ok(Interface::Mpich),
            false => Err(Error::Ranks(format!(
                "it is neither Open MPI's nor MPICH's, nor does it have the standard's interface{}",
                if version.is_empty() { String::new() } else { format!(": {version}") }
            ))),
        }
    }

    /// What is called in a library of this interface. The numbers are those of `mpi.h`.
    pub(crate) fn spoken(self, library: &Library) -> Result<Spoken, libloading::Error> {
        // SAFETY: `Interface::of` looked at what the library is; one that was opened stays open.
        let pointers = || unsafe { Calls::<usize>::of(library) };
        Ok(match self {
            Interface::OpenMpi => {
                let constants = Constants {
                    world: symbol(library, "ompi_mpi_comm_world\0")?,
                    byte: symbol(library, "ompi_mpi_byte\0")?,
                    errors_return: symbol(library, "ompi_mpi_errors_return\0")?,
                    serialized: 2,
                    no_request: 0,
                };
                Spoken::Pointers(pointers()?, constants)
            }
            Interface::Standard => {
                let (world, byte, errors_return) = (0x101, 0x247, 0x143);
                let constants = Constants { world, byte, errors_return, serialized: 2048, no_request: 0x180 };
                Spoken::Pointers(pointers()?, constants)
            }
            Interface::Mpich => {
                let (world, byte, errors_return) = (0x4400_0000, 0x4c00_010d, 0x5400_0001);
                let constants = Constants { world, byte, errors_return, serialized: 2, no_request: 0x2c00_0000 };
                // SAFETY: as above.
                Spoken::Numbers(unsafe { Calls::of(library) }?, constants)
            }
        })
    }
}

/// The address of something in a library.
fn symbol(library: &Library, name: &str) -> Result<usize, libloading::Error> {
    // SAFETY: only its address is taken.
    let found = unsafe { library.get::<*mut c_void>(name)? };
    // SAFETY: a symbol that was found has an address.
    Ok(unsafe { found.try_as_raw_ptr() }.map_or(0, |address| address.expose_provenance()))
}
