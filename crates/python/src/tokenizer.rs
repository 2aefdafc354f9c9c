//! Tokenizers.

use crate::{attend::quickly, names};
use kinglet::{run::RunDir, text};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use std::{ffi::OsString, path::Path};

/// Converts text to token ids and back.
#[pyclass(frozen, module = "kinglet._kinglet")]
pub(crate) struct Tokenizer(Kept);

/// Where a tokenizer is.
enum Kept {
    Alone(Box<text::tokenizer::Tokenizer>),
    OfModel(kinglet::Model),
}

impl Tokenizer {
    /// The tokenizer of a model.
    pub(crate) fn of(model: kinglet::Model) -> Tokenizer {
        Tokenizer(Kept::OfModel(model))
    }

    fn library(&self) -> &text::tokenizer::Tokenizer {
        match &self.0 {
            Kept::Alone(tokenizer) => tokenizer,
            Kept::OfModel(model) => model.tokenizer(),
        }
    }
}

#[pymethods]
impl Tokenizer {
    /// Reads the tokenizer of a run, or a `tokenizer.json`.
    #[staticmethod]
    fn load(py: Python, name: OsString) -> PyResult<Tokenizer> {
        let read = || {
            if Path::new(&name).is_file() {
                return text::tokenizer::Tokenizer::from_file(Path::new(&name));
            }
            let RunDir { tokenizer, config, .. } = RunDir::open(&names::chosen(name, None)?.run)?;
            tokenizer.with_ends(&config.bos_token, &config.eos_token)
        };
        Ok(Tokenizer(Kept::Alone(Box::new(quickly(py, 1, read)?))))
    }

    /// The tokenizer of a `tokenizer.json`'s content, and the tokens that begin and end texts.
    #[staticmethod]
    fn from_json(py: Python, json: &str, begin: &str, end: &str) -> PyResult<Tokenizer> {
        let read = || text::tokenizer::Tokenizer::from_json(json)?.with_ends(begin, end);
        Ok(Tokenizer(Kept::Alone(Box::new(quickly(py, 1, read)?))))
    }

    /// The content of its `tokenizer.json`.
    fn to_json(&self) -> &str {
        self.library().to_json()
    }

    /// Encodes a text; `special` says whether special tokens are meant where they are written out.
    fn encode<'py>(&self, py: Python<'py>, text: &str, special: bool) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let tokenizer = self.library();
        let encode = || if special { tokenizer.encode(text) } else { tokenizer.encode_text(text) };
        Ok(PyArray1::from_vec(py, quickly(py, 1, encode)?))
    }

    /// Decodes ids.
    fn decode(&self, py: Python, ids: PyReadonlyArray1<u32>) -> PyResult<String> {
        let (tokenizer, ids) = (self.library(), ids.as_array().to_vec());
        Ok(py.detach(|| tokenizer.decode(&ids)))
    }

    /// Whether an id is a token's.
    fn is_token(&self, id: u32) -> bool {
        self.library().is_token(id)
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.library().vocab_size()
    }

    #[getter]
    fn unit(&self) -> &'static str {
        self.library().unit()
    }

    #[getter]
    fn special_tokens(&self) -> Vec<(String, u32)> {
        self.library().special_tokens()
    }

    /// How the token that begins texts is written, and its id.
    #[getter]
    fn begin_of_text(&self) -> Option<(String, u32)> {
        let tokenizer = self.library();
        Some((tokenizer.begin_of_text_name()?.to_owned(), tokenizer.begin_of_text()?))
    }

    /// How the token that ends texts is written, and its id.
    #[getter]
    fn end_of_text(&self) -> Option<(String, u32)> {
        let tokenizer = self.library();
        Some((tokenizer.end_of_text_name()?, tokenizer.end_of_text()?))
    }
}
