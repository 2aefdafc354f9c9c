//! Which instruction set a kernel runs on: detected once, at run time, and passed in by the caller.

use pulp::Simd;

/// An instruction set that this processor has. Values come only from [`Isa::available`] and its callers, so
/// holding one is the proof that its instructions may be executed.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Token);

#[derive(Clone, Copy, Debug)]
enum Token {
    /// Portable code for the compilation target's baseline. The others round `a b + c` once; this one does only if `fused`,
    /// which takes long where the processor cannot.
    Scalar { fused: bool },
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Isa {
    /// Every instruction set this processor can run, the fastest first; the last is always `scalar`.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(pulp::x86::V4::try_new().map(|simd| Isa(Token::Avx512(simd))));
            found.extend(pulp::x86::V3::try_new().map(|simd| Isa(Token::Avx2(simd))));
        }
        #[cfg(target_arch = "aarch64")]
        found.extend(pulp::aarch64::Neon::try_new().map(|simd| Isa(Token::Neon(simd))));
        found.push(Isa(Token::Scalar { fused: false }));
        found
    }

    /// The fastest instruction set this processor has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// `avx512`, `avx2`, `neon` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar { .. } => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
        }
    }

    /// The same instruction set with results that have the bits of all others, whatever that takes.
    pub fn fused(self) -> Isa {
        match self.0 {
            Token::Scalar { .. } => Isa(Token::Scalar { fused: true }),
            _ => self,
        }
    }

    /// Whether `a b + c` has to be rounded once.
    pub(crate) fn is_fused(self) -> bool {
        !matches!(self.0, Token::Scalar { fused: false })
    }

    /// The AVX2 token, if this is AVX2.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx2(self) -> Option<pulp::x86::V3> {
        match self.0 {
            Token::Avx2(simd) => Some(simd),
            _ => None,
        }
    }

    /// The AVX-512 token, if this is AVX-512.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512(self) -> Option<pulp::x86::V4> {
        match self.0 {
            Token::Avx512(simd) => Some(simd),
            _ => None,
        }
    }

    /// Compiles `kernel` for this instruction set and runs it. Only what is inlined into the closure is compiled that
    /// way, so write it `#[inline(always)] || ...`. (The bound makes the compiler give the closure itself the inlined
    /// body; through [`pulp::WithSimd`] alone it would be called through a function that is not inlined.)
    #[inline(always)]
    pub(crate) fn run<R>(self, kernel: impl FnOnce() -> R) -> R {
        match self.0 {
            Token::Scalar { .. } => pulp::Scalar.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => Simd::vectorize(simd, kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => Simd::vectorize(simd, kernel),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => Simd::vectorize(simd, kernel),
        }
    }

    /// The same for a kernel that is generic over the vector type.
    #[inline(always)]
    pub(crate) fn run_generic<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Token::Scalar { .. } => pulp::Scalar.compiled(
                #[inline(always)]
                || kernel.run(pulp::Scalar),
            ),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => simd.compiled(
                #[inline(always)]
                || kernel.run(simd),
            ),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.compiled(
                #[inline(always)]
                || kernel.run(simd),
            ),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => simd.compiled(
                #[inline(always)]
                || kernel.run(simd),
            ),
        }
    }
}

/// Code that is compiled for each vector type, and run with one of them.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// Runs it. Must be `#[inline(always)]`, like everything that it calls.
    fn run<S: Vectors>(self, simd: S) -> Self::Output;
}

/// The vector type of an instruction set that [`Isa`] knows, and no other type of [`pulp`]: holding a value is the
/// proof that the processor supports it.
pub(crate) trait Vectors: Simd {
    /// Rows of a tile: this many rows of [`Vectors::TILE_VECTORS`] vectors fit in the registers, together with one more
    /// row and a single vector.
    const TILE_ROWS: usize;
    /// Vectors in a row of a tile.
    const TILE_VECTORS: usize;
    /// Whether the processor has AVX.
    const AVX: bool;
    /// Whether the processor rounds `a b + c` once.
    const FUSES: bool;

    /// `a b + c`, rounded once if the processor does, or `fused` says that it has to be.
    #[inline(always)]
    fn mul_add(self, fused: bool, a: Self::f32s, b: Self::f32s, c: Self::f32s) -> Self::f32s {
        if fused && !Self::FUSES { self.mul_add_f32s(a, b, c) } else { self.mul_add_e_f32s(a, b, c) }
    }

    /// Runs `kernel` with the tile's size as constants.
    fn with_tile<K: TileKernel>(self, kernel: K) -> K::Output;

    /// Compiles `kernel` for these vectors and runs it, as [`Isa::run`] does.
    #[inline(always)]
    fn compiled<R>(self, kernel: impl FnOnce() -> R) -> R {
        self.vectorize(kernel)
    }
}

/// A [`Kernel`] that works on tiles.
pub(crate) trait TileKernel {
    /// What it returns.
    type Output;

    /// Runs it with [`Vectors::TILE_ROWS`] and [`Vectors::TILE_VECTORS`]. Must be `#[inline(always)]`, like everything
    /// that it calls.
    fn run<S: Vectors, const ROWS: usize, const VECTORS: usize>(self, simd: S) -> Self::Output;
}

/// Implements [`Vectors`] for a type, given the rows and vectors of a tile, whether there is AVX and whether `a b + c` is rounded
/// once.
macro_rules! vectors {
    ($type:ty, $rows:literal x $vectors:literal, $avx:literal, $fuses:literal) => {
        impl Vectors for $type {
            const TILE_ROWS: usize = $rows;
            const TILE_VECTORS: usize = $vectors;
            const AVX: bool = $avx;
            const FUSES: bool = $fuses;

            #[inline(always)]
            fn with_tile<K: TileKernel>(self, kernel: K) -> K::Output {
                kernel.run::<Self, $rows, $vectors>(self)
            }
        }
    };
}

// The compiler vectorises the eight columns.
vectors!(pulp::Scalar, 3 x 8, false, false);
// 12 + 2 + 1 of 16 registers.
#[cfg(target_arch = "x86_64")]
vectors!(pulp::x86::V3, 6 x 2, true, true);
// 24 + 4 + 1 of 32 registers.
#[cfg(target_arch = "x86_64")]
vectors!(pulp::x86::V4, 6 x 4, true, true);
// The same.
#[cfg(target_arch = "aarch64")]
vectors!(pulp::aarch64::Neon, 6 x 4, false, true);
