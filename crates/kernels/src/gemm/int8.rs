//! Products with weights of eight or four bits, computed in integers.
//!
//! Each row of the input is rounded to 16 bits, with a scale of its own: its largest magnitude becomes 32767. Compared with
//! what rounding the weights changes, that is little: a 256th of it for eight bits. Then a sum of integer products is exact, so its order does not matter, and
//! what is done with it in f32 has one order everywhere. So the results have the same bits for every instruction set, any
//! division among threads and any number of rows.
//!
//! ```text
//! eight bits:  y[o] = (sum over blocks of 512 inputs: float(sum of w[o][i] x[i])) scale[o] scale_x + bias[o]
//! four bits:   y[o] = (sum over groups of 32 inputs: float(sum of w[o][i] x[i]) scale[o][group]) scale_x + bias[o]
//! ```
//!
//! Weights are packed in panels of 64 outputs. Two neighbouring inputs of an output stand next to each other: the processor
//! multiplies pairs of 16 bits and adds them to a lane of 32 bits, and a lane belongs to an output.

mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{
    mat::{Epilogue, MatMut},
    pack::prefetch,
};
use crate::isa::Isa;
use lanes::{IN_LINE, Lanes, Line, Portable};
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use x86::{Avx2, Avx512, Vnni};

/// Inputs that share a scale in four bits.
pub const GROUP: usize = 32;

/// Outputs in a panel. Products may be split at multiples of this many.
pub const WIDTH: usize = 64;

/// Inputs whose products fit in 32 bits with weights of eight bits: `127 * 32767 * 512 < 2^31`.
const BLOCK: usize = 512;

/// The largest integer that an input is rounded to.
const LARGEST: f32 = 32767.0;

/// Vectors of sums that a kernel has for each row.
const VECTORS: usize = 4;

/// A matrix `(o, i)` of small integers, packed to multiply by.
#[derive(Debug)]
pub struct Panels {
    o: usize,
    i: usize,
    lines: Vec<Line>,
    scales: Scales,
}

#[derive(Debug)]
enum Scales {
    /// Eight bits: one for each output.
    Rows(Vec<f32>),
    /// Four bits: `(panels, groups, WIDTH)`.
    Groups(Vec<f32>),
}

impl Panels {
    /// Packs integers of eight bits `codes (o, i)`, each from -127 to 127, with a scale for each row.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn of_rows(codes: &[i8], scales: &[f32]) -> Panels {
        let (o, i) = shape(codes, scales.len());
        let mut lines = Vec::with_capacity(o.div_ceil(WIDTH) * i.div_ceil(2) * 2);
        let code = |out: usize, at: usize| if out < o && at < i { codes[out * i + at] as u8 } else { 0 };
        for (first, pair) in halves(o, i.div_ceil(2)) {
            lines.push(Line(std::array::from_fn(|b| code(first + b / 2, 2 * pair + b % 2))));
        }
        let mut padded = scales.to_vec();
        padded.resize(o.next_multiple_of(WIDTH), 0.0);
        Panels { o, i, lines, scales: Scales::Rows(padded) }
    }

    /// Packs integers of four bits `codes (o, i)`, each from -8 to 7, with a scale `(o, groups)` for each [`GROUP`] of a row.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn of_groups(codes: &[i8], o: usize, scales: &[f32]) -> Panels {
        let (o, i) = shape(codes, o);
        let groups = i.div_ceil(GROUP);
        assert_eq!(scales.len(), o * groups);
        let code = |out: usize, at: usize| (8 + if out < o && at < i { codes[out * i + at] } else { 0 }) as u8;
        let mut lines = Vec::with_capacity(o.div_ceil(WIDTH) * groups * GROUP / 2);
        for (first, four) in halves(o, groups * GROUP / 4) {
            let at = |b: usize| (first + b / 2, 4 * four + b % 2);
            lines.push(Line(std::array::from_fn(|b| {
                let (out, i) = at(b);
                code(out, i) | code(out, i + 2) << 4
            })));
        }
        let mut packed = Vec::with_capacity(o.next_multiple_of(WIDTH) * groups);
        for first in (0..o).step_by(WIDTH) {
            for group in 0..groups {
                let scale = |out: usize| if out < o { scales[out * groups + group] } else { 0.0 };
                packed.extend((first..first + WIDTH).map(scale));
            }
        }
        Panels { o, i, lines, scales: Scales::Groups(packed) }
    }

    /// The numbers of output `o`: each integer times its scale.
    ///
    /// # Panics
    /// If there is no such output, or the length does not fit.
    pub fn row(&self, o: usize, to: &mut [f32]) {
        assert!(o < self.o && to.len() == self.i);
        let (panel, half) = (o / WIDTH, o % WIDTH / IN_LINE);
        let line = |k: usize, lines: usize| &self.lines[(panel * lines + k) * 2 + half].0[2 * (o % IN_LINE)..][..2];
        match &self.scales {
            Scales::Rows(scales) => {
                let code = |i: usize| line(i / 2, self.i.div_ceil(2))[i % 2] as i8;
                to.iter_mut().enumerate().for_each(|(i, to)| *to = f32::from(code(i)) * scales[o]);
            }
            Scales::Groups(scales) => {
                let groups = self.i.div_ceil(GROUP);
                let byte = |i: usize| line(i / 4, groups * GROUP / 4)[i % 2];
                let code = |i: usize| i16::from(if i % 4 < 2 { byte(i) & 15 } else { byte(i) >> 4 }) - 8;
                let scale = |i: usize| scales[(panel * groups + i / GROUP) * WIDTH + o % WIDTH];
                to.iter_mut().enumerate().for_each(|(i, to)| *to = f32::from(code(i)) * scale(i));
            }
        }
    }

    /// `(outputs, inputs)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.o, self.i)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let (Scales::Rows(scales) | Scales::Groups(scales)) = &self.scales;
        size_of_val(&self.lines[..]) + size_of_val(&scales[..])
    }
}

/// `(o, i)` of a matrix with `o` rows.
fn shape(codes: &[i8], o: usize) -> (usize, usize) {
    let i = codes.len().checked_div(o).unwrap_or(0);
    assert_eq!(codes.len(), o * i);
    (o, i)
}

/// The first output and the number of each line: panel by panel, and in a panel by inputs.
fn halves(o: usize, lines: usize) -> impl Iterator<Item = (usize, usize)> {
    let of_panel = move |first: usize| (0..lines).flat_map(move |k| [(first, k), (first + IN_LINE, k)]);
    (0..o).step_by(WIDTH).flat_map(of_panel)
}

/// Rows of an input, rounded to 16 bits.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Channels of a row.
    i: usize,
    /// Integers of a row, a whole number of groups.
    stride: usize,
    integers: Vec<i16>,
    scales: Vec<f32>,
    /// The sum of each group.
    sums: Vec<i32>,
}

impl Inputs {
    /// Rounds `x (n, i)`, replacing what was there.
    pub fn round(&mut self, isa: Isa, x: &[f32], i: usize) {
        let n = x.len() / i;
        assert!(x.len() == n * i && i > 0);
        let groups = i.div_ceil(GROUP);
        let stride = groups * GROUP;
        (self.i, self.stride) = (i, stride);
        self.integers.clear();
        self.integers.resize(n * stride, 0);
        self.scales.resize(n, 0.0);
        self.sums.resize(n * groups, 0);
        let Inputs { integers, scales, sums, .. } = self;
        isa.run(
            #[inline(always)]
            || {
                let rows = integers.chunks_exact_mut(stride).zip(x.chunks_exact(i));
                for ((integers, x), (scale, sums)) in rows.zip(scales.iter_mut().zip(sums.chunks_exact_mut(groups))) {
                    *scale = round_row(integers, x);
                    for (sum, group) in sums.iter_mut().zip(integers.as_chunks::<GROUP>().0) {
                        *sum = group.iter().map(|&x| i32::from(x)).sum();
                    }
                }
            },
        );
    }

    /// All rows.
    pub fn all(&self) -> Rows<'_> {
        Rows { of: self, rows: 0..self.scales.len() }
    }
}

/// Rounds a row; returns its scale, which is NaN if one of its numbers is not finite.
#[inline(always)]
fn round_row(to: &mut [i16], x: &[f32]) -> f32 {
    let mut largest = [0.0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    // Infinities and NaN times 0 are NaN, and the sum keeps it.
    let mut wrong = [0.0f32; 16];
    for chunk in chunks {
        for lane in 0..16 {
            let x = chunk[lane].abs();
            largest[lane] = if x > largest[lane] { x } else { largest[lane] };
            wrong[lane] += chunk[lane] * 0.0;
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        largest[lane] = if x.abs() > largest[lane] { x.abs() } else { largest[lane] };
        wrong[lane] += x * 0.0;
    }
    let (mut most, mut nan) = (0.0f32, 0.0f32);
    for lane in 0..16 {
        most = if largest[lane] > most { largest[lane] } else { most };
        nan += wrong[lane];
    }
    let inverse = LARGEST / most;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    for (to, x) in to.iter_mut().zip(x) {
        *to = nearest(x * inverse) as i16;
    }
    most / LARGEST + nan
}

/// The nearest integer, ties to even, in range.
#[inline(always)]
fn nearest(x: f32) -> i32 {
    // Adding 1.5 * 2^23 rounds, and leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > LARGEST { LARGEST } else { x };
    let x = if x < -LARGEST { -LARGEST } else { x };
    (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// Some rows of [`Inputs`].
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    of: &'a Inputs,
    rows: Range<usize>,
}

impl Rows<'_> {
    /// These of them.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let first = self.rows.start;
        assert!(rows.end <= self.rows.len());
        Rows { of: self.of, rows: first + rows.start..first + rows.end }
    }

    fn integers(&self, row: usize) -> &[i16] {
        &self.of.integers[row * self.of.stride..][..self.of.stride]
    }

    fn sums(&self, row: usize) -> &[i32] {
        let groups = self.of.stride / GROUP;
        &self.of.sums[row * groups..][..groups]
    }
}

/// Some outputs of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// The weights of all outputs.
    pub panels: &'a Panels,
    /// The biases of all outputs, if there are any.
    pub bias: Option<&'a [f32]>,
    /// The first of these outputs, a multiple of [`WIDTH`].
    pub first: usize,
}

/// `C = X W^T + bias` for as many of these outputs as C has columns. Then `epilogue` is applied to C.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(isa: Isa, c: MatMut, x: &Rows, w: Outputs, epilogue: Option<Epilogue>) {
    product_in(vectors(isa), c, x, w, epilogue);
}

/// The same with these vectors.
fn product_in(vectors: IntLanes, mut c: MatMut, x: &Rows, w: Outputs, epilogue: Option<Epilogue>) {
    let Outputs { panels, bias, first } = w;
    let (rows, cols) = (c.rows, c.cols);
    assert!(rows == x.rows.len() && first.is_multiple_of(WIDTH) && first + cols <= panels.o && panels.i == x.of.i);
    assert!(bias.is_none_or(|bias| bias.len() == panels.o));
    let mut out = Out { c: &mut c, w };
    match vectors {
        IntLanes::Portable(lanes) => all_panels(lanes, &mut out, x),
        #[cfg(target_arch = "x86_64")]
        IntLanes::Avx2(lanes) => all_panels(lanes, &mut out, x),
        #[cfg(target_arch = "x86_64")]
        IntLanes::Avx512(lanes) => all_panels(lanes, &mut out, x),
        #[cfg(target_arch = "x86_64")]
        IntLanes::Vnni(lanes) => all_panels(lanes, &mut out, x),
    }
    if let Some(epilogue) = epilogue {
        epilogue(c.strip(0..rows, 0..cols));
    }
}

/// Where the results go.
struct Out<'a, 'b> {
    c: &'a mut MatMut<'b>,
    /// The outputs that are its columns.
    w: Outputs<'a>,
}

impl Out<'_, '_> {
    /// Scales a row's sums of a panel, adds the bias and writes them.
    #[inline(always)]
    fn put(&mut self, row: usize, panel: usize, sums: &[f32; WIDTH], scales: Option<&[f32]>, x_scale: f32) {
        let at = panel * WIDTH - self.w.first;
        let cols = at..self.c.cols.min(at + WIDTH);
        for (_, to) in self.c.strip(row..row + 1, cols).iter_mut() {
            match scales {
                Some(scales) => {
                    to.iter_mut().zip(sums).zip(scales).for_each(|((to, sum), scale)| *to = sum * scale * x_scale);
                }
                None => to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum * x_scale),
            }
            if let Some(bias) = self.w.bias {
                to.iter_mut().zip(&bias[panel * WIDTH..]).for_each(|(to, bias)| *to += bias);
            }
        }
    }
}

/// All panels that the columns are in, one after another: each stays in a near cache for all rows.
fn all_panels<L: Lanes>(lanes: L, out: &mut Out, x: &Rows) {
    let w = out.w.panels;
    let lines = 2 * match w.scales {
        Scales::Rows(_) => w.i.div_ceil(2),
        Scales::Groups(_) => w.i.div_ceil(GROUP) * GROUP / 4,
    };
    let (begin, end) = (out.w.first / WIDTH, (out.w.first + out.c.cols).div_ceil(WIDTH));
    for panel in begin..end {
        let panel = Panel { number: panel, codes: &w.lines[panel * lines..][..lines] };
        let mut row = 0;
        while row < x.rows.len() {
            let left = (x.rows.len() - row).min(L::ROWS);
            match left {
                4.. if L::ROWS >= 4 => tile::<L, 4>(lanes, out, x, &panel, row),
                2.. if L::ROWS >= 2 => tile::<L, 2>(lanes, out, x, &panel, row),
                _ => tile::<L, 1>(lanes, out, x, &panel, row),
            }
            row += if left >= 4 { 4 } else { left.min(2) };
        }
    }
}

/// A panel of weights.
struct Panel<'a> {
    number: usize,
    codes: &'a [Line],
}

/// `ROWS` rows from `row` on times a panel. A function of its own: with all of them in one, there would be too few registers.
#[inline(never)]
fn tile<L: Lanes, const ROWS: usize>(lanes: L, out: &mut Out, x: &Rows, panel: &Panel, row: usize) {
    lanes.compiled(
        #[inline(always)]
        || {
            let (w, first, &Panel { number, codes }) = (out.w.panels, x.rows.start + row, panel);
            let integers: [&[i16]; ROWS] = std::array::from_fn(|r| x.integers(first + r));
            let mut sums = [[0.0f32; WIDTH]; ROWS];
            let scales = match &w.scales {
                Scales::Rows(scales) => {
                    eight(lanes, &mut sums, integers, codes);
                    Some(&scales[number * WIDTH..][..WIDTH])
                }
                Scales::Groups(scales) => {
                    let groups = w.i.div_ceil(GROUP);
                    let scales = &scales[number * groups * WIDTH..][..groups * WIDTH];
                    let of_groups: [&[i32]; ROWS] = std::array::from_fn(|r| x.sums(first + r));
                    four(lanes, &mut sums, integers, of_groups, codes, scales);
                    None
                }
            };
            for (r, sums) in sums.iter().enumerate() {
                out.put(row + r, number, sums, scales, x.of.scales[first + r]);
            }
        },
    );
}

/// Asks for the weights that are needed soon: with a single row they come from far away.
#[inline(always)]
fn ahead(lines: &[Line; 2]) {
    const LINES: usize = 96;
    let at = lines.as_ptr().wrapping_add(LINES).cast();
    prefetch(at);
    prefetch(at.wrapping_add(size_of::<Line>() / size_of::<f32>()));
}

/// Two neighbouring inputs in a lane.
#[inline(always)]
fn pair(x: &[i16], at: usize) -> i32 {
    i32::from(x[at] as u16) | i32::from(x[at + 1]) << 16
}

/// The sums of a panel of eight bits.
#[inline(always)]
fn eight<L: Lanes, const ROWS: usize>(lanes: L, sums: &mut [[f32; WIDTH]; ROWS], x: [&[i16]; ROWS], codes: &[Line]) {
    for part in 0..WIDTH / (VECTORS * L::LANES) {
        let first = part * VECTORS * L::LANES;
        for (block, codes) in codes.chunks(BLOCK).enumerate() {
            let mut acc = [[lanes.splat(0); VECTORS]; ROWS];
            for (k, lines) in codes.as_chunks::<2>().0.iter().enumerate() {
                if ROWS == 1 {
                    ahead(lines);
                }
                let mut w = [lanes.splat(0); VECTORS];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = lanes.eight(lines, first + v * L::LANES);
                }
                for r in 0..ROWS {
                    let x = lanes.splat(pair(x[r], block * BLOCK + 2 * k));
                    for v in 0..VECTORS {
                        acc[r][v] = lanes.multiply_add(acc[r][v], w[v], x);
                    }
                }
            }
            for (sums, acc) in sums.iter_mut().zip(&acc) {
                sums[first..].chunks_exact_mut(L::LANES).zip(acc).for_each(|(to, acc)| lanes.add_to(to, *acc));
            }
        }
    }
}

/// The sums of a panel of four bits. The codes are stored as 0 to 15, which is 8 too many.
#[inline(always)]
fn four<L: Lanes, const ROWS: usize>(
    lanes: L,
    sums: &mut [[f32; WIDTH]; ROWS],
    x: [&[i16]; ROWS],
    of_groups: [&[i32]; ROWS],
    codes: &[Line],
    scales: &[f32],
) {
    const LINES: usize = GROUP / 2;
    for part in 0..WIDTH / (VECTORS * L::LANES) {
        let first = part * VECTORS * L::LANES;
        let groups = codes.as_chunks::<LINES>().0.iter().zip(scales.as_chunks::<WIDTH>().0);
        for (group, (codes, scales)) in groups.enumerate() {
            let mut acc = [[lanes.splat(0); VECTORS]; ROWS];
            for r in 0..ROWS {
                acc[r] = [lanes.splat(-8 * of_groups[r][group]); VECTORS];
            }
            for (k, lines) in codes.as_chunks::<2>().0.iter().enumerate() {
                if ROWS == 1 {
                    ahead(lines);
                }
                let mut w = [[lanes.splat(0); 2]; VECTORS];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = lanes.four(lines, first + v * L::LANES);
                }
                for r in 0..ROWS {
                    let at = group * GROUP + 4 * k;
                    let (low, high) = (lanes.splat(pair(x[r], at)), lanes.splat(pair(x[r], at + 2)));
                    for v in 0..VECTORS {
                        acc[r][v] = lanes.multiply_add(acc[r][v], w[v][0], low);
                        acc[r][v] = lanes.multiply_add(acc[r][v], w[v][1], high);
                    }
                }
            }
            for (sums, acc) in sums.iter_mut().zip(&acc) {
                let scales = scales[first..].chunks_exact(L::LANES);
                for ((to, acc), scale) in sums[first..].chunks_exact_mut(L::LANES).zip(acc).zip(scales) {
                    lanes.add_scaled_to(to, *acc, lanes.floats(scale));
                }
            }
        }
    }
}

/// The vectors of an instruction set.
#[derive(Clone, Copy, Debug)]
enum IntLanes {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX-512 with its instructions for neural networks.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
}

/// The best vectors of an instruction set.
fn vectors(isa: Isa) -> IntLanes {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = isa.avx512() {
        return Vnni::try_new(simd).map_or(IntLanes::Avx512(Avx512(simd)), IntLanes::Vnni);
    } else if let Some(simd) = isa.avx2() {
        return IntLanes::Avx2(Avx2(simd));
    }
    let _ = isa;
    IntLanes::Portable(Portable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integers from `-half` to `half`, without a pattern.
    fn integers(len: usize, half: i64, seed: u64) -> Vec<i64> {
        let mix = |x: u64| (x ^ x >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        (0..len as u64).map(|i| mix(mix(i + 1) + seed) as i64 % (2 * half + 1) - half).collect()
    }

    fn floats(len: usize, seed: u64) -> Vec<f32> {
        integers(len, 1 << 20, seed).into_iter().map(|x| x as f32 * 3e-6).collect()
    }

    /// The product by its definition, with exact sums.
    fn defined(
        x: &[f32],
        (o, i): (usize, usize),
        codes: &[i8],
        scales: &[f32],
        width: usize,
        bias: &[f32],
    ) -> Vec<f32> {
        let mut y = Vec::new();
        for x in x.chunks_exact(i) {
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let inverse = if most == 0.0 { 0.0 } else { 32767.0 / most };
            let rounded: Vec<i64> = x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect();
            for out in 0..o {
                let codes = &codes[out * i..][..i];
                let sum = |at: Range<usize>| at.map(|at| i64::from(codes[at]) * rounded[at]).sum::<i64>() as f32;
                let blocks = (0..i).step_by(width).map(|at| (at / width, sum(at..i.min(at + width))));
                let mut total = 0.0;
                if width == GROUP {
                    let groups = i.div_ceil(GROUP);
                    blocks.for_each(|(group, sum)| total += sum * scales[out * groups + group]);
                } else {
                    blocks.for_each(|(_, sum)| total += sum);
                    total *= scales[out];
                }
                y.push(total * (most / 32767.0) + bias[out]);
            }
        }
        y
    }

    #[test]
    fn every_isa_has_the_bits_of_the_definition() {
        for (o, i) in [(1, 1), (3, 5), (64, 64), (65, 33), (192, 31), (130, 1100), (70, 512), (200, 513)] {
            for n in [1, 2, 3, 4, 5, 9] {
                let (mut x, bias) = (floats(n * i, 1), floats(o, 2));
                // A row of zeros has no scale.
                if n == 3 {
                    x[..i].fill(0.0);
                }
                let groups = i.div_ceil(GROUP);
                let (of_rows, of_groups) = (floats(o, 3), floats(o * groups, 4));
                let eight: Vec<i8> = integers(o * i, 127, 5).into_iter().map(|x| x as i8).collect();
                let four: Vec<i8> = integers(o * i, 7, 6).into_iter().map(|x| x as i8 - (x == 0) as i8 * 8).collect();
                for (panels, codes, scales, width) in [
                    (Panels::of_rows(&eight, &of_rows), &eight, &of_rows, BLOCK),
                    (Panels::of_groups(&four, o, &of_groups), &four, &of_groups, GROUP),
                ] {
                    let want = defined(&x, (o, i), codes, scales, width, &bias);
                    for (isa, vectors) in all_vectors() {
                        let (mut inputs, mut y) = (Inputs::default(), vec![9.0; n * o]);
                        inputs.round(isa, &x, i);
                        for (rows, cols, c) in MatMut::new(&mut y, n, o).blocks(2, 2 * WIDTH) {
                            let w = Outputs { panels: &panels, bias: Some(&bias), first: cols.start };
                            product_in(vectors, c, &inputs.all().part(rows), w, None);
                        }
                        let same = y.iter().zip(&want).all(|(y, want)| y.to_bits() == want.to_bits());
                        assert!(same, "{vectors:?} {n} x {o} x {i}, {width}");
                    }
                    let mut row = vec![0.0; i];
                    for out in 0..o {
                        panels.row(out, &mut row);
                        let scale =
                            |at: usize| if width == GROUP { scales[out * groups + at / GROUP] } else { scales[out] };
                        let fits = |(at, x): (usize, &f32)| *x == f32::from(codes[out * i + at]) * scale(at);
                        assert!(row.iter().enumerate().all(fits));
                    }
                }
            }
        }
    }

    /// All vectors that this processor has, with an instruction set that has them.
    fn all_vectors() -> Vec<(Isa, IntLanes)> {
        let mut all: Vec<_> = Isa::available().into_iter().map(|isa| (isa, vectors(isa))).collect();
        // Of a processor without VNNI.
        #[cfg(target_arch = "x86_64")]
        all.extend(Isa::available().into_iter().filter_map(|isa| Some((isa, IntLanes::Avx512(Avx512(isa.avx512()?))))));
        all
    }

    #[test]
    fn the_largest_sums_fit_and_what_is_not_finite_stays_so() {
        let i = 2 * BLOCK;
        let eight = (Panels::of_rows(&vec![-127; i], &[1.0]), -127.0);
        let four = (Panels::of_groups(&vec![-8; i], 1, &vec![1.0; i / GROUP]), -8.0);
        for ((isa, vectors), (panels, code)) in all_vectors().into_iter().flat_map(|of| [(of, &eight), (of, &four)]) {
            let of = |x: &[f32]| {
                let (mut inputs, mut y) = (Inputs::default(), [0.0]);
                inputs.round(isa, x, i);
                let w = Outputs { panels, bias: None, first: 0 };
                product_in(vectors, MatMut::new(&mut y, 1, 1), &inputs.all(), w, None);
                y[0]
            };
            assert_eq!(of(&vec![2.0; i]), code * 2.0 * i as f32);
            assert_eq!(of(&vec![-2.0; i]), code * -2.0 * i as f32);
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 20, i - 1] {
                    let mut x = vec![1.0; i];
                    x[at] = wrong;
                    assert!(of(&x).is_nan(), "{wrong} {at}");
                }
            }
        }
    }
}
