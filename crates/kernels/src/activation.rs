//! The MLP's non-linearity, element by element.

use crate::{Isa, math};

/// Which non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x * Phi(x)` with the normal distribution's `Phi` (Hendrycks, Gimpel 2016); PyTorch's `GELU()`.
    Gelu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`; GPT-2's approximation of the same.
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

/// max(x, 0), but a NaN comes through. (Choosing would become a masked store, which is slow.)
#[inline(always)]
fn relu(x: f32) -> f32 {
    0.5 * (x + x.abs())
}

/// `dx *= act'(x)` (n elements): on entry `dx` holds the gradient of the output, on return that of the input. For
/// ReLU, `x` may as well be the output.
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

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    math::tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))
}
