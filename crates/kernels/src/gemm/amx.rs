//! Products of bf16 factors in Intel's tiles (AMX): one instruction multiplies 16 x 16 pairs by 16 x 16 pairs.
//!
//! A factor is first rounded and laid out in tiles that follow each other along k, as pairs of neighbours along k. A
//! tile of A is 16 rows of 16 pairs; a tile of B is 16 pairs by 16 columns, the transpose of that. The sum over all of
//! k is accumulated without interruption, for 32 rows and 32 columns at once, in four tiles:
//!
//! ```text
//!                  6: B, 16 pairs x 16 columns    7: the next 16 columns
//! 4: A, 16 rows    0                              1
//! 5: the next 16   2                              3
//! ```
//!
//! Factors are padded to whole tiles, so that every element of C is the same sum wherever its row is.

use super::{
    loops::Gemm,
    mat::{Init, Mat, MatMut, Zeros},
    pack::{Rhs, TURNS},
    precision::Bf16,
};
use crate::floats::Floats;
use std::arch::{asm, x86_64::*};

/// Rows and columns of C that four tiles hold.
const BLOCK: usize = 32;
/// Rows of a tile, and floats or pairs in each of its rows.
const TILE: usize = 16;
/// Columns of B that are multiplied by a strip of A, one block of rows after another, while they are in a near cache.
const PANEL: usize = 64;
/// Rows in a strip of A.
const STRIP: usize = 4 * BLOCK;

/// Computes the product; B may have been packed by [`pack`].
pub(super) fn run(proof: Bf16, gemm: Gemm) {
    assert!(proof.tiles);
    let Gemm { mut c, init, a, b, epilogue, packed, .. } = gemm;
    let MatMut { rows, cols, diagonal, .. } = c;
    let pairs = padded_pairs(a.cols);
    let b = match b {
        Rhs::Mat(b) => {
            pack(proof, &mut packed.b, b);
            &packed.b[..]
        }
        Rhs::Panels { panels, first, .. } => &panels.data[first * pairs..],
    };
    assert!(pairs * cols.next_multiple_of(BLOCK) <= b.len());
    packed.a.grow(STRIP * pairs);
    for i0 in (0..rows).step_by(STRIP) {
        let strip = i0..rows.min(i0 + STRIP);
        // SAFETY: `proof` shows that the processor has the instructions.
        unsafe { lay_out(&mut packed.a, a.rows(strip.clone()), false) };
        // Only until the epilogue, which may multiply in tiles itself.
        let tiles = Configured::new();
        for j0 in (0..cols).step_by(PANEL) {
            for i in strip.clone().step_by(BLOCK) {
                for j in (j0..cols.min(j0 + PANEL)).step_by(BLOCK) {
                    if i >= j + BLOCK + diagonal {
                        continue;
                    }
                    let factors = Factors { pairs, a: &packed.a[(i - i0) * pairs..], b: &b[j * pairs..] };
                    let init = match init {
                        Init::Bias(bias) => Init::Bias(&bias[j..cols.min(j + BLOCK)]),
                        init => init,
                    };
                    block(&tiles, &mut c, i, j, init, factors);
                }
            }
        }
        drop(tiles);
        if let Some(epilogue) = epilogue {
            epilogue(c.strip(strip, 0..cols));
        }
    }
}

/// Computes the block of C that begins at row `i` and column `j`; a bias has just its columns.
fn block(tiles: &Configured, c: &mut MatMut, i: usize, j: usize, init: Init, factors: Factors) {
    /// Aligned to a cache line.
    #[repr(align(64))]
    struct Aligned<T>(T);
    static ZEROS: Aligned<[f32; BLOCK]> = Aligned([0.0; BLOCK]);
    let (m, n) = (BLOCK.min(c.rows - i), BLOCK.min(c.cols - j));
    let stride = c.row_stride;
    let mut c = c.strip(i..i + m, j..j + n);
    if m == BLOCK && n == BLOCK {
        let from = match init {
            Init::Zero => (ZEROS.0.as_ptr(), 0),
            Init::C => (c.data.cast_const(), stride),
            Init::Bias(bias) => (bias[..BLOCK].as_ptr(), 0),
        };
        // SAFETY: C has these 32 rows and columns, and `from` has 32 floats for each row.
        unsafe { multiply(tiles, factors, from, (c.data, stride), true) };
        return;
    }
    let Aligned(edge) = &mut Aligned([[0.0; BLOCK]; BLOCK]);
    for (row, (_, c)) in edge.iter_mut().zip(c.iter_mut()) {
        match init {
            Init::Zero => {}
            Init::C => row[..n].copy_from_slice(c),
            Init::Bias(bias) => row[..n].copy_from_slice(bias),
        }
    }
    let to: *mut f32 = edge.as_mut_ptr().cast();
    // SAFETY: the block has 32 rows of 32 floats.
    unsafe { multiply(tiles, factors, (to, BLOCK), (to, BLOCK), m > TILE) };
    for (row, (_, c)) in edge.iter().zip(c.iter_mut()) {
        c.copy_from_slice(&row[..n]);
    }
}

/// Number of pairs along `k` numbers, padded to whole tiles.
fn padded_pairs(k: usize) -> usize {
    k.div_ceil(2).next_multiple_of(TILE)
}

/// Lays out `b`. Values in columns beyond those of B are arbitrary: they only affect the same columns of C.
pub(super) fn pack(_: Bf16, to: &mut Floats, b: Mat) {
    to.grow(padded_pairs(b.rows) * b.cols.next_multiple_of(BLOCK));
    // SAFETY: the caller's proof that the processor has the instructions.
    unsafe { lay_out(to, b.t(), true) }
}

/// Lays out the rows of `m (rows, k)`, 16 at a time, in tiles of pairs along k:
/// `to[row / 16][pair / 16][row % 16][pair % 16]`; if `turned`, with each tile transposed:
/// `to[row / 16][pair / 16][pair % 16][row % 16]`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn lay_out(to: &mut [f32], m: Mat, turned: bool) {
    assert_eq!(m.zeros, Zeros::Nowhere);
    assert!(m.col_stride == 1 || m.row_stride == 1, "one stride is 1");
    let (blocks, steps) = (m.rows.div_ceil(TILE), padded_pairs(m.cols) / TILE);
    let tiles = to.as_chunks_mut::<{ TILE * TILE }>().0;
    let by_rows = m.col_stride == 1;
    let mut tile = |i: usize, p: usize| {
        let whole = (i + 1) * TILE <= m.rows && (p + 1) * 2 * TILE <= m.cols;
        let lines = match (by_rows, whole) {
            (true, true) => rows::<true>(m, i * TILE, p * TILE),
            (true, false) => rows::<false>(m, i * TILE, p * TILE),
            (false, true) => columns::<true>(m, i * TILE, p * TILE),
            (false, false) => columns::<false>(m, i * TILE, p * TILE),
        };
        store(&mut tiles[i * steps + p], if by_rows == turned { turn(lines) } else { lines });
    };
    // In the order of memory.
    if by_rows {
        (0..blocks).for_each(|i| (0..steps).for_each(|p| tile(i, p)));
    } else {
        (0..steps).for_each(|p| (0..blocks).for_each(|i| tile(i, p)));
    }
}

/// Sixteen rows from `i` on, each with sixteen pairs from `p` on, of a matrix that is stored by rows.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn rows<const WHOLE: bool>(m: Mat, i: usize, p: usize) -> [__m512i; TILE] {
    let mut rows = [_mm512_setzero_si512(); TILE];
    for (r, row) in rows.iter_mut().enumerate() {
        let (low, high) = (load::<WHOLE>(m, i + r, 2 * p), load::<WHOLE>(m, i + r, 2 * p + TILE));
        *row = bits(_mm512_cvtne2ps_pbh(high, low));
    }
    rows
}

/// Sixteen pairs from `p` on, each for sixteen rows from `i` on, of a matrix that is stored by columns.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn columns<const WHOLE: bool>(m: Mat, i: usize, p: usize) -> [__m512i; TILE] {
    let m = m.t();
    // SAFETY: 64 bytes.
    let turns = unsafe { _mm512_loadu_epi16(TURNS.as_ptr().cast()) };
    let mut columns = [_mm512_setzero_si512(); TILE];
    for (q, column) in columns.iter_mut().enumerate() {
        let (low, high) = (load::<WHOLE>(m, 2 * (p + q), i), load::<WHOLE>(m, 2 * (p + q) + 1, i));
        *column = _mm512_permutexvar_epi16(turns, bits(_mm512_cvtne2ps_pbh(high, low)));
    }
    columns
}

/// Sixteen numbers of row `i` from column `j` on of a matrix that is stored by rows, with zeros beyond its end. `WHOLE`
/// says that none are beyond it.
#[target_feature(enable = "avx512f")]
#[inline]
fn load<const WHOLE: bool>(m: Mat, i: usize, j: usize) -> __m512 {
    let from = m.data.as_ptr().wrapping_add(i * m.row_stride + j);
    let len = if i < m.rows { m.cols.saturating_sub(j) } else { 0 };
    if WHOLE {
        debug_assert!(len >= TILE);
        // SAFETY: the numbers lie in the matrix.
        return unsafe { _mm512_loadu_ps(from) };
    }
    if len == 0 {
        return _mm512_setzero_ps(); // a load with an empty mask is slow at an unmapped address
    }
    let mask = if len >= TILE { u16::MAX } else { (1 << len) - 1 };
    // SAFETY: the mask restricts the load to the matrix.
    unsafe { _mm512_maskz_loadu_ps(mask, from) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(to: &mut [f32; TILE * TILE], tile: [__m512i; TILE]) {
    for (to, row) in to.as_chunks_mut::<TILE>().0.iter_mut().zip(tile) {
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn bits(pairs: __m512bh) -> __m512i {
    // SAFETY: 64 bytes of plain numbers.
    unsafe { std::mem::transmute(pairs) }
}

/// Transposes a square of pairs: first within groups of four neighbouring rows, then across the four groups.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn(r: [__m512i; TILE]) -> [__m512i; TILE] {
    // Quarter l of `fours[4 g + c]` holds column 4 l + c of rows 4 g to 4 g + 3.
    let mut fours = r;
    for g in (0..TILE).step_by(4) {
        let (low, high) = (_mm512_unpacklo_epi32(r[g], r[g + 1]), _mm512_unpackhi_epi32(r[g], r[g + 1]));
        let (low2, high2) = (_mm512_unpacklo_epi32(r[g + 2], r[g + 3]), _mm512_unpackhi_epi32(r[g + 2], r[g + 3]));
        fours[g] = _mm512_unpacklo_epi64(low, low2);
        fours[g + 1] = _mm512_unpackhi_epi64(low, low2);
        fours[g + 2] = _mm512_unpacklo_epi64(high, high2);
        fours[g + 3] = _mm512_unpackhi_epi64(high, high2);
    }
    let mut columns = r;
    for c in 0..4 {
        const EVEN: i32 = 0x88;
        const ODD: i32 = 0xdd;
        let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
        let (even, even2) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(d, e));
        let (odd, odd2) = (_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(d, e));
        columns[c] = _mm512_shuffle_i32x4::<EVEN>(even, even2);
        columns[4 + c] = _mm512_shuffle_i32x4::<EVEN>(odd, odd2);
        columns[8 + c] = _mm512_shuffle_i32x4::<ODD>(even, even2);
        columns[12 + c] = _mm512_shuffle_i32x4::<ODD>(odd, odd2);
    }
    columns
}

/// While this exists, its thread may use the tiles, each of 16 rows of 64 bytes.
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
        // SAFETY: `run` has the proof that there are tiles, and the 64 bytes are a valid configuration.
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
        // SAFETY: as above. Once released, the tiles need not be saved at a context switch.
        unsafe {
            asm!("tilerelease", options(nostack, nomem, preserves_flags),
                 out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                 out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _);
        }
    }
}

/// Factors that have been laid out.
#[derive(Clone, Copy)]
struct Factors<'a> {
    /// Number of pairs along k, a multiple of [`TILE`].
    pairs: usize,
    /// From the first row on.
    a: &'a [f32],
    /// From the first column on.
    b: &'a [f32],
}

/// `c = from + A B`, for 32 columns and 32 rows, or only the first 16 rows (one tile) if not `both`. `from` and `c`
/// come with their strides, in floats.
///
/// # Safety
/// `from` must be readable and `c` writable in all of these rows and columns.
#[inline]
unsafe fn multiply(
    _: &Configured,
    Factors { pairs, a, b }: Factors,
    (from, from_stride): (*const f32, usize),
    (c, c_stride): (*mut f32, usize),
    both: bool,
) {
    assert!(pairs.is_multiple_of(TILE));
    assert!(pairs * if both { BLOCK } else { TILE } <= a.len() && pairs * BLOCK <= b.len());
    const FLOAT: usize = size_of::<f32>();
    let second = |stride: usize| TILE * stride * FLOAT;
    macro_rules! block {
        ($($line:literal,)*) => {
            // SAFETY: the caller's promise and the assertions; this thread's tiles are configured.
            unsafe {
                asm!(
                    $($line,)*
                    a = inout(reg) a.as_ptr() => _,
                    second_a = inout(reg) a.as_ptr().wrapping_byte_add(second(pairs)) => _,
                    b = inout(reg) b.as_ptr() => _,
                    second_b = inout(reg) b.as_ptr().wrapping_byte_add(second(pairs)) => _,
                    row = in(reg) TILE * FLOAT,
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
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm7, [{second_b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{second_a} + {row}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 1024",
            "add {second_a}, 1024",
            "add {b}, 1024",
            "add {second_b}, 1024",
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
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tileloadd tmm7, [{second_b} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 1024",
            "add {b}, 1024",
            "add {second_b}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {c_stride}], tmm0",
            "tilestored [{c} + {c_stride} + 64], tmm1",
            // Used by the other variant only, but every operand must be named.
            "/* {second_a} {second_from} {second_c} */",
        );
    }
}
