//! Single-threaded matrix multiplication `C (m, n) = A (m, k) B (k, n)`, A and B by rows or by columns, from zero, from C or
//! from a bias, and with something done to rows of C while they are still in the cache.
//!
//! The structure is Goto's (Goto, van de Geijn 2008) with the inner loops exchanged: our A and C are activations that
//! come from the L3 cache, and this way each is read or written once, a strip of rows at a time, while B stays near.
//!
//! ```text
//! LOOP 5  over k in blocks of KC
//! LOOP 4    over n in blocks of NC: pack that block of B into panels NR wide; it stays in the L2 cache
//! LOOP 3      over the rows of A in strips of a few tiles, which stay near
//! LOOP 2        over the panels of B, each of which stays in the L1 cache for a strip
//! LOOP 1          over the tiles of the strip, MR rows each
//! kernel            C[MR x NR] += A[MR x KC] B[KC x NR], all of C in registers
//! ```
//!
//! Each element of C is the sum over k in ascending order, so the result does not depend on how rows or columns
//! are divided among calls. Products of bf16 go the same ways, but for those in tiles, whose module says how.

#[cfg(target_arch = "x86_64")]
mod amx;
mod bf16;

pub use bf16::Precision;

use crate::{Floats, Isa};
use pulp::{Simd, WithSimd};
use std::{cell::RefCell, marker::PhantomData, ops::Range};

/// Rows of B in a packed block (LOOP 5).
const KC: usize = 256;
/// Columns of B in a packed block (LOOP 4): `KC * NC` floats are 256 KiB, half of a small L2 cache. A multiple of
/// every tile's width.
const NC: usize = 256;
/// Products of fewer rows read B in place where they can: packing it would cost more than it saves. So do those of which B is
/// kept as a panel would be.
const FEW_ROWS: usize = 48;
/// A transposed A is read in place, a few numbers of each of its rows, where these are at most so many floats apart;
/// more, and too many of them would share a place in the cache.
const NEAR: usize = 256;
/// Else they are copied to rows of this many: whole strips for every tile, and an odd number of cache lines.
const WIDE: usize = 240;
/// Such copies of more rows would leave a small L2 cache before they are multiplied, and take memory.
const TALL: usize = 2 * WIDE;
/// Tiles in a strip (LOOP 3).
const STRIP: usize = 8;

/// A matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    zeros: Zeros,
}

/// Which elements of a matrix are known to be zero; products skip what they can of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zeros {
    Nowhere,
    /// Where `column > row + diagonal`.
    Right {
        diagonal: usize,
    },
    /// Where `row > column + diagonal`.
    Below {
        diagonal: usize,
    },
}

impl<'a> Mat<'a> {
    /// `rows` x `cols` in row-major order without gaps.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(data, rows, cols, cols)
    }

    /// `rows` x `cols` in row-major order, rows starting `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check_extent(data.len(), rows, cols, row_stride);
        Mat { data, rows, cols, row_stride, col_stride: 1, zeros: Zeros::Nowhere }
    }

    /// Zero where `row > column + diagonal`: as the first factor of a product, it saves multiplying them. They must
    /// be zero all the same.
    pub fn zero_below(self, diagonal: usize) -> Self {
        Mat { zeros: Zeros::Below { diagonal }, ..self }
    }

    /// `(rows, columns)`.
    pub fn shape(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// These rows only.
    pub fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert_eq!(self.zeros, Zeros::Nowhere);
        let skip = if rows.is_empty() { 0 } else { rows.start * self.row_stride };
        Mat { data: &self.data[skip..], rows: rows.len(), ..self }
    }

    /// The transpose: the same numbers, read the other way.
    pub fn t(self) -> Self {
        let zeros = match self.zeros {
            Zeros::Nowhere => Zeros::Nowhere,
            Zeros::Right { diagonal } => Zeros::Below { diagonal },
            Zeros::Below { diagonal } => Zeros::Right { diagonal },
        };
        let (row_stride, col_stride) = (self.col_stride, self.row_stride);
        Mat { data: self.data, rows: self.cols, cols: self.rows, row_stride, col_stride, zeros }
    }
}

/// A matrix to write, in row-major order: element `(i, j)` is `data[i * row_stride + j]`. What lies between its rows may be
/// somebody else's.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    /// Row and column of its first element in the matrix that it is a block of.
    first: [usize; 2],
    /// Elements with `row > column + diagonal` are not wanted.
    diagonal: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: its elements are borrowed mutably, and nobody else reaches them.
unsafe impl Send for MatMut<'_> {}

/// [`MatMut::diagonal`] of a matrix of which all elements are wanted.
const ALL: usize = usize::MAX / 2;

impl<'a> MatMut<'a> {
    /// `rows` x `cols` without gaps.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        MatMut::strided(data, rows, cols, cols)
    }

    /// `rows` x `cols`, rows starting `row_stride` apart.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check_extent(data.len(), rows, cols, row_stride);
        assert!(row_stride >= cols, "rows overlap: {cols} columns, row stride {row_stride}");
        let data = data.as_mut_ptr();
        MatMut { data, rows, cols, row_stride, first: [0, 0], diagonal: ALL, elements: PhantomData }
    }

    /// Elements with `row > column + diagonal` are not wanted: some of them are left as they are.
    pub fn not_below(self, diagonal: usize) -> Self {
        MatMut { diagonal, ..self }
    }

    /// Blocks of so many of its rows and columns, those at the ends smaller, and which these are.
    ///
    /// # Panics
    /// If the blocks would be empty, or not all elements are wanted.
    pub fn blocks(self, rows: usize, cols: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>, MatMut<'a>)> {
        assert_eq!(self.diagonal, ALL);
        (0..self.rows).step_by(rows).flat_map(move |i| {
            (0..self.cols).step_by(cols).map(move |j| {
                let (rows, cols) = (i..self.rows.min(i + rows), j..self.cols.min(j + cols));
                let data = self.data.wrapping_add(i * self.row_stride + j);
                let first = [self.first[0] + i, self.first[1] + j];
                let block = MatMut { data, rows: rows.len(), cols: cols.len(), first, ..self };
                (rows, cols, block)
            })
        })
    }

    /// These rows in these columns.
    #[inline(always)]
    fn strip(&mut self, rows: Range<usize>, cols: Range<usize>) -> Strip<'_> {
        assert!(rows.end <= self.rows && cols.end <= self.cols);
        let data = self.data.wrapping_add(rows.start * self.row_stride + cols.start);
        let [i, j] = self.first;
        let (rows, cols) = (i + rows.start..i + rows.end, j + cols.start..j + cols.end);
        Strip { data, row_stride: self.row_stride, rows, cols, elements: PhantomData }
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

/// Rows of C that are complete and still in the cache: what a linear layer is followed by is done to them here. They are
/// counted in the whole of C, where this is a block of it.
#[derive(Debug)]
pub struct Strip<'a> {
    data: *mut f32,
    row_stride: usize,
    /// Which rows of C these are.
    rows: Range<usize>,
    /// Which columns.
    cols: Range<usize>,
    elements: PhantomData<&'a mut [f32]>,
}

/// What follows a product, strip by strip.
pub type Then<'a> = &'a (dyn Fn(Strip) + Sync);

impl Strip<'_> {
    /// Which columns of C these are.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// Each row's index in C and its elements in [`Strip::cols`].
    #[inline(always)]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let (data, row_stride, len) = (self.data, self.row_stride, self.cols.len());
        self.rows.clone().enumerate().map(move |(i, row)| {
            // SAFETY: these elements of C are borrowed mutably with the strip, and each is in one row only.
            (row, unsafe { std::slice::from_raw_parts_mut(data.add(i * row_stride), len) })
        })
    }
}

/// `C = A B`, `C += A B` or `C = A B + bias`; `c (m, n)`, `a (m, k)`, `b (k, n)`.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm(isa: Isa, c: MatMut, start: Start, a: Mat, b: Mat) {
    gemm_then(isa, Precision::F32, c, start, a, Factor::Mat(b), None);
}

/// [`gemm`] on factors of some precision, with `then` on each strip of C as soon as it is complete.
///
/// # Panics
/// If the shapes do not fit, B was packed for another instruction set or precision, or a factor of a product in bf16 has
/// known zeros.
pub fn gemm_then(isa: Isa, precision: Precision, mut c: MatMut, start: Start, a: Mat, b: Factor, then: Option<Then>) {
    let (b_rows, b_cols) = b.shape();
    let shapes_fit = c.rows == a.rows && c.cols == b_cols && a.cols == b_rows;
    assert!(shapes_fit, "gemm: C is {}x{}, A {}x{}, B {b_rows}x{b_cols}", c.rows, c.cols, a.rows, a.cols);
    if let Factor::Panels { panels: b, first, cols } = b {
        assert!(first.is_multiple_of(Panels::STEP) && first + cols <= b.cols, "gemm: columns of panels");
        assert!(
            b.isa == isa.name() && b.precision == precision,
            "gemm: B is packed for {} {}",
            b.isa,
            b.precision.name()
        );
    }
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), c.cols, "gemm: one bias for each column of C");
    }
    if a.cols == 0 {
        let mut all = c.strip(0..c.rows, 0..c.cols);
        for (_, row) in all.iter_mut() {
            match start {
                Start::Zero => row.fill(0.0),
                Start::C => {}
                Start::Bias(bias) => row.copy_from_slice(bias),
            }
        }
        if let Some(then) = then {
            then(all);
        }
        return;
    }
    SCRATCH.with_borrow_mut(|scratch| match precision {
        Precision::F32 => {
            let mut product = |c, a| isa.run_generic(Gemm { c, start, a, b, then, packed: &mut scratch.packed });
            if a.col_stride <= NEAR || a.rows <= TALL || a.zeros != Zeros::Nowhere || c.diagonal != ALL {
                return product(c, a);
            }
            let cols = c.cols;
            c.blocks(TALL, cols).for_each(|(rows, _, c)| product(c, a.rows(rows)));
        }
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16(bf16) if bf16.tiles => {
            amx::run(bf16, Gemm { c, start, a, b, then, packed: &mut scratch.packed })
        }
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16(bf16) => {
            let [pairs_a, pairs_b] = &mut scratch.pairs;
            let a = bf16::pairs_by_row(bf16, pairs_a, a);
            let b = match b {
                Factor::Mat(b) => Factor::Mat(bf16::pairs_by_row(bf16, pairs_b, b.t()).t()),
                panels => panels,
            };
            bf16::run(bf16, Gemm { c, start, a, b, then, packed: &mut scratch.packed });
        }
    });
}

/// The second factor of a product.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// As it is.
    Mat(Mat<'a>),
    /// Packed before: so many of its columns.
    Panels {
        /// All of it.
        panels: &'a Panels,
        /// The first of these columns, a multiple of [`Panels::STEP`].
        first: usize,
        /// How many.
        cols: usize,
    },
}

impl Factor<'_> {
    /// `(rows, columns)`.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Factor::Mat(b) => b.shape(),
            Factor::Panels { panels, cols, .. } => (panels.rows, cols),
        }
    }

    /// These columns only; of what is packed, from a multiple of [`Panels::STEP`] on.
    pub fn columns(self, columns: Range<usize>) -> Self {
        match self {
            Factor::Mat(b) => Factor::Mat(b.t().rows(columns).t()),
            Factor::Panels { panels, first, cols } => {
                assert!(columns.start.is_multiple_of(Panels::STEP));
                assert!(columns.start <= columns.end && columns.end <= cols);
                Factor::Panels { panels, first: first + columns.start, cols: columns.len() }
            }
        }
    }
}

/// A matrix packed once to be the second factor of many products.
#[derive(Debug)]
pub struct Panels {
    isa: &'static str,
    precision: Precision,
    rows: usize,
    cols: usize,
    /// Blocks of [`KC`] rows, in them blocks of [`NC`] columns, in them panels, as LOOPs 5, 4 and 2 take them; for tiles
    /// as their module says.
    data: Floats,
}

impl Panels {
    /// Columns by which packed matrices may be divided: a multiple of every tile's width.
    pub const STEP: usize = 64;

    /// Of no matrix yet.
    ///
    /// # Panics
    /// If the instruction set has not this precision.
    pub fn new(isa: Isa, precision: Precision) -> Panels {
        assert!(precision == Precision::F32 || Precision::every_bf16(isa).contains(&precision));
        Panels { isa: isa.name(), precision, rows: 0, cols: 0, data: Floats::default() }
    }

    /// What is packed, to be multiplied by.
    pub fn factor(&self) -> Factor<'_> {
        Factor::Panels { panels: self, first: 0, cols: self.cols }
    }

    /// Takes the numbers of `b`, in the place of those before.
    ///
    /// # Panics
    /// If these panels are for another instruction set.
    pub fn pack(&mut self, isa: Isa, b: Mat) {
        assert_eq!(self.isa, isa.name());
        (self.rows, self.cols) = b.shape();
        match self.precision {
            Precision::F32 => isa.run_generic(PackAll { data: &mut self.data, b }),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(bf16) if bf16.tiles => amx::pack(bf16, &mut self.data, b),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(bf16) => SCRATCH.with_borrow_mut(|Scratch { pairs: [_, pairs], .. }| {
                let b = bf16::pairs_by_row(bf16, pairs, b.t()).t();
                isa.run_generic(PackAll { data: &mut self.data, b });
            }),
        }
    }
}

/// [`Panels::pack`] for a kind of vector.
struct PackAll<'a> {
    data: &'a mut Floats,
    b: Mat<'a>,
}

impl WithSimd for PackAll<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PackAll { data, b } = self;
        let nr = panel_width::<S>();
        data.grow(b.rows * b.cols.next_multiple_of(nr));
        for k0 in (0..b.rows).step_by(KC) {
            let kc = KC.min(b.rows - k0);
            for n0 in (0..b.cols).step_by(NC) {
                let nc = NC.min(b.cols - n0);
                pack_b(simd, &mut data[block_start(b.cols, nr, k0, kc, n0)..], b, k0, kc, n0, nc, nr);
            }
        }
    }
}

/// Where the block of row `k0` and column `n0`, a multiple of `nr`, begins in [`Panels`] of `cols` columns.
#[inline(always)]
fn block_start(cols: usize, nr: usize, k0: usize, kc: usize, n0: usize) -> usize {
    k0 * cols.next_multiple_of(nr) + kc * n0
}

/// Scratch memory of a thread: it grows to its largest product and stays.
#[derive(Default)]
struct Scratch {
    packed: Packed,
    /// Factors in pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    pairs: [Floats; 2],
}

/// Packed copies of A and B.
#[derive(Default)]
struct Packed {
    a: Floats,
    b: Floats,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Gemm<'a> {
    c: MatMut<'a>,
    start: Start<'a>,
    a: Mat<'a>,
    b: Factor<'a>,
    then: Option<Then<'a>>,
    packed: &'a mut Packed,
}

/// What a kernel does with an element of A, in all lanes, and a vector of B.
trait MulAdd<S: Simd> {
    /// `acc + a b`.
    fn mul_add(simd: S, a: S::f32s, b: S::f32s, acc: S::f32s) -> S::f32s;
}

/// Lanes are numbers.
struct Numbers;

impl<S: Simd> MulAdd<S> for Numbers {
    #[inline(always)]
    fn mul_add(simd: S, a: S::f32s, b: S::f32s, acc: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, acc)
    }
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.tiles::<S, Numbers>(simd);
    }
}

/// Columns of a panel: those of the tile that [`Gemm::tiles`] picks.
#[inline(always)]
fn panel_width<S: Simd>() -> usize {
    let vectors = match S::F32_LANES {
        1 => 8,
        _ if S::REGISTER_COUNT < 32 => 2,
        _ => 4,
    };
    vectors * S::F32_LANES
}

impl Gemm<'_> {
    /// Picks the tile: MR rows by NV vectors of C, one row of B and a broadcast of A must fit the registers.
    #[inline(always)]
    fn tiles<S: Simd, M: MulAdd<S>>(self, simd: S) {
        if S::F32_LANES == 1 {
            self.run::<S, M, 3, 8>(simd) // scalar: the compiler makes vectors of the eight columns
        } else if S::REGISTER_COUNT < 32 {
            self.run::<S, M, 6, 2>(simd) // AVX2: 12 + 2 + 1 of 16
        } else {
            self.run::<S, M, 6, 4>(simd) // AVX-512, NEON: 24 + 4 + 1 of 32
        }
    }

    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>, const MR: usize, const NV: usize>(self, simd: S) {
        let Gemm { mut c, start, a, b, then, packed } = self;
        let (nr, diagonal) = (NV * S::F32_LANES, c.diagonal);
        assert!(nr == panel_width::<S>() && Panels::STEP.is_multiple_of(nr));
        // Whole vectors are read of every row of B, also beyond its last column: they must lie in the slice.
        let b_read = |cols: usize| cols / nr * nr + vectors_read::<S, NV>(cols % nr) * S::F32_LANES;
        let fits = |b: &Mat| {
            let reach = (b.rows - 1) * b.row_stride + b_read(b.cols);
            b.col_stride == 1 && (c.rows <= FEW_ROWS || b.row_stride == nr) && reach <= b.data.len()
        };
        let b_in_place = matches!(&b, Factor::Mat(b) if fits(b));
        let a_in_place = a.col_stride <= NEAR;
        // LOOP 5
        for k0 in (0..a.cols).step_by(KC) {
            let kc = KC.min(a.cols - k0);
            let last = k0 + kc == a.cols;
            let strip = MR * STRIP;
            assert!(WIDE.is_multiple_of(strip));
            // The rows of A and the steps of k: how far apart.
            let (a_block, a_row_stride, a_step) = if a_in_place {
                (&a.data[k0 * a.col_stride..], a.row_stride, a.col_stride)
            } else {
                pack_a(&mut packed.a, a, k0, kc);
                (&packed.a[..], 1, WIDE)
            };
            // LOOP 4
            for n0 in (0..c.cols).step_by(NC) {
                let nc = NC.min(c.cols - n0);
                // Panel j of B: its first element, how far apart the panels are, and the rows of one.
                let (b_block, panel_stride, b_row_stride) = match b {
                    Factor::Mat(b) if b_in_place => (&b.data[k0 * b.row_stride + n0..], nr, b.row_stride),
                    Factor::Mat(b) => {
                        packed.b.grow(nc.next_multiple_of(nr) * kc);
                        pack_b(simd, &mut packed.b, b, k0, kc, n0, nc, nr);
                        (&packed.b[..], kc * nr, nr)
                    }
                    Factor::Panels { panels: b, first, .. } => {
                        (&b.data[block_start(b.cols, nr, k0, kc, first + n0)..], kc * nr, nr)
                    }
                };
                let last_panel = (nc - 1) / nr;
                let b_reach = last_panel * panel_stride + (kc - 1) * b_row_stride + b_read(nc - last_panel * nr);
                assert!(b_reach <= b_block.len());
                // LOOP 3
                for i0 in (0..c.rows).step_by(strip) {
                    let rows = strip.min(c.rows - i0);
                    let a_first = if a_in_place { i0 * a_row_stride } else { i0 / WIDE * WIDE * kc + i0 % WIDE };
                    let a_strip = &a_block[a_first..];
                    let a_reach = (rows - 1) * a_row_stride + (kc - 1) * a_step + 1;
                    assert!(a_reach <= a_strip.len());
                    let c_strip = c.strip(i0..i0 + rows, n0..n0 + nc);
                    // LOOP 2
                    for (panel, j) in (0..nc).step_by(nr).enumerate() {
                        let cols = nr.min(nc - j);
                        let start = match start {
                            _ if k0 > 0 => Start::C,
                            Start::Bias(bias) => Start::Bias(&bias[n0 + j..n0 + j + cols]),
                            start => start,
                        };
                        // LOOP 1
                        for i in (0..rows).step_by(MR) {
                            let tile_rows = MR.min(rows - i);
                            if i0 + i > n0 + j + cols - 1 + diagonal {
                                continue;
                            }
                            // The part of this block's k where A is not zero.
                            let (from, to) = match a.zeros {
                                Zeros::Nowhere => (0, kc),
                                Zeros::Right { diagonal } => {
                                    (0, (i0 + i + tile_rows + diagonal).saturating_sub(k0).min(kc))
                                }
                                Zeros::Below { diagonal } => ((i0 + i).saturating_sub(diagonal + k0).min(kc), kc),
                            };
                            // SAFETY: the assertions above bound what is read of A and B, C has these rows and columns
                            // and is borrowed mutably: nothing aliases.
                            unsafe {
                                let args = Tile {
                                    kc: to - from,
                                    // Where all of a tile is zero nothing is read, and `from` may lie behind the end.
                                    a: a_strip.as_ptr().wrapping_add(i * a_row_stride + from * a_step),
                                    a_row_stride,
                                    a_step,
                                    b: b_block.as_ptr().wrapping_add(panel * panel_stride + from * b_row_stride),
                                    b_row_stride,
                                    c: c_strip.data.add(i * c_strip.row_stride + j),
                                    c_row_stride: c_strip.row_stride,
                                    cols,
                                    start,
                                };
                                match (a_step == 1, b_row_stride == nr) {
                                    (true, true) => args.multiply_some::<S, M, MR, NV, 1, NV>(simd, tile_rows),
                                    (true, false) => args.multiply_some::<S, M, MR, NV, 1, 0>(simd, tile_rows),
                                    (false, true) => args.multiply_some::<S, M, MR, NV, 0, NV>(simd, tile_rows),
                                    (false, false) => args.multiply_some::<S, M, MR, NV, 0, 0>(simd, tile_rows),
                                }
                            }
                        }
                    }
                    if let Some(then) = then
                        && last
                    {
                        then(c_strip);
                    }
                }
            }
        }
    }
}

/// Vectors of B that the kernel for `cols` columns reads, `NV` at most.
#[inline(always)]
fn vectors_read<S: Simd, const NV: usize>(cols: usize) -> usize {
    match cols.div_ceil(S::F32_LANES) {
        few @ ..=2 if few < NV => few,
        _ => NV,
    }
}

/// One kernel call (STEP and BV are what is known of strides when compiling: `a_step`, and the vectors in a row of B; 0
/// if nothing): `C[ROWS x cols] = start + A[ROWS x kc] B[kc x NR]`.
struct Tile<'a> {
    kc: usize,
    a: *const f32,
    a_row_stride: usize,
    a_step: usize,
    b: *const f32,
    b_row_stride: usize,
    c: *mut f32,
    c_row_stride: usize,
    cols: usize,
    start: Start<'a>,
}

impl Tile<'_> {
    /// [`Tile::multiply`] for numbers of rows and columns known at run time, `MR` and `NV` vectors at most.
    ///
    /// # Safety
    /// As for [`Tile::multiply`] with `ROWS = rows` and [`vectors_read`] of B.
    #[inline(always)]
    unsafe fn multiply_some<
        S: Simd,
        M: MulAdd<S>,
        const MR: usize,
        const NV: usize,
        const STEP: usize,
        const BV: usize,
    >(
        self,
        simd: S,
        rows: usize,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match vectors_read::<S, NV>(self.cols) {
                1 => self.multiply_rows::<S, M, MR, 1, STEP, BV>(simd, rows),
                2 if NV > 2 => self.multiply_rows::<S, M, MR, 2, STEP, BV>(simd, rows),
                _ => self.multiply_rows::<S, M, MR, NV, STEP, BV>(simd, rows),
            }
        }
    }

    /// # Safety
    /// As for [`Tile::multiply`] with `ROWS = rows`.
    #[inline(always)]
    unsafe fn multiply_rows<
        S: Simd,
        M: MulAdd<S>,
        const MR: usize,
        const NV: usize,
        const STEP: usize,
        const BV: usize,
    >(
        mut self,
        simd: S,
        rows: usize,
    ) {
        // SAFETY: the caller's promise, passed on; the parts of an incomplete tile are parts of its rows.
        unsafe {
            if rows == MR {
                return self.multiply::<S, M, MR, NV, STEP, BV>(simd);
            }
            for part in [4, 2, 1] {
                if rows & part == 0 {
                    continue;
                }
                match part {
                    4 => self.multiply::<S, M, 4, NV, STEP, BV>(simd),
                    2 => self.multiply::<S, M, 2, NV, STEP, BV>(simd),
                    _ => self.multiply::<S, M, 1, NV, STEP, BV>(simd),
                }
                self.a = self.a.wrapping_add(part * self.a_row_stride);
                self.c = self.c.wrapping_add(part * self.c_row_stride);
            }
        }
    }

    /// # Safety
    /// `a` must be readable at `i * a_row_stride + p * a_step` for `i < ROWS`, `p < kc`; `b` at `p * b_row_stride + j`
    /// for `j < NV * lanes`; `c` readable and writable at `i * c_row_stride + j` for `i < ROWS`, `j < cols`, and by
    /// nobody else meanwhile.
    #[inline(always)]
    unsafe fn multiply<
        S: Simd,
        M: MulAdd<S>,
        const ROWS: usize,
        const NV: usize,
        const STEP: usize,
        const BV: usize,
    >(
        &self,
        simd: S,
    ) {
        // Steps of k in one turn of the loop: their addresses differ by constants, which saves arithmetic.
        const UNROLL: usize = 4;
        let lanes = S::F32_LANES;
        let b_row_stride = if BV == 0 { self.b_row_stride } else { BV * lanes };
        let a_step = if STEP == 0 { self.a_step } else { STEP };
        let mut acc = [[simd.splat_f32s(0.0); NV]; ROWS];
        let mut p = 0;
        while p < self.kc {
            let steps = if p + UNROLL <= self.kc { UNROLL } else { 1 };
            // SAFETY: p + u < kc below, within what the caller vouches for; packed rows have any alignment.
            unsafe {
                let a = self.a.add(p * a_step);
                let b = self.b.add(p * b_row_stride);
                if steps == UNROLL {
                    for u in 0..UNROLL {
                        let (a, b) = (a.add(u * a_step), b.add(u * b_row_stride));
                        rank_one::<S, M, ROWS, NV>(simd, &mut acc, a, self.a_row_stride, b);
                    }
                } else {
                    rank_one::<S, M, ROWS, NV>(simd, &mut acc, a, self.a_row_stride, b);
                }
            }
            p += steps;
        }
        // SAFETY: the caller vouches for the rows and columns of C.
        unsafe {
            if self.cols >= NV * lanes {
                // Three loops that say no more than they must: the compiler unrolls them, which is what lets it keep
                // `acc` in registers all the time.
                match self.start {
                    Start::Zero => self.store(simd, &acc, |_, _, acc| acc),
                    Start::C => self.store(simd, &acc, |c, _, acc| simd.add_f32s(c.read_unaligned(), acc)),
                    Start::Bias(bias) => {
                        let bias = bias.as_ptr().cast::<S::f32s>();
                        self.store(simd, &acc, |_, v, acc| simd.add_f32s(bias.add(v).read_unaligned(), acc));
                    }
                }
            } else {
                let acc = acc; // in memory, and only this copy
                for (i, acc) in acc.iter().enumerate() {
                    let row = std::slice::from_raw_parts_mut(self.c.add(i * self.c_row_stride), self.cols);
                    for (v, (&acc, row)) in acc.iter().zip(row.chunks_mut(lanes)).enumerate() {
                        let start = match self.start {
                            Start::Zero => simd.splat_f32s(0.0),
                            Start::C => simd.partial_load_f32s(row),
                            Start::Bias(bias) => simd.partial_load_f32s(&bias[v * lanes..][..row.len()]),
                        };
                        simd.partial_store_f32s(row, simd.add_f32s(start, acc));
                    }
                }
            }
        }
    }

    /// `C = value(C, acc)`, whole vectors.
    ///
    /// # Safety
    /// All `NV` vectors of the `ROWS` rows of C must be the caller's.
    #[inline(always)]
    unsafe fn store<S: Simd, const ROWS: usize, const NV: usize>(
        &self,
        _: S,
        acc: &[[S::f32s; NV]; ROWS],
        value: impl Fn(*const S::f32s, usize, S::f32s) -> S::f32s,
    ) {
        for (i, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let c = self.c.add(i * self.c_row_stride).cast::<S::f32s>().add(v);
                    c.write_unaligned(value(c, v, acc));
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
unsafe fn rank_one<S: Simd, M: MulAdd<S>, const ROWS: usize, const NV: usize>(
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
                *acc = M::mul_add(simd, a, b, *acc);
            }
        }
    }
}

/// Rows `k0..k0 + kc` and columns `n0..n0 + nc` of B as panels of `nr` columns: `packed[panel][p][j]`. Beyond
/// the last column stands anything: it only reaches elements of C that are not stored.
#[inline(always)]
fn pack_b<S: Simd>(simd: S, packed: &mut [f32], b: Mat, k0: usize, kc: usize, n0: usize, nc: usize, nr: usize) {
    let panels = nc.div_ceil(nr);
    let panel_len = kc * nr;
    if b.col_stride == 1 {
        // Row by row, as they stand in memory.
        for p in 0..kc {
            let row = &b.data[(k0 + p) * b.row_stride + n0..][..nc];
            for (out, row) in packed.chunks_exact_mut(panel_len).zip(row.chunks(nr)) {
                copy(&mut out[p * nr..][..row.len()], row);
            }
        }
        return;
    }
    assert_eq!(b.row_stride, 1, "one of B's strides is 1");
    for (panel, out) in packed.chunks_exact_mut(panel_len).take(panels).enumerate() {
        let j0 = n0 + panel * nr;
        let cols = nr.min(b.cols - j0);
        // Squares of eight columns and eight rows, then the rest one by one.
        let (whole_j, whole_p) = (cols - cols % SQUARE, kc - kc % SQUARE);
        for pair in (0..whole_j).step_by(2 * SQUARE) {
            for p in (0..whole_p).step_by(SQUARE) {
                // Two squares side by side: whole cache lines are written.
                for j in (pair..whole_j.min(pair + 2 * SQUARE)).step_by(SQUARE) {
                    let columns = &b.data[k0 + p + (j0 + j) * b.col_stride..];
                    let square = &mut out[p * nr + j..];
                    assert!((SQUARE - 1) * b.col_stride + SQUARE <= columns.len());
                    assert!((SQUARE - 1) * nr + SQUARE <= square.len());
                    for column in 2 * SQUARE..3 * SQUARE {
                        // The next columns begin far away: the processor does not guess them.
                        prefetch(columns.as_ptr().wrapping_add(column * b.col_stride));
                    }
                    // SAFETY: both assertions.
                    unsafe { transpose(simd, square.as_mut_ptr(), nr, columns.as_ptr(), b.col_stride) }
                }
            }
        }
        for j in 0..cols {
            for p in if j < whole_j { whole_p } else { 0 }..kc {
                out[p * nr + j] = b.data[k0 + p + (j0 + j) * b.col_stride];
            }
        }
    }
}

/// Asks for the cache line at `address`, which need not be valid.
#[inline(always)]
fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Floats that packing moves at once.
const SQUARE: usize = 8;

/// `to[p][j] = from[j][p]` for `p, j < 8`, rows `to_stride` and `from_stride` apart.
///
/// # Safety
/// Eight floats of each of the eight rows must be readable at `from` and writable at `to`, without overlap.
#[inline(always)]
unsafe fn transpose<S: Simd>(_: S, to: *mut f32, to_stride: usize, from: *const f32, from_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES >= 8 {
        use std::arch::x86_64::*;
        // SAFETY: the caller vouches for the addresses; vectors of eight floats on this architecture are AVX's or
        // AVX-512's, so the processor has AVX.
        unsafe {
            // Four columns at a time, rows j and j + 4 in the two halves of a vector: loads put them there, which shuffles
            // would have to do at the end otherwise.
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

/// Copies what is above the diagonal of `c (r, r)` to below it.
pub(crate) fn mirror(isa: Isa, c: &mut [f32], r: usize) {
    assert_eq!(c.len(), r * r);
    isa.run_generic(Mirror { c, r });
}

struct Mirror<'a> {
    c: &'a mut [f32],
    r: usize,
}

impl WithSimd for Mirror<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Mirror { c, r } = self;
        for i0 in (0..r).step_by(SQUARE) {
            let rows = SQUARE.min(r - i0);
            if rows == SQUARE {
                for j0 in (0..i0).step_by(SQUARE) {
                    let c = c.as_mut_ptr();
                    // SAFETY: both squares lie in C, and the diagonal between them.
                    unsafe { transpose(simd, c.add(i0 * r + j0), r, c.add(j0 * r + i0), r) }
                }
            }
            // Beside the diagonal, and all of the last rows where they are fewer than eight.
            for i in i0..i0 + rows {
                for j in if rows == SQUARE { i0 } else { 0 }..i {
                    c[i * r + j] = c[j * r + i];
                }
            }
        }
    }
}

/// `to = from`, without a call for the short rows of a panel.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to, to_rest) = to.as_chunks_mut::<SQUARE>();
    let (from, from_rest) = from.as_chunks::<SQUARE>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = *from);
}

/// Columns `k0..k0 + kc` of A, which is transposed, in strips of [`WIDE`] rows: `packed[strip][p][i]`.
#[inline(always)]
fn pack_a(packed: &mut Floats, a: Mat, k0: usize, kc: usize) {
    assert_eq!(a.row_stride, 1, "one of A's strides is 1");
    packed.grow(a.rows.next_multiple_of(WIDE) * kc);
    for (strip, out) in packed.chunks_exact_mut(WIDE * kc).take(a.rows.div_ceil(WIDE)).enumerate() {
        let rows = WIDE.min(a.rows - strip * WIDE);
        for (p, out) in out.chunks_exact_mut(WIDE).enumerate() {
            copy(&mut out[..rows], &a.data[(k0 + p) * a.col_stride + strip * WIDE..][..rows]);
        }
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
                        for precision in [vec![Precision::F32], Precision::every_bf16(isa)].concat() {
                            check(isa, precision, m, n, k, a_transposed, b_transposed);
                        }
                    }
                }
            }
        }
    }

    /// The integers are exact in bf16 too.
    fn check(isa: Isa, precision: Precision, m: usize, n: usize, k: usize, a_transposed: bool, b_transposed: bool) {
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
        let mut panels = Panels::new(isa, precision);
        panels.pack(isa, b);
        let starts = [(Start::Zero, false), (Start::C, false), (Start::Bias(&bias), false), (Start::C, true)];
        for (start, packed) in starts {
            let mut c = vec![2.0; m * (n + gap)];
            let factor = if packed { panels.factor() } else { Factor::Mat(b) };
            gemm_then(isa, precision, MatMut::strided(&mut c, m, n, n + gap), start, a, factor, None);
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
                    let (isa, precision) = (isa.name(), precision.name());
                    assert!(
                        got == want,
                        "{isa} {precision} {m}x{n}x{k} {start:?}, packed: {packed}, ({i}, {j}): {got}, want {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn known_zeros_and_unwanted_elements_change_nothing_else() {
        for isa in Isa::available() {
            for (m, n, k, diagonal) in [(20, 19, 33, 0), (33, 17, 20, 5), (300, 8, 280, 1), (7, 40, 3, 9)] {
                let (mut a, b) = (integers(m * k, 11), integers(k * n, 13));
                for i in 0..m {
                    for p in 0..k {
                        if i > p + diagonal {
                            a[i * k + p] = 0.0;
                        }
                    }
                }
                // The same matrix, kept by columns.
                let columns: Vec<f32> = (0..k * m).map(|at| a[at % m * k + at / m]).collect();
                let product = |a: Mat| {
                    let mut c = vec![0.0; m * n];
                    gemm(isa, MatMut::new(&mut c, m, n), Start::Zero, a, Mat::new(&b, k, n));
                    c
                };
                let want = product(Mat::new(&a, m, k));
                assert_eq!(product(Mat::new(&a, m, k).zero_below(diagonal)), want, "{} rows", isa.name());
                // As a transpose, what is zero below is zero to the right of the original.
                let by_columns = Mat { zeros: Zeros::Below { diagonal }, ..Mat::new(&columns, k, m).t() };
                assert_eq!(product(by_columns), want, "{} columns", isa.name());
                let wanted = |at: &usize| at / n <= at % n + diagonal;
                for precision in [vec![Precision::F32], Precision::every_bf16(isa)].concat() {
                    let mut some = vec![0.0; m * n];
                    let out = MatMut::new(&mut some, m, n).not_below(diagonal);
                    let factor = Factor::Mat(Mat::new(&b, k, n));
                    gemm_then(isa, precision, out, Start::Zero, Mat::new(&a, m, k), factor, None);
                    let same = (0..m * n).filter(wanted).all(|at| some[at] == want[at]);
                    assert!(same, "{} {}", isa.name(), precision.name());
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_how_a_product_is_divided() {
        let (m, n, k) = (TALL + 150, 230, 300);
        let random = |len: usize, seed: usize| -> Vec<f32> {
            (0..len).map(|i| ((i + seed) as f32 * 12.9898).sin() * 10f32.powi((i % 7) as i32 - 3)).collect()
        };
        let (mut a, b, c) = (random(m * k, 1), random(k * n, 2), random(m * n, 3));
        a[40 * k] = f32::NAN; // stays in its row
        for isa in Isa::available() {
            for precision in [vec![Precision::F32], Precision::every_bf16(isa)].concat() {
                let product = |rows: Range<usize>, by_columns: bool| {
                    let columns: Vec<f32> = (0..k * m).map(|at| a[at % m * k + at / m]).collect();
                    let a = if by_columns { Mat::new(&columns, k, m).t() } else { Mat::new(&a, m, k) };
                    let mut c = c[rows.start * n..rows.end * n].to_vec();
                    let out = MatMut::new(&mut c, rows.len(), n);
                    let seen = std::sync::Mutex::new(vec![0; rows.len()]);
                    let then = |mut strip: Strip| {
                        let cols = strip.cols().len();
                        strip.iter_mut().for_each(|(row, _)| seen.lock().unwrap()[row] += cols);
                    };
                    let b = Factor::Mat(Mat::new(&b, k, n));
                    gemm_then(isa, precision, out, Start::C, a.rows(rows), b, Some(&then));
                    assert!(seen.into_inner().unwrap().iter().all(|&cols| cols == n), "every row is followed up once");
                    c.iter().map(|x| if x.is_nan() { 0 } else { x.to_bits() }).collect::<Vec<_>>()
                };
                let whole = product(0..m, false);
                assert!(whole.iter().enumerate().all(|(at, &bits)| (bits == 0) == (at / n == 40)));
                let mut panels = Panels::new(isa, precision);
                panels.pack(isa, Mat::new(&b, k, n));
                for columns in [0..64, 64..128, 128..n] {
                    let mut part = vec![0.0; m * columns.len()];
                    for (i, part) in part.chunks_exact_mut(columns.len()).enumerate() {
                        part.copy_from_slice(&c[i * n..][columns.clone()]);
                    }
                    let before = part.clone();
                    for factor in [panels.factor(), Factor::Mat(Mat::new(&b, k, n))] {
                        part.copy_from_slice(&before);
                        let out = MatMut::new(&mut part, m, columns.len());
                        let factor = factor.columns(columns.clone());
                        gemm_then(isa, precision, out, Start::C, Mat::new(&a, m, k), factor, None);
                        for (i, part) in part.chunks_exact(columns.len()).enumerate() {
                            let same = |(x, bits): (&f32, &u32)| x.is_nan() || x.to_bits() == *bits;
                            assert!(part.iter().zip(&whole[i * n..][columns.clone()]).all(same), "{columns:?}");
                        }
                    }
                }
                for by_columns in [false, true] {
                    let mut parts = Vec::new();
                    for (from, to) in [(0, 1), (1, 18), (18, 60), (60, m)] {
                        parts.extend(product(from..to, by_columns));
                    }
                    assert!(parts == whole, "{} {}, by columns: {by_columns}", isa.name(), precision.name());
                }
            }
        }
    }

    #[test]
    fn a_mirrored_matrix_is_symmetric() {
        for isa in Isa::available() {
            for r in [1, 7, 8, 9, 24, 30] {
                let from = integers(r * r, 101);
                let mut c = from.clone();
                mirror(isa, &mut c, r);
                let want = |i: usize, j: usize| from[i.min(j) * r + i.max(j)];
                assert!((0..r * r).all(|at| c[at] == want(at / r, at % r)), "{} {r}", isa.name());
            }
        }
    }

    #[test]
    fn bf16_rounds_to_the_nearest_even_and_keeps_what_is_not_a_number() {
        let ways = |isa| Precision::every_bf16(isa).into_iter().map(move |precision| (isa, precision));
        for (isa, precision) in Isa::available().into_iter().flat_map(ways) {
            let up = 1.0 + 3.0 / 256.0; // halfway between 1 + 1/128 and 1 + 2/128
            let down = 1.0 + 1.0 / 256.0; // halfway between 1 and 1 + 1/128
            let a = [up, down, -up, f32::NAN, f32::INFINITY];
            let mut c = [0.0; 5];
            gemm_then(
                isa,
                precision,
                MatMut::new(&mut c, 5, 1),
                Start::Zero,
                Mat::new(&a, 5, 1),
                Factor::Mat(Mat::new(&[1.0], 1, 1)),
                None,
            );
            assert_eq!(c[..3], [1.0 + 2.0 / 128.0, 1.0, -1.0 - 2.0 / 128.0]);
            assert!(c[3].is_nan() && c[4] == f32::INFINITY, "{c:?}");
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
