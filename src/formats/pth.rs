//! PyTorch's checkpoints: the lecture's `state_dict`, and nanoGPT's `ckpt.pt`.
//!
//! A `.pth` is a zip whose files are stored as they are: a pickle that describes the tensors, and the numbers of each. Numbers
//! begin at multiples of 64 bytes, so that PyTorch can map the file into memory. The pickle calls nothing but what builds
//! tensors, so it loads with `weights_only=True`.

use super::{
    foreign::{Dtype, Foreign, Tensor},
    numbers,
    pickle::Pickle,
    portable::Portable,
};
use crate::text::tokenizer::CharTokenizer;
use kinglet_core::error::{Error, Result};
use std::{
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::Path,
};

/// What a zip of the old form can hold.
const LARGEST: u64 = u32::MAX as u64;

/// Numbers begin at multiples of this.
const ALIGNMENT: u64 = 64;

/// The folder in the zip.
const FOLDER: &str = "archive";

/// Refuses tensors that do not fit into a file.
///
/// # Errors
/// If they are too large.
pub(super) fn check(foreign: &Foreign, dtype: Dtype) -> Result<()> {
    let numbers: u64 = foreign.tensors.values().map(|tensor| tensor.len() as u64).sum();
    if numbers * dtype.size().unwrap_or(4) as u64 + (1 << 24) > LARGEST {
        return Err(Error::Data("the file would be larger than 4 GiB: use --format hf or safetensors".to_owned()));
    }
    Ok(())
}

/// Writes a `state_dict`, with what stands around it.
///
/// # Errors
/// As [`numbers::each`].
pub(super) fn write(
    path: &Path,
    foreign: &Foreign,
    dtype: Dtype,
    around: impl FnOnce(&mut Pickle, &dyn Fn(&mut Pickle)),
) -> io::Result<()> {
    let mut pickle = Pickle::new();
    around(&mut pickle, &|pickle| state_dict(pickle, foreign, dtype));
    let mut zip = Zip { out: BufWriter::new(File::create(path)?), at: 0, entries: Vec::new() };
    zip.add("data.pkl", |out| out(&pickle.finish()))?;
    zip.add("byteorder", |out| out(b"little"))?;
    for (i, (name, tensor)) in foreign.tensors.iter().enumerate() {
        zip.add(&format!("data/{i}"), |out| numbers::each(name, tensor, dtype, out))?;
    }
    zip.add("version", |out| out(b"3\n"))?;
    zip.finish()
}

/// The tensors, each with storage of its own.
fn state_dict(pickle: &mut Pickle, foreign: &Foreign, dtype: Dtype) {
    let storage = match dtype {
        Dtype::F16 => "HalfStorage",
        Dtype::Bf16 => "BFloat16Storage",
        _ => "FloatStorage",
    };
    pickle.ordered_dict(|pickle| {
        for (i, (name, Tensor { shape, .. })) in foreign.tensors.iter().enumerate() {
            let sizes = |pickle: &mut Pickle, of: &dyn Fn(usize) -> usize| {
                pickle.tuple(|pickle| (0..shape.len()).for_each(|d| _ = pickle.int(of(d) as u64)));
            };
            pickle.text(name).global("torch._utils", "_rebuild_tensor_v2").tuple(|pickle| {
                let stored = |pickle: &mut Pickle| {
                    pickle.text("storage").global("torch", storage).text(&i.to_string()).text("cpu");
                    pickle.int(shape.iter().product::<usize>() as u64);
                };
                pickle.tuple(stored).persistent().int(0);
                sizes(pickle, &|d| shape[d]);
                sizes(pickle, &|d| shape[d + 1..].iter().product());
                pickle.bool(false).ordered_dict(|_| ());
            });
            pickle.call();
        }
    });
}

/// A zip of stored files.
struct Zip {
    out: BufWriter<File>,
    at: u64,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    crc: u32,
    size: u32,
    at: u32,
}

/// Receives bytes of a file.
type Out<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

impl Entry {
    /// What both headers of a file say: version, flags, no compression, 1980-01-01, checksum, sizes, lengths of name and of
    /// what follows it.
    fn header(&self, extra: usize) -> Vec<u8> {
        let mut header = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        [self.crc, self.size, self.size].iter().for_each(|x| header.extend(x.to_le_bytes()));
        [self.name.len(), extra].iter().for_each(|&x| header.extend((x as u16).to_le_bytes()));
        header
    }
}

impl Zip {
    /// Adds a file.
    fn add(&mut self, name: &str, write: impl FnOnce(Out) -> io::Result<()>) -> io::Result<()> {
        let mut entry = Entry { name: format!("{FOLDER}/{name}"), crc: 0, size: 0, at: self.at as u32 };
        // What PyTorch calls FB pads the header.
        let head = self.at + 30 + entry.name.len() as u64 + 4;
        let padding = (head.next_multiple_of(ALIGNMENT) - head) as usize;
        self.local(&entry, padding)?;
        let begin = self.at + 30 + (entry.name.len() + 4 + padding) as u64;
        let (mut crc, mut size) = (crc32fast::Hasher::new(), 0u64);
        write(&mut |bytes| {
            crc.update(bytes);
            size += bytes.len() as u64;
            self.out.write_all(bytes)
        })?;
        (entry.crc, entry.size) = (crc.finalize(), u32::try_from(size).map_err(io::Error::other)?);
        // The checksum is known only now.
        self.out.seek(SeekFrom::Start(self.at))?;
        self.local(&entry, padding)?;
        self.at = begin + size;
        self.out.seek(SeekFrom::Start(self.at))?;
        self.entries.push(entry);
        Ok(())
    }

    fn local(&mut self, entry: &Entry, padding: usize) -> io::Result<()> {
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.extend(entry.header(4 + padding));
        bytes.extend(entry.name.bytes());
        bytes.extend(b"FB");
        bytes.extend((padding as u16).to_le_bytes());
        bytes.extend(std::iter::repeat_n(b'Z', padding));
        self.out.write_all(&bytes)
    }

    /// Writes the directory.
    fn finish(mut self) -> io::Result<()> {
        let (begin, mut bytes) = (self.at, Vec::new());
        for entry in &self.entries {
            bytes.extend(b"PK\x01\x02\x14\x00");
            bytes.extend(entry.header(0));
            bytes.extend([0; 10]);
            bytes.extend(entry.at.to_le_bytes());
            bytes.extend(entry.name.bytes());
        }
        let (n, size) = (self.entries.len() as u16, bytes.len() as u32);
        bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
        [n, n].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        [size, u32::try_from(begin).map_err(io::Error::other)?].iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        bytes.extend([0, 0]);
        self.out.write_all(&bytes)?;
        self.out.flush()
    }
}

/// The masks that the lecture's code registers in each head, which `load_state_dict` wants too.
pub(super) fn add_masks(model: &Portable, foreign: &mut Foreign) {
    let (block, heads) = (model.config.block_size, model.config.n_head);
    for l in 0..model.config.n_layer {
        for m in 0..heads {
            let mask = move || {
                let row = |i: usize| (0..block).map(move |j| if j <= i { 1.0 } else { 0.0 });
                Ok((0..block).flat_map(row).collect::<Vec<f32>>().into())
            };
            foreign
                .tensors
                .insert(format!("blocks.{l}.sa.heads.{m}.tril"), Tensor::new(vec![block, block], Dtype::F32, mask));
        }
    }
}

/// What stands around the weights in nanoGPT's checkpoint: what its `sample.py` reads. `folder` is where `meta.pkl` is.
pub(super) fn checkpoint(
    model: &Portable,
    bias: bool,
    folder: &Path,
    (step, loss): (u64, f64),
) -> impl FnOnce(&mut Pickle, &dyn Fn(&mut Pickle)) {
    let (config, folder) = (model.config.clone(), folder.display().to_string());
    move |pickle, weights| {
        pickle.dict(|pickle| {
            weights(pickle.text("model"));
            pickle.text("model_args").dict(|pickle| {
                let sizes = [
                    ("n_layer", config.n_layer),
                    ("n_head", config.n_head),
                    ("n_embd", config.n_embd),
                    ("block_size", config.block_size),
                    ("vocab_size", config.vocab_size),
                ];
                sizes.iter().for_each(|(name, n)| _ = pickle.text(name).int(*n as u64));
                pickle.text("bias").bool(bias).text("dropout").float(config.dropout);
            });
            pickle.text("iter_num").int(step).text("best_val_loss").float(loss);
            pickle.text("config").dict(|pickle| _ = pickle.text("dataset").text(&folder));
        });
    }
}

/// nanoGPT's `meta.pkl`: the characters and their ids.
pub(super) fn meta(chars: &CharTokenizer, end_of_text: &str) -> Vec<u8> {
    let tokens = chars.tokens().iter().map(|token| token.map_or(end_of_text.to_owned(), String::from));
    let tokens: Vec<String> = tokens.collect();
    let mut pickle = Pickle::new();
    pickle.dict(|pickle| {
        pickle.text("vocab_size").int(tokens.len() as u64);
        pickle.text("itos").dict(|pickle| (0..).zip(&tokens).for_each(|(id, token)| _ = pickle.int(id).text(token)));
        pickle.text("stoi").dict(|pickle| (0..).zip(&tokens).for_each(|(id, token)| _ = pickle.text(token).int(id)));
    });
    pickle.finish()
}
