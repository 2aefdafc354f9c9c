//! Matrices to read and to write: where their elements lie, and which of them matter.

use std::{marker::PhantomData, ops::Range};

/// A matrix to read: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    pub(super) zeros: Zeros,
}

/// Which elements of a matrix are known to be zero; products skip as many of them as they can.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Zeros {
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

impl Zeros {
    /// The smallest part of `columns` outside which `rows` are zero. If it is empty, it may begin at their end.
    #[inline(always)]
    pub(super) fn others(self, rows: Range<usize>, columns: Range<usize>) -> Range<usize> {
        match self {
            Zeros::Nowhere => columns,
            Zeros::Right { diagonal } => columns.start..columns.end.min(rows.end + diagonal).max(columns.start),
            Zeros::Below { diagonal } => {
                rows.start.saturating_sub(diagonal).clamp(columns.start, columns.end)..columns.end
            }
        }
    }
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

    /// Declares that elements with `row > column + diagonal` are zero: a product with this as its first factor can skip
    /// them. They must really be zero.
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

    /// The transpose: the same numbers with the strides swapped.
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

/// A matrix to write, in row-major order: element `(i, j)` is `data[i * row_stride + j]`. The memory between its rows
/// may belong to others.
#[derive(Debug)]
pub struct MatMut<'a> {
    pub(super) data: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    /// Row and column of its first element in the matrix that it is a block of.
    first: [usize; 2],
    /// Elements with `row > column + diagonal` are not needed.
    pub(super) diagonal: usize,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: its elements are borrowed mutably, so nobody else accesses them.
unsafe impl Send for MatMut<'_> {}

/// [`MatMut::diagonal`] of a matrix of which all elements are needed.
pub(super) const ALL: usize = usize::MAX / 2;

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

    /// Declares that elements with `row > column + diagonal` are not needed: some of them are left unchanged.
    pub fn not_below(self, diagonal: usize) -> Self {
        MatMut { diagonal, ..self }
    }

    /// Splits it into blocks of `rows` x `cols`, smaller at the ends; each comes with its ranges of rows and columns.
    ///
    /// # Panics
    /// If the blocks would be empty, or not all elements are needed.
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
    pub(super) fn strip(&mut self, rows: Range<usize>, cols: Range<usize>) -> Strip<'_> {
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
        let last = (rows - 1).checked_mul(row_stride).and_then(|first| first.checked_add(cols));
        assert!(
            last.is_some_and(|last| last <= len),
            "a {rows} x {cols} matrix with row stride {row_stride} in {len} floats"
        );
    }
}

/// What C is before the product is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init<'a> {
    /// Nothing, `C = A B`; C need not be initialised.
    Zero,
    /// What is in C, `C += A B`.
    C,
    /// One bias (n) for all rows, `C = A B + bias`; C need not be initialised.
    Bias(&'a [f32]),
}

/// Rows of C that are complete and still in the cache, for the epilogue. Rows and columns are counted in the whole of
/// C, even if the product computes a block of it.
#[derive(Debug)]
pub struct Strip<'a> {
    pub(super) data: *mut f32,
    pub(super) row_stride: usize,
    /// Which rows of C these are.
    rows: Range<usize>,
    /// Which columns.
    cols: Range<usize>,
    elements: PhantomData<&'a mut [f32]>,
}

/// What is done to each strip of C as soon as it is complete. It may multiply matrices itself.
pub type Epilogue<'a> = &'a (dyn Fn(Strip) + Sync);

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
