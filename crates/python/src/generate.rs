//! Texts being generated.

use crate::{error::raised, workers::Workers};
use kinglet::{
    error::{Error, Result},
    inference::{self, Finish, Piece},
    sample::Sampling,
};
use pyo3::{exceptions::PyValueError, prelude::*};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// How long is generated ahead: nobody sees a text that comes so late.
const AHEAD: Duration = Duration::from_millis(15);

/// How a text is generated, with the defaults of the command.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Manner {
    max_tokens: usize,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    min_p: f64,
    repetition_penalty: f64,
    seed: u64,
    index: u64,
    stop: Vec<String>,
}

impl Manner {
    /// How tokens are drawn.
    fn sampling(&self) -> Result<Sampling> {
        for (key, value, most) in [
            ("temperature", self.temperature, 1000.0),
            ("top_p", self.top_p, 1.0),
            ("min_p", self.min_p, 1.0),
            ("repetition_penalty", self.repetition_penalty, 1000.0),
        ] {
            if !(0.0..=most).contains(&value) {
                let (key, value, allowed) = (key.to_owned(), value.to_string(), format!("0 to {most}"));
                return Err(Error::Config { key, value, allowed });
            }
        }
        let mut sampling = Sampling::default();
        sampling.temperature = self.temperature;
        (sampling.top_k, sampling.top_p, sampling.min_p) = (self.top_k, self.top_p, self.min_p);
        // Dividing by zero would make every seen token certain, which is never intended.
        sampling.repetition_penalty = self.repetition_penalty.max(1e-3);
        sampling.seed = self.seed;
        Ok(sampling)
    }

    /// A text that is generated so.
    pub(crate) fn apply(&self, generation: inference::Generation) -> Result<inference::Generation> {
        let generation = generation.max_tokens(self.max_tokens).sampling(self.sampling()?).index(self.index);
        Ok(self.stop.iter().fold(generation, |generation, stop| generation.stop(stop)))
    }
}

/// A text being generated, piece by piece.
#[pyclass(frozen, module = "kinglet._kinglet")]
pub(crate) struct Generation {
    workers: Arc<Workers>,
    state: Mutex<State>,
}

/// A text as far as it has come.
struct State {
    generation: inference::Generation,
    /// Pieces that nobody has asked for yet, and the error behind them.
    ahead: VecDeque<Piece>,
    failed: Option<Error>,
    text: String,
    ids: Vec<u32>,
}

impl State {
    /// Generates for a while. A piece takes less time than a pool of threads takes to begin and to end one.
    fn go_on(&mut self) {
        let began = Instant::now();
        for piece in &mut self.generation {
            match piece {
                Ok(piece) => self.ahead.push_back(piece),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
            if began.elapsed() > AHEAD {
                break;
            }
        }
    }
}

impl Generation {
    pub(crate) fn new(workers: Arc<Workers>, generation: inference::Generation) -> Generation {
        let (ahead, text, ids) = Default::default();
        Generation { workers, state: Mutex::new(State { generation, ahead, failed: None, text, ids }) }
    }

    /// The text, unless another thread is at it.
    fn state(&self) -> PyResult<MutexGuard<'_, State>> {
        let taken = |_| PyValueError::new_err("another thread is generating this text already");
        self.state.try_lock().map_err(taken)
    }
}

#[pymethods]
impl Generation {
    /// The next piece; `None` at the end.
    fn next(&self, py: Python) -> PyResult<Option<String>> {
        py.check_signals()?;
        let mut state = self.state()?;
        if state.ahead.is_empty() && state.failed.is_none() {
            let (pool, state) = (self.workers.pool(py)?, &mut *state);
            // Threads that stay awake for one text would wait for another text that waits for them.
            py.detach(|| pool.run(|| state.go_on()));
        }
        match (state.ahead.pop_front(), state.failed.take()) {
            (Some(piece), failed) => {
                state.failed = failed;
                state.text.push_str(&piece.text);
                state.ids.extend(piece.ids());
                Ok(Some(piece.text))
            }
            (None, Some(error)) => Err(raised(py, &error)),
            (None, None) => Ok(None),
        }
    }

    /// Generates the rest.
    fn rest(&self, py: Python) -> PyResult<()> {
        while self.next(py)?.is_some() {}
        Ok(())
    }

    /// The text so far.
    #[getter]
    fn so_far(&self) -> PyResult<String> {
        Ok(self.state()?.text.clone())
    }

    /// The tokens so far.
    #[getter]
    fn ids(&self) -> PyResult<Vec<u32>> {
        Ok(self.state()?.ids.clone())
    }

    /// Why it ended, as JSON says it; `None` before.
    #[getter]
    fn finish(&self) -> PyResult<Option<&'static str>> {
        let state = self.state()?;
        Ok(state.generation.finish().filter(|_| state.ahead.is_empty()).map(Finish::name))
    }
}
