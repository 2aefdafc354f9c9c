//! The comparison all numerical tests use.
#![allow(dead_code, reason = "each test program uses a part of it")]

/// Asserts that `got` agrees with `want`: `|got - want| <= rtol * (|want| + rms(want))` for every element. The second
/// term forgives cancellation in elements much smaller than their neighbours; a whole tensor of zeros is not forgiven.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f64], want: &[f64], rtol: f64) {
    if let Err(message) = close(got, want, rtol) {
        panic!("{what}: {message}");
    }
}

pub(crate) fn close(got: &[f64], want: &[f64], rtol: f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, want {}", got.len(), want.len()));
    }
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len().max(1) as f64).sqrt();
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let distance = (g - w).abs();
        if distance.is_nan() || distance > rtol * (w.abs() + rms) {
            return Err(format!("element {i} of {} is {g}, want {w} (rms {rms:.3e})", want.len()));
        }
    }
    Ok(())
}

pub(crate) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
