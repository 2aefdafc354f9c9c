//! What handlers work with.

use super::{
    assets,
    metrics::{Label, Metrics},
    models::Models,
    options::{Options, Root},
    runs::seen::Runs,
};
use crate::engine::Engine;
use kinglet_core::error::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::SystemTime,
};

/// What handlers work with.
pub(super) struct Service {
    /// The models.
    pub(super) models: Models,
    /// The runs and tunings.
    pub(super) runs: Runs,
    /// Who computes.
    pub(super) engine: Engine,
    /// What was asked for when the server was started.
    pub(super) options: Options,
    /// When it was started.
    pub(super) since: SystemTime,
    /// What was counted.
    pub(super) metrics: Metrics,
    /// How many training texts are being searched.
    pub(super) searches: Arc<AtomicUsize>,
    /// How many bytes the looks into models hold that are on their way.
    pub(super) looks: Arc<AtomicUsize>,
    /// Whether the server ends: it takes no new work.
    pub(super) closing: AtomicBool,
}

impl Service {
    /// Starts the engine.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(roots: Vec<Root>, options: Options, labels: Vec<Label>) -> Result<Service> {
        if options.page {
            assets::prepare();
        }
        Ok(Service {
            models: Models::new(roots, &options),
            runs: Runs::default(),
            engine: Engine::start(options.engine.clone())?,
            options,
            since: SystemTime::now(),
            metrics: Metrics::new(labels),
            searches: Arc::default(),
            looks: Arc::default(),
            closing: AtomicBool::new(false),
        })
    }
}
