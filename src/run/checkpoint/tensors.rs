//! Tensors in a safetensors file: numbers, or matrices in few bits.

use super::rounded;
use kinglet_core::{
    config::Quantization,
    error::{Error, Result},
    params::Tensor,
    quant::Rounded,
};
use safetensors::{Dtype, tensor::Metadata};
use std::io::{self, Read, Seek};

/// Largest accepted safetensors header, in bytes.
const LONGEST_HEADER: u64 = 1 << 26;

/// Reads `tensors` of a layout from a safetensors file, where their names are prefixed with `prefix`, and passes the
/// values of each to `take`, one tensor at a time. Matrices in few bits are multiplied out, whichever they are.
///
/// # Errors
/// If it is not a safetensors file, or a tensor is missing or has another type or shape; `take` is not called then.
pub fn read_tensors(
    from: &mut (impl Read + Seek),
    tensors: &[&Tensor],
    prefix: &str,
    take: impl FnMut(&Tensor, &[f32]),
) -> Result<()> {
    read_numbers(from, tensors, prefix, None, take)
}

/// [`read_tensors`], where some may be in few bits as in [`read_weights`].
pub(super) fn read_numbers(
    from: &mut (impl Read + Seek),
    tensors: &[&Tensor],
    prefix: &str,
    few: Option<&[(usize, Quantization)]>,
    mut take: impl FnMut(&Tensor, &[f32]),
) -> Result<()> {
    let mut out = Vec::new();
    read_weights(from, tensors, prefix, few, |tensor, read| match read {
        Values::Numbers(numbers) => take(tensor, numbers),
        Values::Rounded(rounded) => {
            out.resize(tensor.span.len, 0.0);
            rounded.numbers(&mut out);
            take(tensor, &out);
        }
    })
}

/// What a file has of a tensor.
pub(super) enum Values<'a> {
    Numbers(&'a [f32]),
    Rounded(Rounded),
}

/// [`read_tensors`], where matrices of few bits stay so. Either none of the tensors is, or those are that `few` names by their
/// begin in the buffer, in its order; any may be if it is none.
pub(super) fn read_weights(
    from: &mut (impl Read + Seek),
    tensors: &[&Tensor],
    prefix: &str,
    few: Option<&[(usize, Quantization)]>,
    mut take: impl FnMut(&Tensor, Values),
) -> Result<()> {
    let damaged = |error: &dyn std::fmt::Display| Error::Data(format!("damaged: {error}"));
    let read = |from: &mut dyn Read, bytes: &mut [u8]| from.read_exact(bytes).map_err(|error| damaged(&error));
    let len = from.seek(io::SeekFrom::End(0)).and_then(|len| from.rewind().map(|()| len)).map_err(|e| damaged(&e))?;
    let mut size = [0; 8];
    read(from, &mut size)?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size > len {
        return Err(damaged(&format!("a header of {size} bytes")));
    }
    let mut header = vec![0; size as usize];
    read(from, &mut header)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(&error))?;
    // Look up all tensors before allocating memory for their values.
    let header = Header { header, data: 8 + size, len };
    let found: Vec<_> =
        tensors.iter().map(|tensor| Ok((*tensor, header.find(prefix, tensor)?))).collect::<Result<_>>()?;
    let is: Vec<_> = found.iter().filter_map(|(tensor, found)| Some((tensor.span.start, found.scheme()?))).collect();
    if few.is_some_and(|few| !is.is_empty() && is != few) {
        return Err(Error::Data("other weights are in few bits than the configuration says".into()));
    }
    let mut numbers = Vec::new();
    for (tensor, found) in found {
        match found {
            Found::Numbers(at) => {
                numbers.resize(tensor.span.len, 0.0f32);
                from.seek(io::SeekFrom::Start(at)).map_err(|error| damaged(&error))?;
                read(from, bytemuck::cast_slice_mut(&mut numbers))?;
                numbers.iter_mut().for_each(|x| *x = f32::from_bits(u32::from_le(x.to_bits())));
                take(tensor, Values::Numbers(&numbers));
            }
            Found::Rounded { scheme, codes, scales } => {
                let mut bytes = |(at, len): (u64, usize)| {
                    let mut bytes = vec![0; len];
                    from.seek(io::SeekFrom::Start(at)).map_err(|error| damaged(&error))?;
                    read(from, &mut bytes)?;
                    Ok(bytes)
                };
                let (codes, scales) = (bytes(codes)?, bytes(scales)?);
                let matrix = rounded::read(scheme, &tensor.shape, &codes, &scales);
                take(tensor, Values::Rounded(matrix.map_err(|error| damaged(&format!("{}: {error}", tensor.name)))?));
            }
        }
    }
    Ok(())
}

/// The header of a safetensors file, where its data begins, and how long the file is.
struct Header {
    header: Metadata,
    data: u64,
    len: u64,
}

/// Where a tensor's values are in a file.
enum Found {
    Numbers(u64),
    /// Begin and number of bytes of both.
    Rounded {
        scheme: Quantization,
        codes: (u64, usize),
        scales: (u64, usize),
    },
}

impl Found {
    /// In how many bits they are, if they are few.
    fn scheme(&self) -> Option<Quantization> {
        match self {
            Found::Numbers(_) => None,
            Found::Rounded { scheme, .. } => Some(*scheme),
        }
    }
}

impl Header {
    fn find(&self, prefix: &str, tensor: &Tensor) -> Result<Found> {
        let name = format!("{prefix}{}", tensor.name);
        let codes = rounded::codes_name(&name);
        let Some(integers) = self.header.info(&codes) else {
            return Ok(Found::Numbers(self.place(&name, Dtype::F32, &tensor.shape)?.0));
        };
        if self.header.info(&name).is_some() {
            return Err(Error::Data(format!("it has both {name} and {codes}")));
        }
        let scheme = rounded::scheme(integers.dtype);
        let stored = scheme.and_then(|scheme| Some((scheme, rounded::shapes(scheme, &tensor.shape)?)));
        let Some((scheme, [of_codes, of_scales])) = stored else {
            return Err(Error::Data(format!("{codes} is not a matrix of I8 or U8")));
        };
        let codes = self.place(&codes, of_codes.0, &of_codes.1)?;
        let scales = self.place(&rounded::scales_name(&name), of_scales.0, &of_scales.1)?;
        Ok(Found::Rounded { scheme, codes, scales })
    }

    /// The begin and the number of bytes of a tensor that must have this type and shape.
    fn place(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<(u64, usize)> {
        let info = self.header.info(name).ok_or_else(|| Error::Data(format!("it has no tensor {name}")))?;
        if info.dtype != dtype || info.shape != shape {
            let found = format!("{:?} {:?}", info.dtype, info.shape);
            return Err(Error::Data(format!("{name} is {found}, but the configuration requires {dtype:?} {shape:?}")));
        }
        let (start, end) = info.data_offsets;
        let inside = (end as u64).checked_add(self.data).is_some_and(|end| end <= self.len);
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        if !inside || end.checked_sub(start) != Some(len) {
            let (data, size) = (self.len - self.data, format!("{start} to {end}"));
            return Err(Error::Data(format!("damaged: {name} would be at bytes {size} of {data}")));
        }
        Ok((self.data + start as u64, len))
    }
}
