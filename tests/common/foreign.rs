//! What must hold for files of other programs, whatever is in them: imported or refused, without panic, and without memory
//! for what a file only claims. Each function says whether it was imported. The property tests and the fuzz targets share these.

use kinglet::{
    formats::{Format, ImportOptions, Source, import, import_adapters},
    params::Layout,
    text::tokenizer::CharTokenizer,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A PyTorch checkpoint.
pub(crate) fn pytorch(bytes: &[u8]) -> bool {
    read(&[("model.pt", bytes)], "model.pt", Some(Format::Pytorch))
}

/// safetensors alone.
pub(crate) fn safetensors(bytes: &[u8]) -> bool {
    read(&[("model.safetensors", bytes)], "model.safetensors", Some(Format::Safetensors))
}

/// A GGUF file, which has its tokenizer inside.
pub(crate) fn gguf(bytes: &[u8]) -> bool {
    read(&[("model.gguf", bytes)], "model.gguf", Some(Format::Gguf))
}

/// A file of llm.c.
pub(crate) fn llm_c(bytes: &[u8]) -> bool {
    read(&[("model.bin", bytes)], "model.bin", Some(Format::LlmC))
}

/// A file of llama2.c.
pub(crate) fn llama2_c(bytes: &[u8]) -> bool {
    read(&[("model.bin", bytes)], "model.bin", Some(Format::Llama2C))
}

/// Bytes with scales for each row, in a PyTorch checkpoint.
pub(crate) fn int8(bytes: &[u8]) -> bool {
    read(&[("model.pth", bytes)], "model.pth", Some(Format::Int8))
}

/// A file that says itself what it is.
pub(crate) fn unnamed(bytes: &[u8]) -> bool {
    read(&[("model", bytes)], "model", None)
}

/// The `config.json` of a folder of transformers, beside good tensors.
pub(crate) fn hugging_face(bytes: &[u8]) -> bool {
    let weights = include_bytes!("../../fuzz/corpus/safetensors/llama");
    read(&[("config.json", bytes), ("model.safetensors", weights)], "", Some(Format::HuggingFace))
}

/// nanoGPT's `meta.pkl`, beside a good checkpoint.
pub(crate) fn meta(bytes: &[u8]) -> bool {
    let checkpoint = include_bytes!("../../fuzz/corpus/pytorch/nanogpt");
    let folder = written(&[("ckpt.pt", checkpoint), ("meta.pkl", bytes)]);
    let options = ImportOptions { tokenizer: Some(folder.join("meta.pkl")), ..ImportOptions::default() };
    check(&folder.join("ckpt.pt"), &options)
}

/// An adapter of PEFT's on a good model: its `adapter_config.json` and, behind a zero byte, its tensors; without that byte,
/// beside good tensors.
pub(crate) fn peft(bytes: &[u8]) -> bool {
    let good = include_bytes!("../../fuzz/corpus/peft/both");
    let split = |bytes: &[u8]| {
        let at = bytes.iter().position(|byte| *byte == 0)?;
        Some((bytes[..at].to_vec(), bytes[at + 1..].to_vec()))
    };
    let (config, tensors) = split(bytes).unwrap_or_else(|| (bytes.to_vec(), split(good).expect("it has the byte").1));
    let model = include_bytes!("../../fuzz/corpus/safetensors/llama");
    let base = written(&[
        ("config.json", include_bytes!("../../fuzz/corpus/hugging_face/llama")),
        ("model.safetensors", model),
        ("adapter_config.json", &config),
        ("adapter_model.safetensors", &tensors),
    ]);
    let tokenizer = base.join("chars.json");
    fs::write(&tokenizer, CharTokenizer::train("\n abc").to_json()).unwrap();
    let told =
        ImportOptions { format: Some(Format::HuggingFace), tokenizer: Some(tokenizer), ..ImportOptions::default() };
    let read = || import_adapters(&base, Source::of_import(&base, &told).unwrap(), &base);
    let Ok(found) = read() else { return false };
    let adapters = found.adapters;
    assert_eq!(Layout::new(&adapters.config).unwrap().len(), adapters.weights.len());
    assert!(adapters.weights.iter().all(|x| x.is_finite()));
    let again = read().unwrap().adapters;
    assert!(again.config == adapters.config && again.weights == adapters.weights);
    true
}

/// Imports one of these files, or their folder.
fn read(files: &[(&str, &[u8])], name: &str, format: Option<Format>) -> bool {
    let folder = written(files);
    let tokenizer = folder.join("chars.json");
    fs::write(&tokenizer, CharTokenizer::train("\n abc").to_json()).unwrap();
    let asks_for_heads = !matches!(format, Some(Format::HuggingFace | Format::Gguf));
    let options = ImportOptions {
        format,
        tokenizer: (format != Some(Format::Gguf)).then_some(tokenizer),
        n_head: asks_for_heads.then_some(1),
        ..ImportOptions::default()
    };
    check(&folder.join(name), &options)
}

/// Whether it is imported. What is, is a whole model of numbers; the same again, the second time.
fn check(path: &Path, options: &ImportOptions) -> bool {
    let Ok(imported) = import(path, options) else { return false };
    let model = imported.portable;
    assert_eq!(Layout::new(&model.config).unwrap().len(), model.weights.len());
    assert!(model.weights.iter().all(|x| x.is_finite()));
    let again = import(path, options).unwrap().portable;
    assert!(again.config == model.config && again.weights == model.weights && again.tokenizer == model.tokenizer);
    true
}

/// A folder of this thread's alone with these files, in memory where the system has a place for that.
fn written(files: &[(&str, &[u8])]) -> PathBuf {
    thread_local!(static FOLDER: Folder = Folder::new());
    FOLDER.with(|Folder(folder)| {
        for entry in fs::read_dir(folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
        folder.clone()
    })
}

/// A folder that is removed when its thread ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = format!("kinglet-foreign-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = base.join(name);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
