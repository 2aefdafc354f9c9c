//! The outer loops: the order in which blocks of the factors are multiplied, and where each block is in memory.

use super::{
    kernel::{FusedNumbers, Located, MulAdd, NARROW_ROWS, Numbers, PAIR_ROWS, PanelProduct, vectors_read},
    mat::{Epilogue, Init, Mat, MatMut},
    pack::{KC, NC, Panels, Rhs, WIDE, block_start, pack_a, pack_b, panel_width, prefetch},
};
use crate::{
    floats::Floats,
    isa::{Kernel, TileKernel, Vectors},
};
use std::ops::Range;

/// Products of at most this many rows read B in place if they can: packing it would cost more than it saves. So do
/// products whose B already has the layout of a panel.
const FEW_ROWS: usize = 48;
/// A transposed A is read in place, a few numbers from each of its rows in memory, if these are at most this many
/// floats apart. Otherwise it is copied first, because too many of them would compete for the same place in the cache.
pub(super) const NEAR: usize = 256;
/// Tiles in a strip (LOOP 3).
const STRIP: usize = 8;

/// A product to compute; none of its dimensions is 0.
pub(super) struct Gemm<'a> {
    pub(super) c: MatMut<'a>,
    pub(super) init: Init<'a>,
    pub(super) a: Mat<'a>,
    pub(super) b: Rhs<'a>,
    pub(super) epilogue: Option<Epilogue<'a>>,
    /// Whether products are added with one rounding on any processor.
    pub(super) fused: bool,
    pub(super) packed: &'a mut Packed,
}

/// Packed copies of A and B.
#[derive(Default)]
pub(super) struct Packed {
    pub(super) a: Floats,
    pub(super) b: Floats,
}

impl Kernel for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        simd.with_tile(self);
    }
}

impl TileKernel for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Vectors, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        if self.fused && !S::FUSES {
            self.product::<S, FusedNumbers, ROWS, VECTORS>(simd);
        } else {
            self.product::<S, Numbers, ROWS, VECTORS>(simd);
        }
    }
}

impl Gemm<'_> {
    /// All of it, for tiles of `MR` rows and `NV` vectors.
    #[inline(always)]
    fn product<S: Vectors, M: MulAdd<S>, const MR: usize, const NV: usize>(self, simd: S) {
        let is_one_panel = self.c.cols <= panel_width::<S>() && self.a.cols <= KC && self.a.col_stride <= NEAR;
        if is_one_panel && self.epilogue.is_none() {
            return self.one_panel::<S, M, MR, NV>(simd);
        }
        // A function of its own, so that small products do not begin with what it needs.
        M::compiled(
            simd,
            #[inline(always)]
            || self.blocks::<S, M, MR, NV>(simd),
        );
    }

    /// A product with a single panel of B, such as those of attention, of which LOOPs 5 to 2 would have one round each.
    #[inline(always)]
    fn one_panel<S: Vectors, M: MulAdd<S>, const MR: usize, const NV: usize>(self, simd: S) {
        let Gemm { mut c, init, a, b, packed, .. } = self;
        let (rows, cols, k) = (c.rows, c.cols, 0..a.cols);
        let in_place = matches!(b, Rhs::Mat(b) if fits_as_is::<S, NV>(b, rows));
        let (diagonal, strip) = (c.diagonal, c.strip(0..rows, 0..cols));
        let a_block = locate_a(&mut packed.a, a, k.clone()).first;
        let b_block = locate_b::<S, NV>(simd, &mut packed.b, b, in_place, k.clone(), 0..cols);
        // Of two vectors, rows below the diagonal do without the first, of which they need nothing.
        let step = if cols.div_ceil(S::F32_LANES) == 2 { S::F32_LANES } else { cols };
        let mut row = 0;
        for col in (0..cols).step_by(step) {
            if row == rows {
                break;
            }
            let end = rows.min((col + step + diagonal).next_multiple_of(PAIR_ROWS));
            let product = PanelProduct {
                a: a_block.at(row, 0),
                zeros: a.zeros,
                rows: row..end,
                k: k.clone(),
                b: Located { ptr: b_block.ptr.wrapping_add(col), ..b_block },
                cols: cols - col,
                c: strip.data.wrapping_add(row * strip.row_stride + col),
                c_stride: strip.row_stride,
                init: match init {
                    Init::Bias(bias) => Init::Bias(&bias[col..]),
                    init => init,
                },
            };
            // SAFETY: as in `blocks`; an A that is read in place has all of its rows, and a second vector of B ends where both do.
            unsafe { product.multiply::<S, M, MR, NV>(simd) };
            row = end;
        }
    }

    /// LOOPs 5 to 2, for tiles of `MR` rows and `NV` vectors.
    #[inline(always)]
    pub(super) fn blocks<S: Vectors, M: MulAdd<S>, const MR: usize, const NV: usize>(self, simd: S) {
        let Gemm { mut c, init, a, b, epilogue, packed, .. } = self;
        let (nr, c_rows) = (panel_width::<S>(), c.rows);
        const { assert!(NV == S::TILE_VECTORS && Panels::STEP.is_multiple_of(panel_width::<S>())) };
        const { assert!(WIDE.is_multiple_of(MR * STRIP)) };
        const { assert!((MR * STRIP).is_multiple_of(NARROW_ROWS) && (MR * STRIP).is_multiple_of(PAIR_ROWS)) };
        let b_in_place = matches!(b, Rhs::Mat(b) if fits_as_is::<S, NV>(b, c.rows));
        // LOOP 5
        for k0 in (0..a.cols).step_by(KC) {
            let k = k0..a.cols.min(k0 + KC);
            let init = if k0 == 0 { init } else { Init::C };
            let a_block = locate_a(&mut packed.a, a, k.clone());
            // LOOP 4
            for n0 in (0..c.cols).step_by(NC) {
                let n = n0..c.cols.min(n0 + NC);
                let b_block = locate_b::<S, NV>(simd, &mut packed.b, b, b_in_place, k.clone(), n.clone());
                // LOOP 3
                for i0 in (0..c.rows).step_by(MR * STRIP) {
                    let rows = i0..c.rows.min(i0 + MR * STRIP);
                    let diagonal = c.diagonal;
                    let strip = c.strip(rows.clone(), n.clone());
                    let below = rows.len() * strip.row_stride;
                    let rows_below = (c_rows - rows.end).min(MR * STRIP);
                    // LOOP 2
                    for (panel, j) in n.clone().step_by(nr).enumerate() {
                        let cols = nr.min(n.end - j);
                        // What of C comes next: another panel of this strip, or the first one of the strip below.
                        let (next, ahead) =
                            if j + nr < n.end { (j + nr - n0, rows.len()) } else { (below, rows_below) };
                        prefetch_rows::<S>(strip.data.wrapping_add(next), strip.row_stride, ahead);
                        // Number of rows of this strip that reach the diagonal; the tiles below them are not needed.
                        let wanted = (j + cols + diagonal).saturating_sub(i0).next_multiple_of(MR);
                        let product = PanelProduct {
                            a: a_block.strip(i0),
                            zeros: a.zeros,
                            rows: i0..rows.end.min(i0 + wanted),
                            k: k.clone(),
                            b: b_block.at(panel, 0),
                            cols,
                            c: strip.data.wrapping_add(j - n0),
                            c_stride: strip.row_stride,
                            init: match init {
                                Init::Bias(bias) => Init::Bias(&bias[j..j + cols]),
                                init => init,
                            },
                        };
                        // SAFETY: the blocks contain everything that is read of A and B, and one of A's strides is 1
                        // (`locate_a` and `locate_b` check this). C has these rows and columns and is borrowed mutably,
                        // so nothing aliases it.
                        unsafe { product.multiply::<S, M, MR, NV>(simd) };
                    }
                    if let Some(epilogue) = epilogue
                        && k.end == a.cols
                    {
                        epilogue(strip);
                    }
                }
            }
        }
    }
}

/// Prefetches the numbers of a panel in some rows of C, from `first` on: with AVX2 these are a cache line of each row. A small L2
/// cache (512 KiB on a Zen 3) does not hold all of C, so the first access would wait for a farther one or for memory. With AVX-512,
/// where a tile is four lines wide, only prefetching a tile just before its sum was tried. It gained nothing.
#[inline(always)]
fn prefetch_rows<S: Vectors>(first: *const f32, stride: usize, rows: usize) {
    if S::AVX && S::F32_LANES == 8 {
        (0..rows).for_each(|row| prefetch(first.wrapping_add(row * stride)));
    }
}

/// All rows of A, for some of its columns.
struct BlockOfA {
    first: Located,
    /// Distance from one group of [`WIDE`] rows to the next.
    group: usize,
}

impl BlockOfA {
    /// The rows from `i0` on, up to the end of their group.
    #[inline(always)]
    fn strip(&self, i0: usize) -> Located {
        let first = self.first.at(i0 % WIDE, 0);
        Located { ptr: first.ptr.wrapping_add(i0 / WIDE * self.group), ..first }
    }
}

/// Columns `k` of A; they are copied if they are far apart.
#[inline(always)]
fn locate_a(packed: &mut Floats, a: Mat, k: Range<usize>) -> BlockOfA {
    assert!(a.row_stride == 1 || a.col_stride == 1, "one of A's strides is 1");
    if a.col_stride <= NEAR {
        let block = &a.data[k.start * a.col_stride..];
        assert!((a.rows - 1) * a.row_stride + (k.len() - 1) * a.col_stride < block.len());
        let first = Located { ptr: block.as_ptr(), stride: a.row_stride, step: a.col_stride };
        return BlockOfA { first, group: WIDE * a.row_stride };
    }
    let len = k.len();
    pack_a(packed, a, k);
    assert!(a.rows.next_multiple_of(WIDE) * len <= packed.len());
    BlockOfA { first: Located { ptr: packed.as_ptr(), stride: 1, step: WIDE }, group: WIDE * len }
}

/// Floats that are read from a row of B for `cols` columns: whole vectors.
#[inline(always)]
fn floats_read<S: Vectors, const NV: usize>(cols: usize) -> usize {
    let nr = panel_width::<S>();
    cols / nr * nr + vectors_read::<S, NV>(cols % nr) * S::F32_LANES
}

/// Whether B can and should be read in place by a product of `rows` rows. What is read beyond its last column must also
/// lie in the slice.
#[inline(always)]
fn fits_as_is<S: Vectors, const NV: usize>(b: Mat, rows: usize) -> bool {
    let reach = (b.rows - 1) * b.row_stride + floats_read::<S, NV>(b.cols);
    let should = rows <= FEW_ROWS || b.row_stride == panel_width::<S>();
    b.col_stride == 1 && should && reach <= b.data.len()
}

/// The panels of rows `k` and columns `n` of B, packed here unless they already are or B is read in place.
#[inline(always)]
fn locate_b<S: Vectors, const NV: usize>(
    simd: S,
    packed: &mut Floats,
    b: Rhs,
    in_place: bool,
    k: Range<usize>,
    n: Range<usize>,
) -> Located {
    let (nr, kc, nc) = (panel_width::<S>(), k.len(), n.len());
    let (block, stride, step) = match b {
        Rhs::Mat(b) if in_place => (&b.data[k.start * b.row_stride + n.start..], nr, b.row_stride),
        Rhs::Mat(b) => {
            packed.grow(nc.next_multiple_of(nr) * kc);
            pack_b(simd, packed, b, k, n);
            (&packed[..], kc * nr, nr)
        }
        Rhs::Panels { panels: b, first, .. } => (&b.data[block_start(b.cols, nr, k, first + n.start)..], kc * nr, nr),
    };
    let last = (nc - 1) / nr;
    let reach = last * stride + (kc - 1) * step + floats_read::<S, NV>(nc - last * nr);
    assert!(reach <= block.len());
    Located { ptr: block.as_ptr(), stride, step }
}
