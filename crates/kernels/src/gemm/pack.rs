//! Copies of the factors in the order in which the kernel reads them.

use super::{mat::Mat, precision::Precision};
use crate::{
    floats::Floats,
    isa::{Isa, Kernel, Vectors},
};
use std::ops::Range;

/// Rows of B in a packed block (LOOP 5).
pub(super) const KC: usize = 256;
/// Columns of B in a packed block (LOOP 4): `KC * NC` floats are 256 KiB, half of a small L2 cache. A multiple of
/// every tile's width.
pub(super) const NC: usize = 256;
/// Rows in a strip of a packed A: whole strips of tiles for every kind of tile, and an odd number of cache lines.
pub(super) const WIDE: usize = 240;

/// The second factor of a product.
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// Not packed.
    Mat(Mat<'a>),
    /// Some of the columns of a packed matrix.
    Panels {
        /// The whole matrix.
        panels: &'a Panels,
        /// The first of these columns, a multiple of [`Panels::STEP`].
        first: usize,
        /// Number of columns.
        cols: usize,
    },
}

impl Rhs<'_> {
    /// `(rows, columns)`.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Rhs::Mat(b) => b.shape(),
            Rhs::Panels { panels, cols, .. } => (panels.rows, cols),
        }
    }

    /// These columns only; for a packed matrix, they must begin at a multiple of [`Panels::STEP`].
    pub fn columns(self, columns: Range<usize>) -> Self {
        match self {
            Rhs::Mat(b) => Rhs::Mat(b.t().rows(columns).t()),
            Rhs::Panels { panels, first, cols } => {
                assert!(columns.start.is_multiple_of(Panels::STEP));
                assert!(columns.start <= columns.end && columns.end <= cols);
                Rhs::Panels { panels, first: first + columns.start, cols: columns.len() }
            }
        }
    }

    /// Panics if B is packed for another instruction set or precision.
    pub(super) fn check(self, isa: Isa, precision: Precision) {
        let Rhs::Panels { panels: b, first, cols } = self else { return };
        assert!(first.is_multiple_of(Panels::STEP) && first + cols <= b.cols, "gemm: columns of panels");
        let fits = b.isa == isa.name() && b.precision == precision;
        assert!(fits, "gemm: B is packed for {} {}", b.isa, b.precision.name());
    }
}

/// A matrix packed once to be the second factor of many products.
#[derive(Debug)]
pub struct Panels {
    isa: &'static str,
    pub(super) precision: Precision,
    rows: usize,
    pub(super) cols: usize,
    /// Blocks of [`KC`] rows, divided into blocks of [`NC`] columns, divided into panels, in the order of LOOPs 5, 4
    /// and 2. Products in tiles use another layout, which is described in `amx`.
    pub(super) data: Floats,
}

impl Panels {
    /// Packed matrices may be split at multiples of this many columns, which is a multiple of every tile's width.
    pub const STEP: usize = 64;

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }

    /// Panels without a matrix yet.
    ///
    /// # Panics
    /// If this precision is not available with this instruction set.
    pub fn new(isa: Isa, precision: Precision) -> Panels {
        assert!(Precision::available(isa).contains(&precision));
        Panels { isa: isa.name(), precision, rows: 0, cols: 0, data: Floats::default() }
    }

    /// The packed matrix, to be multiplied by.
    pub fn rhs(&self) -> Rhs<'_> {
        Rhs::Panels { panels: self, first: 0, cols: self.cols }
    }

    /// Takes the shape of `b` before its numbers are packed.
    ///
    /// # Panics
    /// If these panels are for another instruction set.
    pub(super) fn reshape(&mut self, isa: Isa, b: Mat) {
        assert_eq!(self.isa, isa.name());
        (self.rows, self.cols) = b.shape();
    }
}

/// All of B in blocks and panels, for [`Panels`].
pub(super) struct PackAll<'a> {
    pub(super) data: &'a mut Floats,
    pub(super) b: Mat<'a>,
}

impl Kernel for PackAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let PackAll { data, b } = self;
        let nr = panel_width::<S>();
        data.grow(b.rows * b.cols.next_multiple_of(nr));
        for k0 in (0..b.rows).step_by(KC) {
            let k = k0..b.rows.min(k0 + KC);
            for n0 in (0..b.cols).step_by(NC) {
                let block = &mut data[block_start(b.cols, nr, k.clone(), n0)..];
                pack_b(simd, block, b, k.clone(), n0..b.cols.min(n0 + NC));
            }
        }
    }
}

/// Columns of a panel: those of a tile.
#[inline(always)]
pub(super) const fn panel_width<S: Vectors>() -> usize {
    S::TILE_VECTORS * S::F32_LANES
}

/// Where the block of rows `k` and columns from `n0` on begins in [`Panels`] of `cols` columns; `n0` is a multiple of
/// `nr`.
#[inline(always)]
pub(super) fn block_start(cols: usize, nr: usize, k: Range<usize>, n0: usize) -> usize {
    k.start * cols.next_multiple_of(nr) + k.len() * n0
}

/// Packs rows `k` and columns `n` of B as panels: `packed[panel][p][j]`. Values beyond the last column are arbitrary:
/// they only affect elements of C that are not stored.
#[inline(always)]
pub(super) fn pack_b<S: Vectors>(simd: S, packed: &mut [f32], b: Mat, k: Range<usize>, n: Range<usize>) {
    let nr = panel_width::<S>();
    let (kc, nc) = (k.len(), n.len());
    if b.col_stride == 1 {
        // Row by row, as they are in memory.
        for p in 0..kc {
            let row = &b.data[(k.start + p) * b.row_stride + n.start..][..nc];
            for (out, row) in packed.chunks_exact_mut(kc * nr).zip(row.chunks(nr)) {
                copy(&mut out[p * nr..][..row.len()], row);
            }
        }
        return;
    }
    assert_eq!(b.row_stride, 1, "one of B's strides is 1");
    for (j0, out) in n.clone().step_by(nr).zip(packed.chunks_exact_mut(kc * nr)) {
        let columns = b.t().rows(j0..n.end.min(j0 + nr));
        simd.compiled(
            #[inline(always)]
            || pack_columns(simd, out, columns, k.start),
        );
    }
}

/// Packs a panel: numbers of some columns from the `k0`-th on, `out[p][j] = columns[j][k0 + p]`.
#[inline(always)]
fn pack_columns<S: Vectors>(simd: S, out: &mut [f32], columns: Mat, k0: usize) {
    let nr = panel_width::<S>();
    let (cols, kc, stride) = (columns.rows, out.len() / nr, columns.row_stride);
    let data = &columns.data[k0..];
    assert!(cols <= nr && (cols - 1) * stride + kc <= data.len());
    // Squares of eight columns and eight rows, then the rest one by one.
    let (whole_j, whole_p) = (cols - cols % SQUARE, kc - kc % SQUARE);
    for pair in (0..whole_j).step_by(2 * SQUARE) {
        for p in (0..whole_p).step_by(SQUARE) {
            // Two squares side by side: whole cache lines are written.
            for j in (pair..whole_j.min(pair + 2 * SQUARE)).step_by(SQUARE) {
                let from = data.as_ptr().wrapping_add(p + j * stride);
                for column in 2 * SQUARE..3 * SQUARE {
                    // The next columns begin far away, where the processor does not prefetch by itself.
                    prefetch(from.wrapping_add(column * stride));
                }
                // SAFETY: eight whole columns from `j` on, and eight rows from `p` on, lie in both slices.
                unsafe { transpose(simd, out.as_mut_ptr().add(p * nr + j), nr, from, stride) }
            }
        }
    }
    for j in 0..cols {
        for p in if j < whole_j { whole_p } else { 0 }..kc {
            out[p * nr + j] = data[p + j * stride];
        }
    }
}

/// Packs columns `k` of A, which is transposed, in strips of [`WIDE`] rows: `packed[strip][p][i]`.
#[inline(always)]
pub(super) fn pack_a(packed: &mut Floats, a: Mat, k: Range<usize>) {
    assert_eq!(a.row_stride, 1, "one of A's strides is 1");
    let kc = k.len();
    packed.grow(a.rows.next_multiple_of(WIDE) * kc);
    for (strip, out) in packed.chunks_exact_mut(WIDE * kc).take(a.rows.div_ceil(WIDE)).enumerate() {
        let rows = WIDE.min(a.rows - strip * WIDE);
        for (p, out) in out.chunks_exact_mut(WIDE).enumerate() {
            copy(&mut out[..rows], &a.data[(k.start + p) * a.col_stride + strip * WIDE..][..rows]);
        }
    }
}

/// `to = from`, without a function call for the short rows of a panel.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to, to_rest) = to.as_chunks_mut::<SQUARE>();
    let (from, from_rest) = from.as_chunks::<SQUARE>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// Prefetches the cache line at `address`, which need not be valid.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Rows and columns that packing moves at once.
pub(super) const SQUARE: usize = 8;

/// `to[p][j] = from[j][p]` for `p, j < 8`, rows `to_stride` and `from_stride` apart.
///
/// # Safety
/// Eight floats of each of the eight rows must be readable at `from` and writable at `to`, without overlap.
#[inline(always)]
pub(super) unsafe fn transpose<S: Vectors>(_: S, to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if S::AVX {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the addresses, and an `S` with `AVX` is the proof that the processor has it.
        unsafe {
            // Four columns at a time, with rows j and j + 4 in the two halves of a vector: placing them there by loads
            // saves shuffles at the end.
            for p in [0, 4] {
                let halves = |j: usize| {
                    let low = _mm_loadu_ps(from.add(j * from_stride + p));
                    let high = _mm_loadu_ps(from.add((j + 4) * from_stride + p));
                    _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
                };
                let (r0, r1, r2, r3) = (halves(0), halves(1), halves(2), halves(3));
                let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                const LOW: i32 = 0x44;
                const HIGH: i32 = 0xee;
                let to = to.add(p * to_stride);
                _mm256_storeu_ps(to, _mm256_shuffle_ps::<LOW>(a0, a2));
                _mm256_storeu_ps(to.add(to_stride), _mm256_shuffle_ps::<HIGH>(a0, a2));
                _mm256_storeu_ps(to.add(2 * to_stride), _mm256_shuffle_ps::<LOW>(a1, a3));
                _mm256_storeu_ps(to.add(3 * to_stride), _mm256_shuffle_ps::<HIGH>(a1, a3));
            }
        }
        return;
    }
    for p in 0..SQUARE {
        for j in 0..SQUARE {
            // SAFETY: the caller vouches for the addresses.
            unsafe { *to.add(p * to_stride + j) = *from.add(j * from_stride + p) }
        }
    }
}

/// The permutation of 16-bit numbers that pairs each bf16 number of a row of sixteen with its counterpart in the next
/// row, when the two rows follow each other.
#[cfg(target_arch = "x86_64")]
pub(super) const TURNS: [u16; 32] = {
    let mut turns = [0; 32];
    let mut i = 0;
    while i < 32 {
        turns[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    turns
};
