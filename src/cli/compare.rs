//! `kinglet compare`

use super::Ended;
use kinglet::{
    compare::{Comparison, compare},
    run::RunDir,
};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Say where two runs first differ: configuration, text, step, tensor; exits with 1 if they do
#[derive(clap::Args)]
pub(super) struct Args {
    /// A run's folder
    a: PathBuf,
    /// Another run's folder
    b: PathBuf,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<Ended> {
        let found = compare(&mut RunDir::open(&self.a)?, &mut RunDir::open(&self.b)?)?;
        super::warn(&found.warnings);
        if json {
            let mut report = serde_json::to_value(&found)?;
            let Value::Object(report) = &mut report else { unreachable!("an object") };
            report.insert("same".into(), json!(found.is_same()));
            super::print_json(&report)?;
        } else {
            super::print(&text(&found))?;
        }
        Ok(if found.is_same() { Ended::Done } else { Ended::Different })
    }
}

fn text(found: &Comparison) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text.push_str(&format!("{what:<15}{value}\n"));
    for (key, a, b) in &found.config {
        line("configuration", format!("{key} = {a} and {b}"));
    }
    if found.data {
        line("text", "not the same".into());
    }
    if found.tokenizer {
        line("tokenizer", "not the same".into());
    }
    if let Some(event) = &found.event {
        line(
            "first event",
            format!("{} of step {}: {} = {} and {}", event.event, event.step, event.key, event.a, event.b),
        );
    }
    if let Some(tensor) = &found.tensor {
        let ((elements, of), (tensors, all)) = (tensor.elements, tensor.tensors);
        line(
            "first tensor",
            format!(
                "step {}, {} of {}: {elements} of {of} elements differ, by {:.3e} at most; {tensors} of {all} tensors do",
                tensor.step, tensor.of, tensor.tensor, tensor.max_abs_difference
            ),
        );
    }
    if let Some((a, b)) = found.last_step {
        line("last step", format!("{a} and {b}"));
    }
    let steps: Vec<_> = found.checkpoints.iter().map(u64::to_string).collect();
    if !steps.is_empty() && found.tensor.is_none() {
        line("the same bits", format!("weights and moments of step {}", steps.join(", ")));
    } else if steps.is_empty() {
        line("checkpoints", "none of one step and shape in both".into());
    }
    text
}
