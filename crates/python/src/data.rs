//! What to train on, as Python gives it.

use kinglet::data::Origin;
use numpy::PyReadonlyArray1;
use pyo3::{exceptions::PyValueError, prelude::*};

/// What to train on: names of data, or something in memory.
#[pyclass(frozen, from_py_object)]
#[derive(Clone, Default)]
pub(crate) struct Data {
    pub(crate) names: Vec<String>,
    pub(crate) origin: Origin,
}

#[pymethods]
impl Data {
    /// Names, as on the command line.
    #[staticmethod]
    fn of_names(names: Vec<String>) -> Data {
        Data { names, origin: Origin::Named }
    }

    /// A text, as one document.
    #[staticmethod]
    fn of_text(text: &str) -> Data {
        Data { names: Vec::new(), origin: Origin::Text(text.into()) }
    }

    /// JSON lines, each a document.
    #[staticmethod]
    fn of_lines(lines: &[u8]) -> Data {
        Data { names: Vec::new(), origin: Origin::Lines(lines.into()) }
    }

    /// Token ids.
    #[staticmethod]
    fn of_ids(ids: PyReadonlyArray1<u32>) -> PyResult<Data> {
        let ids = ids.as_slice().map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Data { names: Vec::new(), origin: Origin::Ids(ids.into()) })
    }

    /// Whether it is in memory.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.origin.is_in_memory()
    }
}
