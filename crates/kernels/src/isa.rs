//! Which instruction set a kernel runs on: detected once, at run time, and passed in by the caller.

use pulp::{Simd, WithSimd};

/// An instruction set that this processor has. Values come only from [`Isa::available`] and its callers, so
/// holding one is the proof that its instructions may be executed.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Token);

#[derive(Clone, Copy, Debug)]
enum Token {
    /// Portable code for the compilation target's baseline.
    Scalar,
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
        found.push(Isa(Token::Scalar));
        found
    }

    /// The fastest instruction set this processor has.
    pub fn detect() -> Isa {
        Isa::available()[0]
    }

    /// `avx512`, `avx2`, `neon` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
        }
    }

    /// AVX-512's vectors, if this is it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn avx512(self) -> Option<pulp::x86::V4> {
        match self.0 {
            Token::Avx512(simd) => Some(simd),
            _ => None,
        }
    }

    /// Compiles `kernel` for this instruction set and runs it. Only what is inlined into the closure is compiled that
    /// way, so write it `#[inline(always)] || ...`. (The bound makes the compiler give the closure itself the
    /// inlined body; through [`WithSimd`] alone it would be called by way of a function that is not inlined.)
    #[inline(always)]
    pub(crate) fn run<R>(self, kernel: impl FnOnce() -> R) -> R {
        self.run_generic(kernel)
    }

    /// The same for an operation that is generic over the vector type.
    #[inline(always)]
    pub(crate) fn run_generic<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self.0 {
            Token::Scalar => pulp::Scalar.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(simd) => Simd::vectorize(simd, op),
        }
    }
}
