//! Single-threaded matrix multiplication `C (m, n) = A (m, k) B (k, n)`, with A and B by rows or by columns, starting
//! from zero, from C or from a bias, and with an optional epilogue on rows of C while they are still in the cache.
//!
//! The structure is Goto's (Goto, van de Geijn 2008) with the inner loops swapped: our A and C are activations that
//! come from the L3 cache, and this way each is read or written once, a strip of rows at a time, while B stays in a
//! nearer cache.
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
//! Each element of C is the sum over k in ascending order, so the result does not depend on how rows or columns are
//! divided among calls. Products of bf16 use the same loops, except those in tiles, which are described in `amx`.
//!
//! Each file imports only files above it:
//!
//! | file | what |
//! |---|---|
//! | `mat` | matrices to read and to write |
//! | `precision` | what factors are rounded to |
//! | `pack` | copies of the factors in the order of the kernel |
//! | `mirror` | the other half of a symmetric matrix |
//! | `kernel` | LOOP 1 and the kernel |
//! | `loops` | LOOPs 5 to 2 |
//! | `bf16` | products of bf16 in vectors |
//! | `amx` | products of bf16 in tiles |
//! | `int8` | products with weights of eight or four bits, in integers |

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
pub mod int8;
mod kernel;
mod loops;
mod mat;
mod mirror;
mod pack;
mod precision;

pub use mat::{Epilogue, Init, Mat, MatMut, Strip};
pub(crate) use mirror::mirror;
pub use pack::{Panels, Rhs};
pub use precision::Precision;

#[cfg(target_arch = "x86_64")]
use crate::floats::Floats;
use crate::isa::Isa;
use loops::{Gemm, NEAR, Packed};
use mat::{ALL, Zeros};
use pack::{PackAll, WIDE};
use std::cell::Cell;

/// Rows of a transposed A that are copied at once, at most: copies of more would be evicted from a small L2 cache
/// before they are multiplied, and would take memory.
const TALL: usize = 2 * WIDE;

/// `C = A B`, `C += A B` or `C = A B + bias`; `c (m, n)`, `a (m, k)`, `b (k, n)`.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm(isa: Isa, c: MatMut, init: Init, a: Mat, b: Mat) {
    gemm_with(isa, Precision::F32, c, init, a, Rhs::Mat(b), None);
}

/// [`gemm`] in a given precision, with `epilogue` applied to each strip of C as soon as it is complete.
///
/// # Panics
/// If the shapes do not fit, B was packed for another instruction set or precision, or a factor of a product in bf16
/// has known zeros.
pub fn gemm_with(isa: Isa, precision: Precision, c: MatMut, init: Init, a: Mat, b: Rhs, epilogue: Option<Epilogue>) {
    let (b_rows, b_cols) = b.shape();
    let shapes_fit = c.rows == a.rows && c.cols == b_cols && a.cols == b_rows;
    assert!(shapes_fit, "gemm: C is {}x{}, A {}x{}, B {b_rows}x{b_cols}", c.rows, c.cols, a.rows, a.cols);
    b.check(isa, precision);
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), c.cols, "gemm: one bias for each column of C");
    }
    if a.cols == 0 {
        return without_product(c, init, epilogue);
    }
    let fused = isa.is_fused();
    with_scratch(|scratch| match precision {
        Precision::F32 => {
            let mut product =
                |c, a| isa.run_generic(Gemm { c, init, a, b, epilogue, fused, packed: &mut scratch.packed });
            if a.col_stride <= NEAR || a.rows <= TALL || a.zeros != Zeros::Nowhere || c.diagonal != ALL {
                return product(c, a);
            }
            let cols = c.cols;
            c.blocks(TALL, cols).for_each(|(rows, _, c)| product(c, a.rows(rows)));
        }
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16(bf16) if bf16.tiles => {
            amx::run(bf16, Gemm { c, init, a, b, epilogue, fused, packed: &mut scratch.packed })
        }
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16(bf16) => {
            let [pairs_a, pairs_b] = &mut scratch.pairs;
            let a = bf16::pairs_by_row(bf16, pairs_a, a);
            let b = match b {
                Rhs::Mat(b) => Rhs::Mat(bf16::pairs_by_row(bf16, pairs_b, b.t()).t()),
                panels => panels,
            };
            bf16::run(bf16, Gemm { c, init, a, b, epilogue, fused, packed: &mut scratch.packed });
        }
    });
}

/// The product if k is 0: only `init` and the epilogue.
fn without_product(mut c: MatMut, init: Init, epilogue: Option<Epilogue>) {
    let (rows, cols) = (c.rows, c.cols);
    let mut all = c.strip(0..rows, 0..cols);
    for (_, row) in all.iter_mut() {
        match init {
            Init::Zero => row.fill(0.0),
            Init::C => {}
            Init::Bias(bias) => row.copy_from_slice(bias),
        }
    }
    if let Some(epilogue) = epilogue {
        epilogue(all);
    }
}

impl Panels {
    /// Packs `b`, replacing what was packed before.
    ///
    /// # Panics
    /// If these panels are for another instruction set.
    pub fn pack(&mut self, isa: Isa, b: Mat) {
        self.reshape(isa, b);
        match self.precision {
            Precision::F32 => isa.run_generic(PackAll { data: &mut self.data, b }),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(bf16) if bf16.tiles => amx::pack(bf16, &mut self.data, b),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(bf16) => with_scratch(|Scratch { pairs: [_, pairs], .. }| {
                let b = bf16::pairs_by_row(bf16, pairs, b.t()).t();
                isa.run_generic(PackAll { data: &mut self.data, b });
            }),
        }
    }
}

/// Scratch memory of a thread: it grows to fit the thread's largest product and is kept.
#[derive(Default)]
struct Scratch {
    packed: Packed,
    /// Factors in pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    pairs: [Floats; 2],
}

/// Runs `work` with the scratch memory of this thread. The memory is taken out for that time, so a product in an
/// epilogue uses its own.
fn with_scratch(work: impl FnOnce(&mut Scratch)) {
    thread_local! {
        static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
    }
    let mut scratch = SCRATCH.take().unwrap_or_default();
    work(&mut scratch);
    SCRATCH.set(Some(scratch));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

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
                        for precision in Precision::available(isa) {
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
        let inits = [(Init::Zero, false), (Init::C, false), (Init::Bias(&bias), false), (Init::C, true)];
        for (init, packed) in inits {
            let mut c = vec![2.0; m * (n + gap)];
            let rhs = if packed { panels.rhs() } else { Rhs::Mat(b) };
            gemm_with(isa, precision, MatMut::strided(&mut c, m, n, n + gap), init, a, rhs, None);
            for i in 0..m {
                for j in 0..n + gap {
                    let mut want = 2.0;
                    if j < n {
                        match init {
                            Init::Zero => want = 0.0,
                            Init::C => {}
                            Init::Bias(bias) => want = bias[j],
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
                        "{isa} {precision} {m}x{n}x{k} {init:?}, packed: {packed}, ({i}, {j}): {got}, want {want}"
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
                    gemm(isa, MatMut::new(&mut c, m, n), Init::Zero, a, Mat::new(&b, k, n));
                    c
                };
                let want = product(Mat::new(&a, m, k));
                assert_eq!(product(Mat::new(&a, m, k).zero_below(diagonal)), want, "{} rows", isa.name());
                // As a transpose, what is zero below is zero to the right of the original.
                let by_columns = Mat { zeros: Zeros::Below { diagonal }, ..Mat::new(&columns, k, m).t() };
                assert_eq!(product(by_columns), want, "{} columns", isa.name());
                let wanted = |at: &usize| at / n <= at % n + diagonal;
                for precision in Precision::available(isa) {
                    let mut some = vec![0.0; m * n];
                    let out = MatMut::new(&mut some, m, n).not_below(diagonal);
                    let rhs = Rhs::Mat(Mat::new(&b, k, n));
                    gemm_with(isa, precision, out, Init::Zero, Mat::new(&a, m, k), rhs, None);
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
            for precision in Precision::available(isa) {
                let product = |rows: Range<usize>, by_columns: bool| {
                    let columns: Vec<f32> = (0..k * m).map(|at| a[at % m * k + at / m]).collect();
                    let a = if by_columns { Mat::new(&columns, k, m).t() } else { Mat::new(&a, m, k) };
                    let mut c = c[rows.start * n..rows.end * n].to_vec();
                    let out = MatMut::new(&mut c, rows.len(), n);
                    let seen = std::sync::Mutex::new(vec![0; rows.len()]);
                    let epilogue = |mut strip: Strip| {
                        let cols = strip.cols().len();
                        strip.iter_mut().for_each(|(row, _)| seen.lock().unwrap()[row] += cols);
                    };
                    let b = Rhs::Mat(Mat::new(&b, k, n));
                    gemm_with(isa, precision, out, Init::C, a.rows(rows), b, Some(&epilogue));
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
                    for rhs in [panels.rhs(), Rhs::Mat(Mat::new(&b, k, n))] {
                        part.copy_from_slice(&before);
                        let out = MatMut::new(&mut part, m, columns.len());
                        let rhs = rhs.columns(columns.clone());
                        gemm_with(isa, precision, out, Init::C, Mat::new(&a, m, k), rhs, None);
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
    fn the_precisions_of_this_processor_are_tested() {
        for isa in Isa::available() {
            let precisions = Precision::available(isa);
            let names: Vec<_> = precisions.iter().map(|precision| precision.name()).collect();
            eprintln!("{}: tested precisions: {}", isa.name(), names.join(", "));
            assert_eq!(precisions[0], Precision::F32);
            assert_eq!(Precision::bf16(isa), precisions[1..].last().copied());
            #[cfg(target_arch = "x86_64")]
            {
                let bf16 = isa.name() == "avx512" && is_x86_feature_detected!("avx512bf16");
                assert_eq!(names.contains(&"bf16 in vectors"), bf16);
            }
        }
    }

    #[test]
    fn an_epilogue_may_multiply() {
        let (m, n, k) = (150, 70, 40);
        let (a, b) = (integers(m * k, 11), integers(k * n, 13));
        for isa in Isa::available() {
            for precision in Precision::available(isa) {
                let product = |c: &mut [f32], epilogue: Option<Epilogue>| {
                    let (a, b) = (Mat::new(&a, m, k), Rhs::Mat(Mat::new(&b, k, n)));
                    gemm_with(isa, precision, MatMut::new(c, m, n), Init::Zero, a, b, epilogue);
                };
                let mut want = vec![0.0; m * n];
                product(&mut want, None);
                let epilogue = |_: Strip| {
                    let mut inner = vec![0.0; m * n];
                    product(&mut inner, None);
                    assert_eq!(inner, want, "{} {}", isa.name(), precision.name());
                };
                let mut c = vec![0.0; m * n];
                product(&mut c, Some(&epilogue));
                assert_eq!(c, want, "{} {}", isa.name(), precision.name());
            }
        }
    }

    #[test]
    fn bf16_rounds_to_the_nearest_even_and_keeps_what_is_not_a_number() {
        let ways = |isa| Precision::available(isa).into_iter().skip(1).map(move |precision| (isa, precision));
        for (isa, precision) in Isa::available().into_iter().flat_map(ways) {
            let up = 1.0 + 3.0 / 256.0; // halfway between 1 + 1/128 and 1 + 2/128
            let down = 1.0 + 1.0 / 256.0; // halfway between 1 and 1 + 1/128
            let a = [up, down, -up, f32::NAN, f32::INFINITY];
            let mut c = [0.0; 5];
            gemm_with(
                isa,
                precision,
                MatMut::new(&mut c, 5, 1),
                Init::Zero,
                Mat::new(&a, 5, 1),
                Rhs::Mat(Mat::new(&[1.0], 1, 1)),
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
        gemm(Isa::detect(), MatMut::new(&mut c, 2, 2), Init::C, Mat::new(&a, 2, 3), Mat::new(&b, 4, 2));
    }

    #[test]
    #[should_panic(expected = "in 5 floats")]
    fn a_matrix_must_lie_in_its_slice() {
        Mat::new(&[0.0; 5], 2, 3);
    }
}
