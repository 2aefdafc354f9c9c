//! The innermost loops: a panel of B times a strip of A, one tile of C after another, each in registers.

use super::mat::{Init, Zeros};
use pulp::Simd;
use std::{mem::MaybeUninit, ops::Range};

/// How a kernel multiplies an element of A, broadcast to all lanes, by a vector of B.
pub(super) trait MulAdd<S: Simd> {
    /// `acc + a b`.
    fn mul_add(simd: S, a: S::f32s, b: S::f32s, acc: S::f32s) -> S::f32s;

    /// Compiles `kernel` for what [`MulAdd::mul_add`] needs and runs it, as [`crate::isa::Isa::run`] does.
    fn compiled<R>(simd: S, kernel: impl FnOnce() -> R) -> R;
}

/// Each lane is one number.
pub(super) struct Numbers;

impl<S: Simd> MulAdd<S> for Numbers {
    #[inline(always)]
    fn mul_add(simd: S, a: S::f32s, b: S::f32s, acc: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, acc)
    }

    #[inline(always)]
    fn compiled<R>(simd: S, kernel: impl FnOnce() -> R) -> R {
        simd.vectorize(kernel)
    }
}

/// Each lane is one number, and `acc + a b` is rounded once on any processor.
pub(super) struct FusedNumbers;

impl<S: Simd> MulAdd<S> for FusedNumbers {
    #[inline(always)]
    fn mul_add(simd: S, a: S::f32s, b: S::f32s, acc: S::f32s) -> S::f32s {
        simd.mul_add_f32s(a, b, acc)
    }

    #[inline(always)]
    fn compiled<R>(simd: S, kernel: impl FnOnce() -> R) -> R {
        simd.vectorize(kernel)
    }
}

/// Where a part of a factor is: row i of A, or panel i of B, begins at `ptr + i * stride`, and each next k is `step`
/// further. For A, a k is one number; for B, it is a row of the panel.
#[derive(Clone, Copy)]
pub(super) struct Located {
    pub(super) ptr: *const f32,
    pub(super) stride: usize,
    pub(super) step: usize,
}

impl Located {
    /// The part from row or panel `i` and the `p`-th k on. Its address need not be valid.
    #[inline(always)]
    pub(super) fn at(self, i: usize, p: usize) -> Located {
        Located { ptr: self.ptr.wrapping_add(i * self.stride + p * self.step), ..self }
    }
}

/// Rows of a tile that is one vector wide. A processor begins two vectors' multiplications in each cycle and ends them four cycles
/// later, so that a tile of fewer than eight vectors waits for its own sums. A divisor of every strip, as is [`PAIR_ROWS`].
pub(super) const NARROW_ROWS: usize = 12;
/// Rows of a tile that is two vectors wide, where a whole one is wider. Attention's blocks are a multiple of it.
pub(super) const PAIR_ROWS: usize = 8;

/// Vectors of B that are read for `cols` columns, at most `NV`.
#[inline(always)]
pub(super) fn vectors_read<S: Simd, const NV: usize>(cols: usize) -> usize {
    match cols.div_ceil(S::F32_LANES) {
        few @ ..=2 if few < NV => few,
        _ => NV,
    }
}

/// Rows of C in the columns of a panel, and what they are computed from.
pub(super) struct PanelProduct<'a> {
    /// The strip of A.
    pub(super) a: Located,
    /// Which elements of A are known to be zero.
    pub(super) zeros: Zeros,
    /// Which rows of A these are.
    pub(super) rows: Range<usize>,
    /// Which of its columns.
    pub(super) k: Range<usize>,
    /// The panel.
    pub(super) b: Located,
    /// Number of its columns.
    pub(super) cols: usize,
    /// The first of the elements of C to compute.
    pub(super) c: *mut f32,
    /// Distance from one row of C to the next.
    pub(super) c_stride: usize,
    /// Their initial value; a bias has just these columns.
    pub(super) init: Init<'a>,
}

impl PanelProduct<'_> {
    /// `C = init + A B`, in tiles of `MR` rows and `NV` vectors, or fewer vectors if the columns need no more; those of one or
    /// two vectors have [`NARROW_ROWS`] or [`PAIR_ROWS`] rows.
    ///
    /// # Safety
    /// The elements of A must be readable, and [`vectors_read`] vectors of each row of B. `a.step` or `a.stride` must
    /// be 1. The elements of C must be readable and writable, and nobody else may access them during the call.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd, M: MulAdd<S>, const MR: usize, const NV: usize>(&self, simd: S) {
        // The function pointer keeps the compiler from inlining all of them into the surrounding loops, which would
        // then have too few registers.
        let tiles = match (vectors_read::<S, NV>(self.cols), self.a.step == 1) {
            (1, true) => Self::compiled::<S, M, NARROW_ROWS, 1, true>,
            (1, false) => Self::compiled::<S, M, NARROW_ROWS, 1, false>,
            (2, true) if NV > 2 => Self::compiled::<S, M, PAIR_ROWS, 2, true>,
            (2, false) if NV > 2 => Self::compiled::<S, M, PAIR_ROWS, 2, false>,
            (_, true) => Self::compiled::<S, M, MR, NV, true>,
            (_, false) => Self::compiled::<S, M, MR, NV, false>,
        };
        // SAFETY: the caller's promise, passed on.
        unsafe { tiles(self, simd) }
    }

    /// [`PanelProduct::tiles`], compiled for the vector instructions.
    ///
    /// # Safety
    /// As for [`PanelProduct::tiles`].
    unsafe fn compiled<S: Simd, M: MulAdd<S>, const MR: usize, const NV: usize, const BY_ROWS: bool>(&self, simd: S) {
        M::compiled(
            simd,
            #[inline(always)]
            // SAFETY: the caller's promise, passed on.
            || unsafe { self.tiles::<S, M, MR, NV, BY_ROWS>(simd) },
        );
    }

    /// LOOP 1. `BY_ROWS` says that `a.step` is 1; otherwise `a.stride` is. That makes half of the address offsets
    /// constants.
    ///
    /// # Safety
    /// As for [`PanelProduct::multiply`], where `NV` vectors of B are read.
    #[inline(always)]
    unsafe fn tiles<S: Simd, M: MulAdd<S>, const MR: usize, const NV: usize, const BY_ROWS: bool>(&self, simd: S) {
        let lanes = S::F32_LANES;
        let whole = self.cols == NV * lanes;
        // What is added to every row. Adding -0.0 changes nothing, not even the sign of a zero. Adding +0.0, as where
        // columns are missing, turns a sum that underflowed to -0.0 into +0.0.
        let mut row = [simd.splat_f32s(if whole { -0.0 } else { 0.0 }); NV];
        if let Init::Bias(bias) = self.init {
            for (row, bias) in row.iter_mut().zip(bias.chunks(lanes)) {
                *row = simd.partial_load_f32s(bias);
            }
        }
        // A tile that extends beyond the last column of C is computed here, all of it, and then copied.
        let mut edge = MaybeUninit::uninit();
        let mut edge = if whole { None } else { Some(edge.write([[simd.splat_f32s(0.0); NV]; MR])) };
        for i in (0..self.rows.len()).step_by(MR) {
            let rows = MR.min(self.rows.len() - i);
            let first = self.rows.start + i;
            let k = self.zeros.others(first..first + rows, self.k.clone());
            let skipped = k.start - self.k.start;
            let mut tile = Tile {
                k: k.len(),
                a: self.a.at(i, skipped),
                b: self.b.at(0, skipped),
                init: row.as_ptr().cast(),
                init_stride: 0,
                c: self.c.wrapping_add(i * self.c_stride),
                c_stride: self.c_stride,
            };
            let c = tile.c;
            // SAFETY: the caller vouches for these elements of C.
            let row_of_c = |i: usize| unsafe { std::slice::from_raw_parts_mut(c.add(i * self.c_stride), self.cols) };
            if let Some(edge) = &mut edge {
                if self.init == Init::C {
                    for (i, edge) in edge.iter_mut().enumerate().take(rows) {
                        for (edge, c) in edge.iter_mut().zip(row_of_c(i).chunks(lanes)) {
                            *edge = simd.partial_load_f32s(c);
                        }
                    }
                }
                (tile.c, tile.c_stride) = (edge.as_mut_ptr().cast(), NV * lanes);
            }
            if self.init == Init::C {
                (tile.init, tile.init_stride) = (tile.c.cast_const(), tile.c_stride);
            }
            // SAFETY: the caller's promise; `edge` has as many rows and vectors as a tile.
            unsafe { tile.multiply_rows::<S, M, MR, NV, BY_ROWS>(simd, rows) };
            if let Some(edge) = &edge {
                for (i, edge) in edge.iter().enumerate().take(rows) {
                    for (c, &edge) in row_of_c(i).chunks_mut(lanes).zip(edge) {
                        simd.partial_store_f32s(c, edge);
                    }
                }
            }
        }
    }
}

/// What a kernel computes a tile of C from.
struct Tile {
    /// Steps along k.
    k: usize,
    a: Located,
    b: Located,
    /// What the product is added to; may be C itself.
    init: *const f32,
    init_stride: usize,
    c: *mut f32,
    c_stride: usize,
}

impl Tile {
    /// [`Tile::multiply`] for a number of rows known at run time, `MR` at most.
    ///
    /// # Safety
    /// As for [`Tile::multiply`] with `ROWS = rows`.
    #[inline(always)]
    unsafe fn multiply_rows<S: Simd, M: MulAdd<S>, const MR: usize, const NV: usize, const BY_ROWS: bool>(
        mut self,
        simd: S,
        rows: usize,
    ) {
        // SAFETY: the caller's promise, passed on; the parts of an incomplete tile cover only its rows.
        unsafe {
            if rows == MR {
                return self.multiply::<S, M, MR, NV, BY_ROWS>(simd);
            }
            for part in [8, 4, 2, 1] {
                if rows & part == 0 {
                    continue;
                }
                match part {
                    8 if MR > 8 => self.multiply::<S, M, 8, NV, BY_ROWS>(simd),
                    4 => self.multiply::<S, M, 4, NV, BY_ROWS>(simd),
                    2 => self.multiply::<S, M, 2, NV, BY_ROWS>(simd),
                    _ => self.multiply::<S, M, 1, NV, BY_ROWS>(simd),
                }
                self.a = self.a.at(part, 0);
                self.init = self.init.wrapping_add(part * self.init_stride);
                self.c = self.c.wrapping_add(part * self.c_stride);
            }
        }
    }

    /// `C = init + A B` for `ROWS` rows and `NV` vectors of C.
    ///
    /// # Safety
    /// `a` must be readable at `i * stride + p * step` for `i < ROWS`, `p < k`; `b` at `p * step + j` for
    /// `j < NV * lanes`; `init` at `i * init_stride + j`; `c` must be writable at `i * c_stride + j`, and nobody else
    /// may access it during the call.
    #[inline(always)]
    unsafe fn multiply<S: Simd, M: MulAdd<S>, const ROWS: usize, const NV: usize, const BY_ROWS: bool>(&self, simd: S) {
        // Steps of k in one iteration of the loop; unrolling saves address arithmetic. With more steps of a large tile, the
        // compiler would start the next before it has a register for it.
        let unroll = if ROWS * NV > 16 { 2 } else { 4 };
        let mut acc = [[simd.splat_f32s(0.0); NV]; ROWS];
        let (mut a, mut b) = (self.a, self.b);
        *if BY_ROWS { &mut a.step } else { &mut a.stride } = 1;
        // SAFETY: these are `k` steps, which the caller vouches for.
        unsafe {
            for _ in 0..self.k / unroll {
                for _ in 0..unroll {
                    rank_one::<S, M, ROWS, NV>(simd, &mut acc, &mut a, &mut b);
                }
            }
            for _ in 0..self.k % unroll {
                rank_one::<S, M, ROWS, NV>(simd, &mut acc, &mut a, &mut b);
            }
        }
        // All are read before the first is written: in memory that may be the same, the compiler keeps that order, and of
        // single numbers it makes vectors only if they follow each other.
        for (i, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the caller vouches for these vectors.
                let init = unsafe { self.init.add(i * self.init_stride).cast::<S::f32s>().add(v).read_unaligned() };
                *acc = simd.add_f32s(init, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                // SAFETY: the caller vouches for these vectors.
                unsafe { self.c.add(i * self.c_stride).cast::<S::f32s>().add(v).write_unaligned(acc) };
            }
        }
    }
}

/// `acc += a b` for one column of A and one row of B; then moves both to the next k.
///
/// # Safety
/// `a` must be readable at `i * stride` for `i < ROWS`, `b` at its first `NV * lanes` floats.
#[inline(always)]
unsafe fn rank_one<S: Simd, M: MulAdd<S>, const ROWS: usize, const NV: usize>(
    simd: S,
    acc: &mut [[S::f32s; NV]; ROWS],
    a: &mut Located,
    b: &mut Located,
) {
    // SAFETY: the caller vouches for these addresses.
    unsafe {
        let mut b_row = [simd.splat_f32s(0.0); NV];
        for (j, row) in b_row.iter_mut().enumerate() {
            *row = b.ptr.add(j * S::F32_LANES).cast::<S::f32s>().read_unaligned();
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = simd.splat_f32s(*a.ptr.add(i * a.stride));
            for (acc, b) in acc.iter_mut().zip(b_row) {
                *acc = M::mul_add(simd, a, b, *acc);
            }
        }
    }
    (*a, *b) = (a.at(0, 1), b.at(0, 1));
}
