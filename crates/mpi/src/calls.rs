//! The functions of MPI that are called, and the constants that they are called with.
//!
//! Only those that pass single messages: what is made of them is kinglet's, so it cannot differ from library to library.

use kinglet_core::error::{Error, Result};
use libloading::Library;
use std::ffi::{c_char, c_int, c_void};

/// Bytes that a text of MPI's may take: a library's version takes the most, 8192.
const TEXT: usize = 8192;

/// Room for what MPI tells about a message. Its layout is the library's own, of at most 32 bytes in those that are spoken to.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Status([u8; 256]);

impl Default for Status {
    fn default() -> Status {
        Status([0; 256])
    }
}

/// What a library names a communicator, a type or a request by. In MPICH it is a number, in others a pointer that only the library
/// looks behind, which is kept as a number too.
pub(crate) trait Handle: Copy + Send + Sync + 'static {}

impl Handle for c_int {}

impl Handle for usize {}

/// Declares [`Calls`] and how it is filled.
macro_rules! calls {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// The functions, as a library with handles `H` declares them. Each returns an error's number, or 0.
        #[derive(Clone, Copy)]
        pub(crate) struct Calls<H> {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl<H: Handle> Calls<H> {
            /// Finds all of them in a library.
            ///
            /// # Safety
            /// The library must be one of MPI, with handles `H`, and stay open as long as they are called.
            pub(crate) unsafe fn of(library: &Library) -> Result<Calls<H>, libloading::Error> {
                Ok(Calls {
                    // SAFETY: these are the declarations of the MPI standard.
                    $($field: unsafe { *library.get(concat!($symbol, "\0"))? },)*
                })
            }
        }
    };
}

calls! {
    init: "MPI_Init_thread" (*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int);
    rank: "MPI_Comm_rank" (H, *mut c_int);
    size: "MPI_Comm_size" (H, *mut c_int);
    on_error: "MPI_Comm_set_errhandler" (H, H);
    send: "MPI_Isend" (*const c_void, c_int, H, c_int, c_int, H, *mut H);
    receive: "MPI_Irecv" (*mut c_void, c_int, H, c_int, c_int, H, *mut H);
    test: "MPI_Test" (*mut H, *mut c_int, *mut Status);
    count: "MPI_Get_count" (*const Status, H, *mut c_int);
    explain: "MPI_Error_string" (c_int, *mut c_char, *mut c_int);
    host: "MPI_Get_processor_name" (*mut c_char, *mut c_int);
    abort: "MPI_Abort" (H, c_int);
    finish: "MPI_Finalize" ();
}

/// The constants of a library.
#[derive(Clone, Copy)]
pub(crate) struct Constants<H> {
    /// `MPI_COMM_WORLD`, all processes.
    pub(crate) world: H,
    /// `MPI_BYTE`.
    pub(crate) byte: H,
    /// `MPI_ERRORS_RETURN`: functions return errors instead of ending the process.
    pub(crate) errors_return: H,
    /// `MPI_THREAD_SERIALIZED`: any thread calls, but never two at the same time.
    pub(crate) serialized: c_int,
    /// A request before there is one.
    pub(crate) no_request: H,
}

impl<H: Handle> Calls<H> {
    /// An error, if this is the number of one, with MPI's words for it.
    pub(crate) fn check(&self, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: there is room for the text.
        let why = text(|to, len| unsafe { (self.explain)(code, to, len) });
        Err(Error::Ranks(format!("MPI: {}", why.map_or_else(|| format!("error {code}"), |why| one_line(&why)))))
    }

    /// The name of the machine.
    pub(crate) fn host(&self) -> String {
        // SAFETY: there is room for the text.
        text(|to, len| unsafe { (self.host)(to, len) }).unwrap_or_else(|| "unknown".into())
    }
}

/// A text that `ask` writes, if it succeeds.
pub(crate) fn text(ask: impl FnOnce(*mut c_char, *mut c_int) -> c_int) -> Option<String> {
    let (mut bytes, mut len) = (vec![0_u8; TEXT], 0);
    let code = ask(bytes.as_mut_ptr().cast(), &mut len);
    bytes.truncate(usize::try_from(len).ok()?);
    let text = String::from_utf8_lossy(&bytes);
    (code == 0).then(|| text.trim_matches('\0').to_owned())
}

/// A text in one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
