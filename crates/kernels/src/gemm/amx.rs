//! Products of bf16 factors in Intel's tiles (AMX): 16 x 16 sums of 16 pairs in an instruction, eight times as much as
//! [`super::bf16`] does in the same time.
//!
//! The pairs are those of the vectors. All of k is summed without a stop, for 32 rows and 32 columns at once, in four tiles:
//!
//! ```text
//!                  6: B, 16 pairs x 16 columns    7: the next 16 columns
//! 4: A, 16 rows    0                              1
//! 5: the next 16   2                              3
//! ```
//!
//! Factors are padded to whole tiles, so that every element of C is the same sum wherever its row stands.

use super::{Factor, Gemm, Mat, MatMut, Start, Strip, bf16::Bf16, grow, pack_b, transpose};
use crate::Isa;
use pulp::x86::V4;
use std::arch::asm;

/// Rows and columns of C that four tiles hold.
const BLOCK: usize = 32;
/// Rows of a tile, floats or pairs in one of its rows.
pub(super) const TILE: usize = 16;
/// Columns in a packed panel of B.
const PANEL: usize = 64;
/// Rows of A that meet a panel of B, one after the other, while it is near.
const STRIP: usize = 4 * BLOCK;

/// Whether this processor has tiles of bf16 numbers and the system lets this process use them: their 8 KiB make a switch
/// between threads dearer, so Linux wants to be asked.
pub(super) fn available() -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::sync::LazyLock;
        static GRANTED: LazyLock<bool> = LazyLock::new(|| {
            const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
            const XFEATURE_XTILEDATA: libc::c_long = 18;
            let has = std::fs::read_to_string("/proc/cpuinfo")
                .is_ok_and(|text| text.split_whitespace().any(|flag| flag == "amx_bf16"));
            // SAFETY: the request changes nothing but what this process may do.
            has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
        });
        *GRANTED
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// `a`, pairs by columns, by rows.
pub(super) fn by_rows<'a>(isa: Isa, simd: V4, to: &'a mut Vec<f32>, a: Mat) -> Mat<'a> {
    assert_eq!(a.row_stride, 1, "by columns");
    let (rows, pairs) = a.shape();
    grow_to_blocks(to, rows, pairs);
    isa.run(
        #[inline(always)]
        || {
            const SQUARE: usize = super::SQUARE;
            let whole = rows - rows % SQUARE;
            for p in (0..pairs).step_by(SQUARE) {
                for i in (0..whole).step_by(SQUARE) {
                    let (from, to) = (&a.data[p * a.col_stride + i..], &mut to[i * pairs + p..]);
                    assert!((SQUARE - 1) * a.col_stride + SQUARE <= from.len());
                    assert!((SQUARE - 1) * pairs + SQUARE <= to.len());
                    // SAFETY: both assertions.
                    unsafe { transpose(simd, to.as_mut_ptr(), pairs, from.as_ptr(), a.col_stride) }
                }
            }
            for i in whole..rows {
                for p in 0..pairs {
                    to[i * pairs + p] = a.data[p * a.col_stride + i];
                }
            }
        },
    );
    Mat::new(to, rows, pairs)
}

/// Makes room for whole blocks of rows: what stands in those that are not A's only reaches rows that are not C's.
pub(super) fn grow_to_blocks(to: &mut Vec<f32>, rows: usize, pairs: usize) {
    grow(to, rows.next_multiple_of(BLOCK) * pairs);
}

/// `b`, in pairs, as panels of all its rows.
pub(super) fn pack(isa: Isa, simd: V4, to: &mut Vec<f32>, b: Mat) {
    let (pairs, cols) = b.shape();
    assert!(pairs.is_multiple_of(TILE));
    if pairs == 0 {
        return;
    }
    grow(to, pairs * cols.next_multiple_of(PANEL));
    isa.run(
        #[inline(always)]
        || pack_b(simd, to, b, 0, pairs, 0, cols, PANEL),
    );
}

/// The product of factors in pairs: A by rows, B maybe packed.
pub(super) fn run(isa: Isa, Bf16 { simd, .. }: Bf16, gemm: Gemm) {
    let Gemm { c: MatMut { data: c, rows, cols, row_stride, .. }, start, a, b, then, packed } = gemm;
    let pairs = a.cols;
    let b = match b {
        Factor::Mat(b) => {
            pack(isa, simd, &mut packed.b, b);
            &packed.b[..]
        }
        Factor::Panels(b) => &b.data[..],
    };
    assert!(pairs.is_multiple_of(TILE) && a.row_stride == pairs && a.col_stride == 1);
    // What the blocks below read, whole ones at the edges too.
    assert!(rows.next_multiple_of(BLOCK) * pairs <= a.data.len() && pairs * cols.next_multiple_of(PANEL) <= b.len());
    static ZEROS: [f32; BLOCK] = [0.0; BLOCK];
    let _tiles = Configured::new();
    for i0 in (0..rows).step_by(STRIP) {
        let strip = i0..rows.min(i0 + STRIP);
        for j0 in (0..cols).step_by(PANEL) {
            for i in strip.clone().step_by(BLOCK) {
                for j in (j0..cols.min(j0 + PANEL)).step_by(BLOCK) {
                    let (m, n) = (BLOCK.min(rows - i), BLOCK.min(cols - j));
                    let c = &mut c[i * row_stride + j..];
                    assert!((m - 1) * row_stride + n <= c.len());
                    let (a, b) = (&a.data[i * pairs..], &b[j0 * pairs + j - j0..]);
                    if m == BLOCK && n == BLOCK {
                        let (from, stride) = match start {
                            Start::Zero => (ZEROS.as_ptr(), 0),
                            Start::C => (c.as_ptr(), row_stride),
                            Start::Bias(bias) => (bias[j..j + BLOCK].as_ptr(), 0),
                        };
                        // SAFETY: the assertions; 32 floats of every row to begin with.
                        unsafe { multiply(pairs, a, b, from, stride, c.as_mut_ptr(), row_stride, true) };
                        continue;
                    }
                    let mut edge = [[0.0; BLOCK]; BLOCK];
                    for (i, row) in edge[..m].iter_mut().enumerate() {
                        match start {
                            Start::Zero => {}
                            Start::C => row[..n].copy_from_slice(&c[i * row_stride..][..n]),
                            Start::Bias(bias) => row[..n].copy_from_slice(&bias[j..j + n]),
                        }
                    }
                    let to = edge.as_mut_ptr().cast();
                    // SAFETY: the assertions; the block has 32 rows of 32 floats.
                    unsafe { multiply(pairs, a, b, to, BLOCK, to, BLOCK, m > TILE) };
                    for (i, row) in edge[..m].iter().enumerate() {
                        c[i * row_stride..][..n].copy_from_slice(&row[..n]);
                    }
                }
            }
        }
        if let Some(then) = then {
            let data = &mut c[strip.start * row_stride..];
            then(Strip { rows: strip, cols: 0..cols, data, row_stride });
        }
    }
}

/// Tiles that this thread may use, all of them 16 rows of 64 bytes, until it is dropped.
struct Configured;

impl Configured {
    fn new() -> Configured {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        static CONFIG: Config = {
            let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
            let mut tile = 0;
            while tile < 8 {
                row_bytes[tile] = 4 * TILE as u16;
                rows[tile] = TILE as u8;
                tile += 1;
            }
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
        };
        // SAFETY: `run` takes the proof that there are tiles, and the 64 bytes are a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly, preserves_flags),
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                 out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
        Configured
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: as above. Released, they need not be saved when threads are switched.
        unsafe {
            asm!("tilerelease", options(nostack, nomem, preserves_flags),
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                 out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// `c = from + A B`, 32 rows (or the first 16 of them) and 32 columns; strides are in floats, `a` has rows of `pairs`, `b`
/// of [`PANEL`].
///
/// # Safety
/// This thread's tiles must be [`Configured`]; `pairs` is a multiple of [`TILE`]; `from` must be readable and `c` writable
/// in all of these rows and columns.
#[inline]
#[expect(clippy::too_many_arguments, reason = "the operands of one block")]
unsafe fn multiply(
    pairs: usize,
    a: &[f32],
    b: &[f32],
    from: *const f32,
    from_stride: usize,
    c: *mut f32,
    c_stride: usize,
    both: bool,
) {
    assert!(pairs * if both { BLOCK } else { TILE } <= a.len() && (pairs - 1) * PANEL + BLOCK <= b.len());
    const FLOAT: usize = size_of::<f32>();
    let second = |stride: usize| TILE * stride * FLOAT;
    macro_rules! block {
        ($($line:literal,)*) => {
            // SAFETY: the caller's promise and the assertion; the steps of k are whole tiles.
            unsafe {
                asm!(
                    $($line,)*
                    a = inout(reg) a.as_ptr() => _,
                    second_a = inout(reg) a.as_ptr().wrapping_byte_add(second(pairs)) => _,
                    a_stride = in(reg) pairs * FLOAT,
                    b = inout(reg) b.as_ptr() => _,
                    b_stride = in(reg) PANEL * FLOAT,
                    from = in(reg) from,
                    second_from = in(reg) from.wrapping_byte_add(second(from_stride)),
                    from_stride = in(reg) from_stride * FLOAT,
                    c = in(reg) c,
                    second_c = in(reg) c.wrapping_byte_add(second(c_stride)),
                    c_stride = in(reg) c_stride * FLOAT,
                    steps = inout(reg) pairs / TILE => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        };
    }
    if both {
        block!(
            "tileloadd tmm0, [{from} + {from_stride}]",
            "tileloadd tmm1, [{from} + {from_stride} + 64]",
            "tileloadd tmm2, [{second_from} + {from_stride}]",
            "tileloadd tmm3, [{second_from} + {from_stride} + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b} + {b_stride}]",
            "tileloadd tmm7, [{b} + {b_stride} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{second_a} + {a_stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {second_a}, 64",
            "add {b}, 4096", // 16 rows of a panel
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_stride}], tmm0",
            "tilestored [{c} + {c_stride} + 64], tmm1",
            "tilestored [{second_c} + {c_stride}], tmm2",
            "tilestored [{second_c} + {c_stride} + 64], tmm3",
        );
    } else {
        block!(
            "tileloadd tmm0, [{from} + {from_stride}]",
            "tileloadd tmm1, [{from} + {from_stride} + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm6, [{b} + {b_stride}]",
            "tileloadd tmm7, [{b} + {b_stride} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b}, 4096",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_stride}], tmm0",
            "tilestored [{c} + {c_stride} + 64], tmm1",
            // Named by the other kind only.
            "/* {second_a} {second_from} {second_c} */",
        );
    }
}
