//! Single-threaded matrix multiplication `C (m, n) = A (m, k) B (k, n)` or `C += A B`, any strides for A and B.
//!
//! The structure is Goto's (Goto, van de Geijn 2008) with the inner loops exchanged: our A and C are activations that
//! come from the L3 cache, and this way each is read or written once, in order, while B stays near.
//!
//! ```text
//! LOOP 4  over k in blocks of KC: pack those columns of A, unless its rows are contiguous
//! LOOP 3    over n in blocks of NC: pack that block of B into panels NR wide; it stays in the L2 cache
//! LOOP 2      over the rows of A, MR at a time: a tile of A (MR x KC) stays in the L1 cache
//! LOOP 1        over the panels of B
//! kernel          C[MR x NR] += A[MR x KC] B[KC x NR], all of C in registers
//! ```
//!
//! Each element of C is the sum over k in ascending order, so the result does not depend on how rows or columns
//! are divided among calls.

use crate::Isa;
use pulp::{Simd, WithSimd};
use std::cell::RefCell;

/// Rows of B in a packed block (LOOP 4): a tile of A is then 6 to 12 KiB.
const KC: usize = 256;
/// Columns of B in a packed block (LOOP 3): `KC * NC` floats are 256 KiB, half of a small L2 cache. A multiple of
/// every tile's width.
const NC: usize = 256;

/// A matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` x `cols` in row-major order without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// `rows` x `cols` in row-major order, rows starting `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check_extent(data.len(), rows, cols, row_stride);
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose: the same numbers, read the other way.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A matrix to write, in row-major order: element `(i, j)` is `data[i * row_stride + j]`.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `rows` x `cols` without gaps.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        MatMut::strided(data, rows, cols, cols)
    }

    /// `rows` x `cols`, rows starting `row_stride` apart.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check_extent(data.len(), rows, cols, row_stride);
        assert!(row_stride >= cols, "rows overlap: {cols} columns, row stride {row_stride}");
        MatMut { data, rows, cols, row_stride }
    }
}

/// Every later access relies on this: the last element of the last row lies inside the slice.
fn check_extent(len: usize, rows: usize, cols: usize, row_stride: usize) {
    if rows > 0 && cols > 0 {
        let last = (rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(cols));
        assert!(
            last.is_some_and(|last| last <= len),
            "a {rows} x {cols} matrix with row stride {row_stride} in {len} floats"
        );
    }
}

/// What C starts from before the product is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start<'a> {
    /// Nothing, `C = A B`; C need not be initialised.
    Zero,
    /// What is in C, `C += A B`.
    C,
    /// One bias (n) for all rows, `C = A B + bias`; C need not be initialised.
    Bias(&'a [f32]),
}

/// `C = A B`, `C += A B` or `C = A B + bias`; `c (m, n)`, `a (m, k)`, `b (k, n)`.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm(isa: Isa, c: MatMut, start: Start, a: Mat, b: Mat) {
    let shapes_fit = c.rows == a.rows && c.cols == b.cols && a.cols == b.rows;
    assert!(shapes_fit, "gemm: C is {}x{}, A {}x{}, B {}x{}", c.rows, c.cols, a.rows, a.cols, b.rows, b.cols);
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), c.cols, "gemm: one bias for each column of C");
    }
    if a.cols == 0 {
        for row in c.data.chunks_mut(c.row_stride).take(c.rows) {
            match start {
                Start::Zero => row[..c.cols].fill(0.0),
                Start::C => {}
                Start::Bias(bias) => row[..c.cols].copy_from_slice(bias),
            }
        }
        return;
    }
    PACKED.with_borrow_mut(|packed| isa.run_generic(Gemm { c, start, a, b, packed }));
}

/// Packed copies of A and B: they grow to the largest product of this thread and stay.
#[derive(Default)]
struct Packed {
    a: Vec<f32>,
    b: Vec<f32>,
}

thread_local! {
    static PACKED: RefCell<Packed> = RefCell::default();
}

struct Gemm<'a> {
    c: MatMut<'a>,
    start: Start<'a>,
    a: Mat<'a>,
    b: Mat<'a>,
    packed: &'a mut Packed,
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    /// Picks the tile: MR rows by NV vectors of C, one row of B and a broadcast of A must fit the registers.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES == 1 {
            self.run::<S, 3, 8>(simd) // scalar: the compiler makes vectors of the eight columns
        } else if S::REGISTER_COUNT < 32 {
            self.run::<S, 6, 2>(simd) // AVX2: 12 + 2 + 1 of 16
        } else if S::F32_LANES >= 16 {
            self.run::<S, 12, 2>(simd) // AVX-512: 24 + 2 + 1 of 32
        } else {
            self.run::<S, 6, 4>(simd) // NEON: 24 + 4 + 1 of 32
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Gemm { c, start, a, b, packed } = self;
        let nr = NV * S::F32_LANES;
        // LOOP 4
        for k0 in (0..a.cols).step_by(KC) {
            let kc = KC.min(a.cols - k0);
            let in_place = a.col_stride == 1;
            let a_block = if in_place {
                ABlock { data: &a.data[k0..], tile_stride: MR * a.row_stride, row_stride: a.row_stride }
            } else {
                pack_a::<MR>(&mut packed.a, a, k0, kc);
                ABlock { data: &packed.a, tile_stride: MR * kc, row_stride: 1 }
            };
            let k_stride = if in_place { 1 } else { MR };
            // LOOP 3
            for n0 in (0..c.cols).step_by(NC) {
                let nc = NC.min(c.cols - n0);
                pack_b(&mut packed.b, b, k0, kc, n0, nc, nr);
                // LOOP 2
                for (tile, i0) in (0..c.rows).step_by(MR).enumerate() {
                    let rows = MR.min(c.rows - i0);
                    let a_tile = &a_block.data[tile * a_block.tile_stride..];
                    let a_reach = (rows - 1) * a_block.row_stride + (kc - 1) * k_stride;
                    assert!(a_reach < a_tile.len());
                    // LOOP 1
                    for (panel, b_panel) in packed.b.chunks_exact(kc * nr).take(nc.div_ceil(nr)).enumerate() {
                        let j0 = n0 + panel * nr;
                        let cols = nr.min(c.cols - j0);
                        let c_tile = &mut c.data[i0 * c.row_stride + j0..];
                        assert!((rows - 1) * c.row_stride + cols <= c_tile.len());
                        let start = match start {
                            _ if k0 > 0 => Start::C,
                            Start::Bias(bias) => Start::Bias(&bias[j0..j0 + cols]),
                            start => start,
                        };
                        let args = Tile {
                            kc,
                            a: a_tile.as_ptr(),
                            a_row_stride: a_block.row_stride,
                            b: b_panel.as_ptr(),
                            c: c_tile.as_mut_ptr(),
                            c_row_stride: c.row_stride,
                            cols,
                            start,
                        };
                        // SAFETY: the assertions above bound the reads of A and the accesses of C for `rows` rows and
                        // `cols` columns, `b_panel` has kc * nr floats, and C is borrowed mutably: nothing aliases.
                        unsafe {
                            if in_place {
                                args.multiply_rows::<S, MR, NV, 1>(simd, rows);
                            } else {
                                args.multiply_rows::<S, MR, NV, MR>(simd, rows);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One block of A as the kernel reads it: tiles of MR rows, packed or in place.
struct ABlock<'a> {
    data: &'a [f32],
    tile_stride: usize,
    row_stride: usize,
}

/// One kernel call: `C[ROWS x cols] = start + A[ROWS x kc] B[kc x NR]`.
struct Tile<'a> {
    kc: usize,
    a: *const f32,
    a_row_stride: usize,
    b: *const f32,
    c: *mut f32,
    c_row_stride: usize,
    cols: usize,
    start: Start<'a>,
}

impl Tile<'_> {
    /// [`Tile::multiply`] for a number of rows known at run time, `MR` at most.
    ///
    /// # Safety
    /// As for [`Tile::multiply`] with `ROWS = rows`.
    #[inline(always)]
    unsafe fn multiply_rows<S: Simd, const MR: usize, const NV: usize, const STEP: usize>(self, simd: S, rows: usize) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match rows {
                rows if rows == MR => self.multiply::<S, MR, NV, STEP>(simd),
                1 => self.multiply::<S, 1, NV, STEP>(simd),
                2 => self.multiply::<S, 2, NV, STEP>(simd),
                3 => self.multiply::<S, 3, NV, STEP>(simd),
                4 => self.multiply::<S, 4, NV, STEP>(simd),
                5 => self.multiply::<S, 5, NV, STEP>(simd),
                6 => self.multiply::<S, 6, NV, STEP>(simd),
                7 => self.multiply::<S, 7, NV, STEP>(simd),
                8 => self.multiply::<S, 8, NV, STEP>(simd),
                9 => self.multiply::<S, 9, NV, STEP>(simd),
                10 => self.multiply::<S, 10, NV, STEP>(simd),
                _ => self.multiply::<S, 11, NV, STEP>(simd),
            }
        }
    }

    /// # Safety
    /// `a` must be readable at `i * a_row_stride + p * STEP` for `i < ROWS`, `p < kc`; `b` at the first
    /// `kc * NV * lanes` floats; `c` readable and writable at `i * c_row_stride + j` for `i < ROWS`, `j < cols`,
    /// and by nobody else meanwhile.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const ROWS: usize, const NV: usize, const STEP: usize>(self, simd: S) {
        // Steps of k in one turn of the loop: their addresses differ by constants, which saves arithmetic.
        const UNROLL: usize = 4;
        let lanes = S::F32_LANES;
        let mut acc = [[simd.splat_f32s(0.0); NV]; ROWS];
        let mut p = 0;
        while p < self.kc {
            let steps = if p + UNROLL <= self.kc { UNROLL } else { 1 };
            // SAFETY: p + u < kc below, within what the caller vouches for; packed rows have any alignment.
            unsafe {
                let a = self.a.add(p * STEP);
                let b = self.b.add(p * NV * lanes);
                if steps == UNROLL {
                    for u in 0..UNROLL {
                        rank_one::<S, ROWS, NV>(
                            simd,
                            &mut acc,
                            a.add(u * STEP),
                            self.a_row_stride,
                            b.add(u * NV * lanes),
                        );
                    }
                } else {
                    rank_one::<S, ROWS, NV>(simd, &mut acc, a, self.a_row_stride, b);
                }
            }
            p += steps;
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: row i and column j < cols of C, which the caller vouches for; whole vectors only where all
            // of their lanes are below cols.
            unsafe {
                let row = self.c.add(i * self.c_row_stride);
                for (v, &acc) in acc.iter().enumerate() {
                    let j = v * lanes;
                    if j + lanes <= self.cols {
                        let c = row.add(j).cast::<S::f32s>();
                        let start = match self.start {
                            Start::Zero => simd.splat_f32s(0.0),
                            Start::C => c.read_unaligned(),
                            Start::Bias(bias) => bias.as_ptr().add(j).cast::<S::f32s>().read_unaligned(),
                        };
                        c.write_unaligned(simd.add_f32s(start, acc));
                    } else if j < self.cols {
                        let edge = std::slice::from_raw_parts_mut(row.add(j), self.cols - j);
                        let start = match self.start {
                            Start::Zero => simd.splat_f32s(0.0),
                            Start::C => simd.partial_load_f32s(edge),
                            Start::Bias(bias) => simd.partial_load_f32s(&bias[j..]),
                        };
                        simd.partial_store_f32s(edge, simd.add_f32s(start, acc));
                    }
                }
            }
        }
    }
}

/// `acc += a b` for one column of A and one row of B.
///
/// # Safety
/// `a` must be readable at `i * a_row_stride` for `i < ROWS`, `b` at its first `NV * lanes` floats.
#[inline(always)]
unsafe fn rank_one<S: Simd, const ROWS: usize, const NV: usize>(
    simd: S,
    acc: &mut [[S::f32s; NV]; ROWS],
    a: *const f32,
    a_row_stride: usize,
    b: *const f32,
) {
    // SAFETY: what the caller vouches for.
    unsafe {
        let mut b_row = [simd.splat_f32s(0.0); NV];
        for (j, row) in b_row.iter_mut().enumerate() {
            *row = b.add(j * S::F32_LANES).cast::<S::f32s>().read_unaligned();
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let a = simd.splat_f32s(*a.add(i * a_row_stride));
            for (acc, b) in acc.iter_mut().zip(b_row) {
                *acc = simd.mul_add_e_f32s(a, b, *acc);
            }
        }
    }
}

/// Rows `k0..k0 + kc` and columns `n0..n0 + nc` of B as panels of `nr` columns: `packed[panel][p][j]`, zero beyond
/// the last column.
#[inline(always)]
fn pack_b(packed: &mut Vec<f32>, b: Mat, k0: usize, kc: usize, n0: usize, nc: usize, nr: usize) {
    let panels = nc.div_ceil(nr);
    grow(packed, panels * kc * nr);
    for (panel, out) in packed.chunks_exact_mut(kc * nr).take(panels).enumerate() {
        let j0 = n0 + panel * nr;
        let cols = nr.min(b.cols - j0);
        if cols < nr {
            out.fill(0.0);
        }
        if b.col_stride == 1 {
            for (p, out) in out.chunks_exact_mut(nr).enumerate() {
                copy(&mut out[..cols], &b.data[(k0 + p) * b.row_stride + j0..][..cols]);
            }
        } else {
            assert_eq!(b.row_stride, 1, "one of B's strides is 1");
            for j in (0..cols).step_by(STRIP) {
                let column = |j: usize| &b.data[k0 + (j0 + j) * b.col_stride..][..kc];
                if j + STRIP <= cols {
                    let mut columns = [column(j); STRIP];
                    for (i, slot) in columns.iter_mut().enumerate() {
                        *slot = column(j + i);
                    }
                    for (p, out) in out.chunks_exact_mut(nr).enumerate() {
                        let out = &mut out[j..j + STRIP];
                        for i in 0..STRIP {
                            out[i] = columns[i][p];
                        }
                    }
                } else {
                    for j in j..cols {
                        out[j..].iter_mut().step_by(nr).zip(column(j)).for_each(|(out, x)| *out = *x);
                    }
                }
            }
        }
    }
}

/// Floats that packing moves at once.
const STRIP: usize = 8;

/// `to = from`, without a call for the short rows of a panel.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to, to_rest) = to.as_chunks_mut::<STRIP>();
    let (from, from_rest) = from.as_chunks::<STRIP>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = *from);
}

/// Columns `k0..k0 + kc` of A as tiles of MR rows: `packed[tile][p][i]`; rows beyond the last are left as they are,
/// because the kernel for a short tile does not read them.
#[inline(always)]
fn pack_a<const MR: usize>(packed: &mut Vec<f32>, a: Mat, k0: usize, kc: usize) {
    let tiles = a.rows.div_ceil(MR);
    grow(packed, tiles * kc * MR);
    for (tile, out) in packed.chunks_exact_mut(kc * MR).take(tiles).enumerate() {
        let i0 = tile * MR;
        let rows = MR.min(a.rows - i0);
        for (p, out) in out.as_chunks_mut::<MR>().0.iter_mut().enumerate() {
            let column = &a.data[i0 * a.row_stride + (k0 + p) * a.col_stride..];
            if a.row_stride == 1 && rows == MR {
                out.copy_from_slice(&column[..MR]);
            } else {
                for i in 0..rows {
                    out[i] = column[i * a.row_stride];
                }
            }
        }
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct small integers, so that every sum is exact in f32 and any mix-up of elements shows.
    fn integers(len: usize, modulus: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + 3) % modulus) as f32 - (modulus / 2) as f32).collect()
    }

    #[test]
    fn every_isa_size_stride_and_mode_is_exact() {
        let sizes = [0, 1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 16, 17, 31, 33, 65, 261];
        for isa in Isa::available() {
            for (m, n) in sizes.iter().flat_map(|&m| sizes.iter().map(move |&n| (m, n))) {
                for k in [0, 1, 2, 7, 16, 19, 300] {
                    for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                        check(isa, m, n, k, a_transposed, b_transposed);
                    }
                }
            }
        }
    }

    fn check(isa: Isa, m: usize, n: usize, k: usize, a_transposed: bool, b_transposed: bool) {
        let gap = 3; // rows are further apart than they are long
        let (a_data, b_data) = (integers(m.max(k) * (m.max(k) + gap), 11), integers(n.max(k) * (n.max(k) + gap), 13));
        let view = |data, rows, cols, transposed| {
            if transposed {
                Mat::strided(data, cols, rows, rows + gap).t()
            } else {
                Mat::strided(data, rows, cols, cols + gap)
            }
        };
        let a = view(&a_data, m, k, a_transposed);
        let b = view(&b_data, k, n, b_transposed);
        let bias = integers(n, 7);
        for start in [Start::Zero, Start::C, Start::Bias(&bias)] {
            let mut c = vec![2.0; m * (n + gap)];
            gemm(isa, MatMut::strided(&mut c, m, n, n + gap), start, a, b);
            for i in 0..m {
                for j in 0..n + gap {
                    let mut want = 2.0;
                    if j < n {
                        match start {
                            Start::Zero => want = 0.0,
                            Start::C => {}
                            Start::Bias(bias) => want = bias[j],
                        }
                        for p in 0..k {
                            want += a.data[i * a.row_stride + p * a.col_stride]
                                * b.data[p * b.row_stride + j * b.col_stride];
                        }
                    }
                    let got = c[i * (n + gap) + j];
                    assert!(got == want, "{} {m}x{n}x{k} {start:?} ({i}, {j}): {got}, want {want}", isa.name());
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "gemm: C is 2x2")]
    fn shapes_must_fit() {
        let (a, b, mut c) = ([0.0; 6], [0.0; 8], [0.0; 4]);
        gemm(Isa::detect(), MatMut::new(&mut c, 2, 2), Start::C, Mat::new(&a, 2, 3), Mat::new(&b, 4, 2));
    }

    #[test]
    #[should_panic(expected = "in 5 floats")]
    fn a_matrix_must_lie_in_its_slice() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
