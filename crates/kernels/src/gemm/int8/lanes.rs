//! Vectors of integers: what a kernel needs of them, and plain loops that the compiler makes vectors of.

/// A cache line of weights: two neighbouring inputs of each of 32 outputs or, in four bits, four of them, the first two in the
/// low halves of the bytes.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

/// Outputs in a line.
pub(super) const IN_LINE: usize = 32;

/// Vectors of 32-bit integers, one output in each lane.
pub(super) trait Lanes: Copy {
    /// 32-bit integers, or pairs of 16 bits.
    type Ints: Copy;
    /// As many floats.
    type Floats: Copy;
    /// How many.
    const LANES: usize;
    /// Rows that a kernel computes at once.
    const ROWS: usize;

    /// Compiles `kernel` for these vectors and runs it.
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R;
    fn splat(self, x: i32) -> Self::Ints;
    /// Pairs of weights of eight bits, of output number `at` of these lines and those after it.
    fn eight(self, lines: &[Line; 2], at: usize) -> Self::Ints;
    /// Two pairs of weights of four bits.
    fn four(self, lines: &[Line; 2], at: usize) -> [Self::Ints; 2];
    /// `acc + w[0] x[0] + w[1] x[1]` in each lane.
    fn multiply_add(self, acc: Self::Ints, w: Self::Ints, x: Self::Ints) -> Self::Ints;
    fn floats(self, from: &[f32]) -> Self::Floats;
    /// `to += x`.
    fn add_to(self, to: &mut [f32], x: Self::Ints);
    /// `to += x scale`, rounded twice.
    fn add_scaled_to(self, to: &mut [f32], x: Self::Ints, scale: Self::Floats);
}

/// Bytes of the weights of output `at` and those after it.
#[inline(always)]
pub(super) fn bytes<const N: usize>(lines: &[Line; 2], at: usize) -> &[u8; N] {
    lines[at / IN_LINE].0[2 * (at % IN_LINE)..].first_chunk().expect("a vector lies in a line")
}

/// What the compiler makes of plain loops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

impl Lanes for Portable {
    type Ints = [i32; 8];
    type Floats = [f32; 8];
    const LANES: usize = 8;
    const ROWS: usize = 1;

    #[inline(always)]
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R {
        kernel()
    }

    #[inline(always)]
    fn splat(self, x: i32) -> [i32; 8] {
        [x; 8]
    }

    #[inline(always)]
    fn eight(self, lines: &[Line; 2], at: usize) -> [i32; 8] {
        let bytes = bytes::<16>(lines, at);
        let mut pairs = [0; 8];
        for lane in 0..8 {
            let [low, high] = [bytes[2 * lane], bytes[2 * lane + 1]].map(|byte| i32::from(byte as i8));
            pairs[lane] = low & 0xffff | high << 16;
        }
        pairs
    }

    #[inline(always)]
    fn four(self, lines: &[Line; 2], at: usize) -> [[i32; 8]; 2] {
        let bytes = bytes::<16>(lines, at);
        let mut pairs = [[0; 8]; 2];
        for lane in 0..8 {
            let [first, second] = [bytes[2 * lane], bytes[2 * lane + 1]].map(i32::from);
            pairs[0][lane] = first & 15 | (second & 15) << 16;
            pairs[1][lane] = first >> 4 | (second >> 4) << 16;
        }
        pairs
    }

    #[inline(always)]
    fn multiply_add(self, mut acc: [i32; 8], w: [i32; 8], x: [i32; 8]) -> [i32; 8] {
        for lane in 0..8 {
            let low = i32::from(w[lane] as i16) * i32::from(x[lane] as i16);
            acc[lane] += low + (w[lane] >> 16) * (x[lane] >> 16);
        }
        acc
    }

    #[inline(always)]
    fn floats(self, from: &[f32]) -> [f32; 8] {
        *from.first_chunk().expect("a vector")
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32], x: [i32; 8]) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += x as f32);
    }

    #[inline(always)]
    fn add_scaled_to(self, to: &mut [f32], x: [i32; 8], scale: [f32; 8]) {
        to.iter_mut().zip(x).zip(scale).for_each(|((to, x), scale)| *to += x as f32 * scale);
    }
}
