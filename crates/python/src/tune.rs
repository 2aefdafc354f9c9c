//! Search for settings.

use crate::{
    attend::Teller,
    data::Data,
    train::{Choice, How, Place, answered, called, stopped},
};
use kinglet::{
    cli::shared,
    error::Result,
    run::HOME,
    train,
    tune::{Changes, Event, Request, Sweep, Tuning},
};
use pyo3::prelude::*;
use std::path::{Path, PathBuf};

/// What to vary, and for how long.
#[derive(FromPyObject)]
pub(crate) struct Search {
    /// As `KEY=VALUES`.
    sweeps: Vec<String>,
    trials: Option<usize>,
    budget_s: Option<f64>,
}

impl Search {
    fn sweeps(&self) -> Result<Vec<Sweep>> {
        self.sweeps.iter().map(|text| text.parse()).collect()
    }
}

/// Begins a search; its folder and the last event.
#[pyfunction]
pub(crate) fn tune(
    py: Python,
    data: &Data,
    choice: Choice,
    place: Place,
    search: Search,
    how: How,
) -> PyResult<(PathBuf, String)> {
    let asked = choice.asked(data);
    how.attend(py, move |teller, threads| {
        let sweeps = search.sweeps()?;
        let (config, name) = answered(&asked, teller)?;
        let default = Path::new(HOME).join(format!("{}-tune", called(&asked, &config, &name)));
        let (origin, trials) = (asked.origin, search.trials);
        let budget_s = search.budget_s.unwrap_or(shared::BUDGET_S);
        let request = Request { config, origin, sweeps, trials, budget_s };
        let tuning = place.or(default)?.start(|out| Tuning::start(request.clone(), out, threads))?;
        run(tuning, teller)
    })
}

/// Goes on with a search; its folder and the last event.
#[pyfunction]
pub(crate) fn resume_tuning(
    py: Python,
    out: PathBuf,
    data: &Data,
    search: Search,
    how: How,
) -> PyResult<(PathBuf, String)> {
    let Data { names, origin } = data.clone();
    how.attend(py, move |teller, threads| {
        let (sweeps, trials, budget_s) = (search.sweeps()?, search.trials, search.budget_s);
        let changes = Changes { sweeps, trials, budget_s, data: names, origin };
        run(Tuning::resume(&out, &changes, threads)?, teller)
    })
}

fn run(tuning: Tuning, teller: &mut Teller) -> Result<(PathBuf, String)> {
    if !teller.begin(tuning.path(), None) {
        return Err(stopped());
    }
    let (path, stop) = (tuning.path().to_owned(), teller.stop());
    let last = tuning.run(stop.flag(), |event| teller.tell(event, comes_often(event)))?;
    Ok((path, serde_json::to_string(&last).expect("plain values")))
}

fn comes_often(event: &Event) -> bool {
    match event {
        Event::RangeStep { .. } => true,
        Event::Training { training, .. } => {
            matches!(training, train::Event::Step { .. } | train::Event::Measuring { .. })
        }
        _ => false,
    }
}
