//! The peak throughput of one core: the yardstick for every other number.

use crate::isa::{Isa, Kernel, Vectors};
use std::time::Instant;

/// GFLOP/s of fused multiply-adds that never leave the registers, on the calling thread, measured for about `seconds`.
/// (For portable code, this measures what the compiler makes of it.)
pub fn fma_gflops(isa: Isa, seconds: f64) -> f64 {
    let (start, mut flops) = (Instant::now(), 0.0);
    while start.elapsed().as_secs_f64() < seconds {
        flops += isa.run_generic(Burst);
    }
    flops / start.elapsed().as_secs_f64() * 1e-9
}

/// A fraction of a millisecond of multiply-adds; returns how many floating-point operations those were.
struct Burst;

impl Kernel for Burst {
    type Output = f64;

    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) -> f64 {
        // Enough independent sums to hide the latency of an FMA on two ports.
        const SUMS: usize = 12;
        const ROUNDS: usize = 10_000;
        // The lanes of portable code are up to the compiler.
        const WIDTH: usize = 8;
        if S::F32_LANES == 1 {
            let mut acc = [[0.0f32; WIDTH]; SUMS];
            let (a, b) = (std::hint::black_box([0.999f32; WIDTH]), std::hint::black_box([1.001f32; WIDTH]));
            for _ in 0..ROUNDS {
                for acc in &mut acc {
                    for lane in 0..WIDTH {
                        acc[lane] += a[lane] * b[lane];
                    }
                }
                std::hint::black_box(&mut acc);
            }
            return (2 * SUMS * ROUNDS * WIDTH) as f64;
        }
        let (a, b) = (simd.splat_f32s(0.999), simd.splat_f32s(1.001));
        let mut acc = [simd.splat_f32s(0.0); SUMS];
        for _ in 0..ROUNDS {
            for acc in &mut acc {
                *acc = simd.mul_add_e_f32s(a, b, *acc);
            }
        }
        std::hint::black_box(acc);
        (2 * SUMS * ROUNDS * S::F32_LANES) as f64
    }
}
