//! Numbers of the library as numpy's arrays, without copies where they stay where they are.
// The only unsafe code of this crate.
#![allow(unsafe_code)]

use crate::model::Model;
use numpy::{PyArray1, PyArrayMethods, ndarray::ArrayView1};
use pyo3::prelude::*;

/// The weights of a model: its own memory, read-only, which the array keeps alive. `None` if some of them are in few bits.
pub(crate) fn weights<'py>(model: &Bound<'py, Model>) -> Option<Bound<'py, PyArray1<f32>>> {
    let weights = model.get().library().weights()?;
    // SAFETY: `model` becomes the array's base, so that it lives as long as the array. It is frozen and owns the library's model,
    // whose weights are behind an `Arc` that nothing takes out, are never moved and are never written while it lives. No array
    // can write them either: this one is made read-only before anybody else has it.
    let array = unsafe { PyArray1::borrow_from_array(&ArrayView1::from(weights), model.clone().into_any()) };
    array.readwrite().make_nonwriteable();
    Some(array)
}
