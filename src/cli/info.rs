//! `kinglet info`

use super::terminal;
use super::{
    published::PUBLISHED,
    run_arg,
    table::{columns, pairs, row},
};
use kinglet::{config::Config, model::Gpt, run::RunDir, train::Memory};
use serde_json::{Map, json};
use std::path::Path;

/// Vocabulary size of Tiny Shakespeare, for which the published counts hold.
const PUBLISHED_VOCAB: usize = 65;

/// Show the configuration, size and losses of a preset or a run
#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of a preset, or folder of a run
    what: String,
    /// Override a configuration key of a preset; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let path = Path::new(&self.what);
        let is_preset = Config::preset(&self.what).is_ok();
        let named = (path.is_dir() || !is_preset).then(|| run_arg::is_run(&self.what)).flatten();
        let named = named.or_else(|| path.is_dir().then(|| path.to_owned()));
        let mut run = named.map(|path| RunDir::open(&path)).transpose()?;
        let mut config = match &run {
            Some(run) => run.config.clone(),
            None => Config::preset(&self.what)?,
        };
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        config.check()?;
        let assumed = config.vocab_size == 0;
        if assumed {
            config.vocab_size = PUBLISHED_VOCAB;
        }
        let model = Gpt::new(&config)?;
        let params = model.layout.len();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let weights_mib = mib(4 * params as u64);
        // The published "MB" include the weights and PyTorch's causal masks, one per head.
        let masks = 4 * config.n_layer * config.n_head * config.block_size.pow(2);
        let published_mib = mib((4 * params + masks) as u64);
        let memory = Memory::of(&config)?;
        let published = PUBLISHED.iter().find(|published| published.preset == self.what);

        // Parameters by part, adding up the same tensor over all blocks.
        let mut parts: Vec<(String, usize)> = Vec::new();
        for tensor in &model.layout.tensors {
            let name = tensor.name.trim_start_matches("transformer.");
            let name = name.split('.').filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".");
            match parts.iter_mut().find(|part| part.0 == name) {
                Some(part) => part.1 += tensor.span.len,
                None => parts.push((name, tensor.span.len)),
            }
        }

        // A run without a checkpoint still has a configuration to show.
        let state = run.as_mut().and_then(|run| run.state().ok());
        terminal::warn(&run.map_or(Vec::new(), |run| run.warnings));
        if json {
            return terminal::print_json(&json!({
                "name": self.what,
                "params": params,
                "trainable_params": model.layout.trainable_len(),
                "parts": parts.iter().map(|(name, n)| (name.clone(), json!(n))).collect::<Map<_, _>>(),
                "weights_mib": weights_mib,
                "published_mib": published_mib,
                "training_mib": mib(memory.total()),
                "memory_bytes": memory,
                "config": toml::from_str::<toml::Value>(&config.to_toml())?,
                "published": published.map(|p| json!({"params": p.params, "train_loss": p.train_loss, "val_loss": p.val_loss, "size_mb": p.size})),
                "state": state,
            }));
        }
        let mut rows = vec![row!["parameters", "number"]];
        rows.extend(parts.iter().map(|(name, number)| row![name, number]));
        rows.push(row!["total", params, format!("= {:.6} M", params as f64 / 1e6)]);
        let trainable = model.layout.trainable_len();
        if trainable < params {
            rows.push(row![
                "of which train",
                trainable,
                format!("= {:.2} %", 100.0 * trainable as f64 / params as f64)
            ]);
        }
        let mut text = format!("{}\n{}", config.to_toml(), columns(&rows));
        if assumed {
            text.push_str(&format!("for {PUBLISHED_VOCAB} characters, as Tiny Shakespeare has; the data decides\n"));
        }
        let Memory { weights, optimizer, gradients, activations, panels, .. } = memory;
        let [total, weights, optimizer, gradients, activations, panels] =
            [memory.total(), weights, optimizer, gradients, activations, panels].map(mib);
        let mut lines = vec![
            ("weights", format!("{weights_mib:.2} MiB")),
            ("published size", format!("{published_mib:.2} MB (MiB, with PyTorch's causal masks)")),
            (
                "memory to train",
                format!(
                    "{total:.0} MiB: weights {weights:.1}, optimizer {optimizer:.1}, gradients {gradients:.1}, \
                     activations {activations:.1}, packed weights {panels:.1}"
                ),
            ),
        ];
        lines.extend(published.map(|p| {
            let (params, train, val) = (p.params as f64 / 1e6, p.train_loss, p.val_loss);
            let what = format!("{params:.6} M parameters, train loss {train}, val loss {val}, {} MB", p.size);
            ("published", what)
        }));
        if let Some(state) = state {
            lines.push(("steps done", format!("{} of {}", state.step, config.max_iters)));
            let best = state.best.map(|(loss, step)| format!("{loss:.4}, estimated at step {step}"));
            lines.extend(best.map(|best| ("best validation loss", best)));
        }
        text += &format!("\n{}", pairs(&lines));
        Ok(terminal::print(&text)?)
    }
}
