//! Weights as signed bytes with a scale for each row: `NAME.int8_weights` and `NAME.scales`, as the published small model
//! has them.

use super::foreign::{Dtype, Foreign, Tensor};
use crate::text::many;
use kinglet_core::error::{Error, Result};
use std::borrow::Cow;

const WEIGHTS: &str = ".int8_weights";
const SCALES: &str = ".scales";

/// Makes `NAME.weight` of each pair.
///
/// # Errors
/// If one of a pair is missing, or they do not fit together.
pub(super) fn join(foreign: &mut Foreign<'_>) -> Result<()> {
    let names: Vec<String> =
        foreign.tensors.keys().filter_map(|name| Some(name.strip_suffix(WEIGHTS)?.to_owned())).collect();
    for name in &names {
        let both =
            (foreign.tensors.remove(&(name.clone() + WEIGHTS)), foreign.tensors.remove(&(name.clone() + SCALES)));
        let (Some(weights), Some(scales)) = both else {
            return Err(Error::Data(format!("it has {name}{WEIGHTS}, but no {name}{SCALES}")));
        };
        let tensor = joined(name, weights, scales)?;
        if foreign.tensors.insert(format!("{name}.weight"), tensor).is_some() {
            return Err(Error::Data(format!("it has both {name}.weight and {name}{WEIGHTS}")));
        }
    }
    if let Some(name) = foreign.tensors.keys().find(|name| name.ends_with(SCALES)) {
        return Err(Error::Data(format!("it has {name}, but not the weights that it scales")));
    }
    if !names.is_empty() {
        let n = many(names.len() as u64, "weight is", "weights are");
        foreign.notes.push(format!("{n} int8 with a scale for each row, which is multiplied out"));
    }
    Ok(())
}

/// The product of a matrix (o, i) and its scales: one, or one for each row.
fn joined<'a>(name: &str, weights: Tensor<'a>, scales: Tensor<'a>) -> Result<Tensor<'a>> {
    let (shape, n) = (weights.shape.clone(), scales.len());
    let rows = shape.first().copied().unwrap_or(1);
    let fits = n == 1 || n == rows && scales.shape.iter().all(|&of| of == 1 || of == rows);
    let is_float = matches!(scales.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    if !fits || weights.dtype != Dtype::I8 || !is_float || rows == 0 {
        let (kind, of, scale) = (weights.dtype.name(), &scales.shape, scales.dtype.name());
        let what = format!(
            "{name}{WEIGHTS} is {kind} {shape:?} and {name}{SCALES} is {scale} {of:?}: not int8 with a scale for each row"
        );
        return Err(Error::Data(what));
    }
    Ok(Tensor::new(shape, Dtype::F32, move || {
        let (mut numbers, scales) = (weights.read()?.into_owned(), scales.read()?);
        let cols = numbers.len() / rows;
        for (row, numbers) in numbers.chunks_exact_mut(cols.max(1)).enumerate() {
            let scale = scales[if scales.len() == 1 { 0 } else { row }];
            numbers.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(Cow::Owned(numbers))
    }))
}

/// The tensors of a file, those in eight bits as such pairs.
pub(super) fn parted(foreign: Foreign<'_>) -> Foreign<'_> {
    let mut parted = Foreign { meta: foreign.meta, notes: foreign.notes, ..Foreign::default() };
    for (name, tensor) in foreign.tensors {
        let Some((module, matrix)) = name.strip_suffix(".weight").zip(tensor.rounded.as_ref()) else {
            parted.tensors.insert(name, tensor);
            continue;
        };
        let integers: Cow<[f32]> = matrix.codes().iter().map(|&code| f32::from(code)).collect::<Vec<_>>().into();
        let integers = Tensor::new(tensor.shape, Dtype::I8, move || Ok(integers.clone()));
        parted.tensors.insert(format!("{module}{WEIGHTS}"), integers);
        parted
            .tensors
            .insert(format!("{module}{SCALES}"), Tensor::of(vec![matrix.shape().0], matrix.scales().to_vec()));
    }
    parted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(tensors: &[(&str, Dtype, &[usize])]) -> Foreign<'static> {
        let mut foreign = Foreign::default();
        for (name, dtype, shape) in tensors {
            let n = shape.iter().product::<usize>();
            let numbers: Vec<f32> = (1..=n).map(|x| x as f32).collect();
            let tensor = Tensor::new(shape.to_vec(), *dtype, move || Ok(Cow::Owned(numbers.clone())));
            foreign.tensors.insert((*name).to_owned(), tensor);
        }
        foreign
    }

    #[test]
    fn each_row_has_its_scale() {
        for (scales, want) in
            [(&[2][..], [1.0, 2.0, 6.0, 8.0]), (&[2, 1], [1.0, 2.0, 6.0, 8.0]), (&[1], [1.0, 2.0, 3.0, 4.0])]
        {
            let mut file = foreign(&[("a.int8_weights", Dtype::I8, &[2, 2]), ("a.scales", Dtype::F32, scales)]);
            join(&mut file).unwrap();
            assert_eq!(*file.tensors["a.weight"].read().unwrap(), want);
            assert_eq!(file.tensors.len(), 1);
        }
    }

    #[test]
    fn half_a_pair_is_refused() {
        for (tensors, message) in [
            (&[("a.int8_weights", Dtype::I8, &[2, 2][..])][..], "it has a.int8_weights, but no a.scales"),
            (&[("a.scales", Dtype::F32, &[2])], "it has a.scales, but not the weights"),
            (&[("a.int8_weights", Dtype::I8, &[2, 2]), ("a.scales", Dtype::F32, &[4])], "not int8 with a scale"),
            (&[("a.int8_weights", Dtype::F32, &[2, 2]), ("a.scales", Dtype::F32, &[2])], "a.int8_weights is f32"),
            (&[("a.int8_weights", Dtype::I8, &[2, 2]), ("a.scales", Dtype::I32, &[2])], "a.scales is i32"),
            (
                &[("a.int8_weights", Dtype::I8, &[1]), ("a.scales", Dtype::F32, &[1]), ("a.weight", Dtype::F32, &[1])],
                "it has both",
            ),
        ] {
            let error = join(&mut foreign(tensors)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
