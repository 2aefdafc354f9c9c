//! The MLP's non-linearity: element by element, or on pairs of elements if it has a gate.

use crate::{isa::Isa, math};

/// Which non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2` (So et al. 2021)
    ReluSquared,
    /// `x * Phi(x)` with the normal distribution's `Phi` (Hendrycks, Gimpel 2016); PyTorch's `GELU()`.
    Gelu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`; GPT-2's approximation of GELU.
    GeluTanh,
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `y = act(x)` (n elements).
pub fn forward(isa: Isa, act: Activation, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len());
    #[inline(always)]
    fn each(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x);
        }
    }
    match act {
        Activation::Relu => isa.run(
            #[inline(always)]
            || each(y, x, relu),
        ),
        Activation::ReluSquared => isa.run(
            #[inline(always)]
            || each(y, x, |x| relu(x) * relu(x)),
        ),
        Activation::Gelu => isa.run(
            #[inline(always)]
            || each(y, x, |x| x * normal_cdf(x)),
        ),
        Activation::GeluTanh => isa.run(
            #[inline(always)]
            || each(y, x, |x| 0.5 * x * (1.0 + gelu_tanh(x))),
        ),
    }
}

/// `x = max(x, 0)` (n elements).
pub fn relu_in_place(isa: Isa, x: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || x.iter_mut().for_each(|x| *x = relu(*x)),
    );
}

/// `x = max(x, 0)^2` (n elements).
pub fn relu_squared_in_place(isa: Isa, x: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || x.iter_mut().for_each(|x| *x = relu(*x) * relu(*x)),
    );
}

/// max(x, 0), but a NaN stays NaN. (A conditional would compile to a masked store, which is slow.)
#[inline(always)]
fn relu(x: f32) -> f32 {
    0.5 * (x + x.abs())
}

/// `dx *= act'(x)` (n elements): on entry `dx` holds the gradient of the output, on return that of the input. For ReLU,
/// `x` may also be the output; for its square it must be.
pub fn backward(isa: Isa, act: Activation, dx: &mut [f32], x: &[f32]) {
    assert_eq!(dx.len(), x.len());
    #[inline(always)]
    fn each(dx: &mut [f32], x: &[f32], derivative: impl Fn(f32) -> f32) {
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx *= derivative(x);
        }
    }
    match act {
        Activation::Relu => isa.run(
            #[inline(always)]
            || {
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx *= if x > 0.0 { 1.0 } else { 0.0 };
                }
            },
        ),
        // y = x^2 where x is positive, so that 2x = 2 sqrt(y)
        Activation::ReluSquared => isa.run(
            #[inline(always)]
            || each(dx, x, |y| 2.0 * y.sqrt()),
        ),
        // d/dx [x Phi(x)] = Phi(x) + x phi(x)
        Activation::Gelu => isa.run(
            #[inline(always)]
            || {
                each(dx, x, |x| normal_cdf(x) + x * 0.398_942_3 * math::exp(-0.5 * x * x));
            },
        ),
        // d/dx [x/2 (1 + tanh u)] = (1 + tanh u)/2 + x/2 (1 - tanh^2 u) u'
        Activation::GeluTanh => isa.run(
            #[inline(always)]
            || {
                each(dx, x, |x| {
                    let tanh = gelu_tanh(x);
                    let du = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
                    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * du
                });
            },
        ),
    }
}

/// SwiGLU (Shazeer 2020): `y (n, h) = silu(gate) * up` with `silu(x) = x sigmoid(x)`; each row of `z (n, 2h)` is a row
/// of `gate` followed by a row of `up`.
pub fn swiglu(isa: Isa, y: &mut [f32], z: &[f32], h: usize) {
    assert_eq!(2 * y.len(), z.len());
    isa.run(
        #[inline(always)]
        || {
            for (y, z) in y.chunks_exact_mut(h).zip(z.chunks_exact(2 * h)) {
                let (gate, up) = z.split_at(h);
                for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                    *y = gate * sigmoid(gate) * up;
                }
            }
        },
    );
}

/// `dz (n, 2h)` from `dy (n, h)` and `z` as in [`swiglu`], with `s = sigmoid(gate)`:
/// `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`.
pub fn swiglu_backward(isa: Isa, dz: &mut [f32], dy: &[f32], z: &[f32], h: usize) {
    assert!(2 * dy.len() == z.len() && dz.len() == z.len());
    isa.run(
        #[inline(always)]
        || {
            for ((dz, dy), z) in dz.chunks_exact_mut(2 * h).zip(dy.chunks_exact(h)).zip(z.chunks_exact(2 * h)) {
                let ((dgate, dup), (gate, up)) = (dz.split_at_mut(h), z.split_at(h));
                for ((((dgate, dup), &dy), &gate), &up) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
                    let s = sigmoid(gate);
                    *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
                    *dup = dy * gate * s;
                }
            }
        },
    );
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))
}
