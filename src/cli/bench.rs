//! `kinglet bench`

use super::{
    choice::Threads,
    program,
    table::{columns, pairs, row},
    terminal::{self, count},
};
use crate::{
    backend::{Buf, Cost, Cpu, Forward, Op, Timed},
    config::{Config, Precision, Quantization},
    data::Split,
    error::Result,
    model::Gpt,
    quant::Weights,
    replica::Replica,
    rng::{Purpose, Rng},
    sample::{self, Sampling, Sequence, Stream},
    threads::{cores, with_threads},
    train::trial::Trial,
};
use anyhow::Context;
use kinglet_kernels::peak;
use rayon::prelude::*;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Mutex,
    time::Instant,
};

/// Measure how fast this machine trains, evaluates and samples
#[derive(clap::Args)]
pub(super) struct Args {
    /// Preset to measure, with random weights and random text
    #[arg(long, value_name = "NAME", default_value = "big-0.2m", value_parser = super::choice::PresetName, hide_possible_values = true)]
    preset: String,
    /// Set a configuration key; `kinglet keys` lists them; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    threads: Threads,
    /// Seconds to spend on each measurement
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = super::choice::seconds)]
    seconds: f64,
    /// Show the time of each operation in a training step
    #[arg(long)]
    profile: bool,
    /// Numbers of texts that are generated at once, in one batch
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,32", value_parser = super::choice::at_least_one)]
    streams: Vec<usize>,
    /// Measure only a training step and an evaluation batch
    #[arg(long)]
    quick: bool,
}

/// Vocabulary size of Tiny Shakespeare, for presets whose vocabulary comes from the text.
const VOCAB: usize = 65;

/// The measurements; times are medians.
#[derive(Serialize)]
struct Report {
    preset: String,
    isa: &'static str,
    precision: Precision,
    threads: usize,
    shards: usize,
    params: usize,
    /// Floating-point operations of a training step.
    gflop_per_step: f64,
    ms_per_step: f64,
    /// Where a step's time goes, averaged over the threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Parts>,
    tokens_per_s: f64,
    /// Time for `batch_size` sequences of `block_size` tokens.
    ms_per_eval_batch: f64,
    gflops: f64,
    /// Of all threads at once; mean of a measurement before and one after the step was measured.
    peak_gflops: f64,
    fraction_of_peak: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Sample>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<Row>>,
}

#[derive(Serialize)]
struct Parts {
    forward_ms: f64,
    backward_ms: f64,
    optimizer_ms: f64,
    /// Drawing the batch, waiting for other threads, and timing overhead.
    rest_ms: f64,
    /// Fraction of the operations' time spent outside linear layers.
    outside_gemm: f64,
}

/// Tokens per second.
#[derive(Serialize)]
struct Sample {
    /// One stream, until the context is full: each token computes one position.
    #[serde(rename = "first_block_tokens_per_s")]
    first_block: f64,
    /// One stream, context full: each token recomputes the whole context.
    #[serde(rename = "context_full_tokens_per_s")]
    context_full: f64,
    /// Several streams in one batch, on all threads.
    batches: Vec<Streams>,
}

/// Tokens per second of several streams together, each of which gets one in each pass.
#[derive(Serialize)]
struct Streams {
    streams: usize,
    /// With the context half full.
    #[serde(rename = "first_block_tokens_per_s")]
    first_block: f64,
    /// With the context full.
    #[serde(rename = "context_full_tokens_per_s")]
    context_full: f64,
}

/// Measurements of a separate training process.
#[derive(Serialize)]
struct Process {
    /// From program start to the first event of a training run on the built-in corpus, when it is ready to compute.
    start_ms: f64,
    /// Of a complete short run with its checkpoints, if the OS reports it.
    peak_memory_mib: Option<f64>,
}

/// Average cost of one operation in a step.
#[derive(Serialize)]
struct Row {
    op: String,
    calls: f64,
    ms: f64,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gflops: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_per_s: Option<f64>,
}

impl Args {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<()> {
        let be = Cpu::new()?;
        let mut config = Config::preset(&self.preset)?;
        self.set.iter().try_for_each(|setting| config.set(setting))?;
        if config.vocab_size == 0 {
            config.vocab_size = VOCAB;
        }
        config.check()?;
        crate::train::Memory::of(&config)?.check()?;
        let threads = if self.threads.count() == 0 { cores() } else { self.threads.count() };
        let be = be.with_precision(config.precision);
        terminal::note_precision(config.precision, be.precision());
        let mut report = with_threads(threads, || self.measure(&config, threads, be))??;
        if !self.quick {
            report.process = Some(self.process(&config)?);
        }
        if json {
            return terminal::print_json(&report);
        }
        Ok(terminal::print(&report.text(&config))?)
    }

    fn measure(&self, config: &Config, threads: usize, be: Cpu) -> Result<Report> {
        let model = Gpt::new(config)?;
        let mut rng = Rng::new(config.seed, Purpose::Batch, 0, 0);
        let ids = (0..20 * config.block_size.max(1000)).map(|_| rng.below(config.vocab_size as u64) as u32).collect();
        let split = Split::new(ids, config.block_size);
        let peak_before = peak_gflops(threads, be);
        let mut trial = Trial::new(be, config, &split)?;
        let ms_per_step = 1e3 * median(self.seconds, || trial.step().expect("ids in memory"));
        let peak_gflops = (peak_before + peak_gflops(threads, be)) / 2.0;
        let batches = 16;
        let ms_per_eval_batch =
            1e3 / f64::from(batches) * median(self.seconds, || trial.eval(batches).expect("ids in memory"));
        let tokens = config.gradient_accumulation_steps * config.batch_size * config.block_size;
        let gflop_per_step = 1e-9 * model.flops_per_token() * tokens as f64;
        let gflops = gflop_per_step / ms_per_step * 1e3;
        let Replica { p: weights, shards, .. } = trial.replica;
        let shards = shards.count();
        let drawing = be.with_quantization(config.quantization);
        let mut weights = match config.quantization {
            Quantization::None => weights.into_masters(),
            // Training multiplies weights in few bits out; what draws texts does not.
            _ => {
                let mut numbers = vec![0.0; model.layout.len()];
                be.download(weights.masters(), 0, &mut numbers);
                be.parameters(&Weights::rounded(config, &model.layout, numbers)?)
            }
        };
        if !self.quick {
            drawing.pack_weights(&mut weights, &model.layout.linears(), false);
        }
        let (parts, profile) = if self.quick && !self.profile {
            (None, None)
        } else {
            let mut trial = Trial::new(Timed::new(be), config, &split)?;
            trial.step().expect("ids in memory");
            trial.replica.be.take();
            let (start, mut steps) = (Instant::now(), 0);
            while steps == 0 || start.elapsed().as_secs_f64() < self.seconds {
                trial.step().expect("ids in memory");
                steps += 1;
            }
            let ms = 1e3 * start.elapsed().as_secs_f64() / f64::from(steps);
            // Shards run in parallel; a single shard parallelizes its matrix products over all threads.
            let side_by_side = threads.min(shards) as f64;
            let (parts, rows) = breakdown(&trial.replica.be.take(), ms, f64::from(steps), side_by_side);
            (Some(parts), self.profile.then_some(rows))
        };
        Ok(Report {
            preset: self.preset.clone(),
            isa: be.isa().name(),
            precision: be.precision(),
            threads,
            shards,
            params: model.layout.len(),
            gflop_per_step,
            ms_per_step,
            parts,
            tokens_per_s: tokens as f64 / ms_per_step * 1e3,
            ms_per_eval_batch,
            gflops,
            peak_gflops,
            fraction_of_peak: gflops / peak_gflops,
            sample: (!self.quick).then(|| self.sample(&drawing, &model, &weights)).transpose()?,
            process: None,
            profile,
        })
    }

    fn sample(&self, be: &Cpu, model: &Gpt, weights: &Buf) -> Result<Sample> {
        let prompt = |len: usize| (0..len).map(|i| (i % model.vocab_size) as u32).collect::<Vec<_>>();
        let stream = |len, index| Stream::new(be, model, &prompt(len), Sampling::default(), index);
        let write = |stream: &mut Stream<Cpu>, tokens: usize| {
            (0..tokens).for_each(|_| _ = stream.draw(be, model, weights).expect("weights that are numbers"));
            tokens
        };
        let per_second = |work: &(dyn Fn() -> usize + Sync)| {
            let tokens = work();
            tokens as f64 / median(self.seconds, || _ = work())
        };
        // The first token after a full context only fills the cache.
        let mut full = stream(model.block_size + 1, 0)?;
        write(&mut full, 1);
        let full = Mutex::new(full);
        let first = || write(&mut stream(1, 0).expect("a prompt of one token"), model.block_size);
        let batch = |&streams: &usize| {
            let per_second =
                |context: usize| self.pass(be, model, weights, (streams, context)).map(|s| streams as f64 / s);
            let first_block = per_second((model.block_size / 2).max(1))?;
            Ok(Streams { streams, first_block, context_full: per_second(model.block_size + 1)? })
        };
        Ok(Sample {
            first_block: per_second(&first),
            context_full: per_second(&|| write(&mut full.lock().expect("no stream panicked"), 16)),
            batches: self.streams.iter().map(batch).collect::<Result<_>>()?,
        })
    }

    /// Median seconds of a pass that draws a token for each of several streams, with about so many tokens before it.
    fn pass(&self, be: &Cpu, model: &Gpt, weights: &Buf, (streams, context): (usize, usize)) -> Result<f64> {
        let prompt: Vec<_> = (0..context).map(|i| (i % model.vocab_size) as u32).collect();
        let sequence = |i: usize| Sequence::new(be, model, &prompt, Sampling::default(), i as u64);
        let (mut sequences, mut decoder, mut times) = (Vec::<Sequence<Cpu>>::new(), model.decoder(be), Vec::new());
        let start = Instant::now();
        while times.len() < 3 || start.elapsed().as_secs_f64() < self.seconds {
            let over =
                |sequence: &Sequence<Cpu>| context < model.block_size && sequence.tokens().len() > model.block_size;
            let new = sequences.first().is_none_or(over);
            if new {
                sequences = (0..streams).map(sequence).collect::<Result<_>>()?;
            }
            let mut all: Vec<_> = sequences.iter_mut().collect();
            let clock = Instant::now();
            for drawn in sample::draw(be, model, weights, &mut decoder, &mut all) {
                drawn?;
            }
            // The first pass reads the prompts.
            if !new {
                times.push(clock.elapsed().as_secs_f64());
            }
        }
        Ok(middle(times))
    }

    /// Measures this program in a process of its own, as a user would run it.
    fn process(&self, config: &Config) -> anyhow::Result<Process> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let train = |out: &str, data: Option<&str>, settings: &[&str]| -> anyhow::Result<Command> {
            let mut command = Command::new(program::itself());
            command.current_dir(&folder).args(["train", "--json", "--out", out, "--preset", &self.preset]).args(data);
            let all = self.set.iter().map(String::as_str).chain(settings.iter().copied());
            all.for_each(|setting| {
                command.args(["--set", setting]);
            });
            command
                .args(["--threads", &self.threads.count().to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            Ok(command)
        };
        let mut times = Vec::new();
        for round in 0..5 {
            let start = Instant::now();
            let mut child = train(&format!("start-{round}"), None, &[])?.spawn()?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
            times.push(1e3 * start.elapsed().as_secs_f64());
            child.kill()?;
            child.wait()?;
            anyhow::ensure!(line.contains("\"start\""), "kinglet train did not start");
        }
        let characters = (20 * config.block_size).max(2000);
        let text: String = (0..characters).map(|i| char::from(b' ' + (i * i % VOCAB) as u8)).collect();
        std::fs::write(folder.path().join("text.txt"), text)?;
        let settings = ["max_iters=3", "eval_iters=1", "eval_interval=3"];
        let output = train("memory", Some("text.txt"), &settings)?.output()?;
        let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        let done: serde_json::Value = serde_json::from_str(&last)
            .with_context(|| format!("kinglet train failed: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(Process { start_ms: middle(times), peak_memory_mib: done["peak_memory_mib"].as_f64() })
    }
}

/// GFLOP/s of all threads at once.
fn peak_gflops(threads: usize, be: Cpu) -> f64 {
    (0..threads).into_par_iter().with_max_len(1).map(|_| peak::fma_gflops(be.isa(), 0.2)).sum()
}

/// Median seconds of `work`, over as many repetitions as fit into `budget` but at least three, after a warm-up.
fn median(budget: f64, mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < budget {
        let clock = Instant::now();
        work();
        times.push(clock.elapsed().as_secs_f64());
    }
    middle(times)
}

fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Breaks a step of `ms` milliseconds down by operation, given the costs of `steps` steps with `threads` shards in
/// parallel.
fn breakdown(costs: &BTreeMap<Op, Cost>, ms: f64, steps: f64, threads: f64) -> (Parts, Vec<Row>) {
    let sum = |which: &dyn Fn(&str) -> bool| {
        let seconds: f64 = costs.iter().filter(|(op, _)| which(op.name)).map(|(_, cost)| cost.seconds).sum();
        1e3 * seconds / steps / threads
    };
    let optimizer = |name: &str| matches!(name, "round" | "pack_weights" | "reduce" | "adamw" | "muon");
    let backward = |name: &str| name.contains("_bwd") || name == "clear";
    // Work that the whole pool shares is timed only once, by the thread that waits for it.
    let optimizer_ms = threads * sum(&optimizer);
    let backward_ms = sum(&backward);
    let forward_ms = sum(&|name| !backward(name) && !optimizer(name));
    let gemm_ms = sum(&|name| name.starts_with("linear"));
    let all = forward_ms + backward_ms + optimizer_ms;
    let mut rows: Vec<Row> = costs
        .iter()
        .map(|(op, cost)| {
            let wall = if optimizer(op.name) { cost.seconds } else { cost.seconds / threads };
            let shape = op.shape.map_or(String::new(), |(i, o)| format!(" {i} -> {o}"));
            Row {
                op: format!("{}{shape}", op.name),
                calls: cost.calls as f64 / steps,
                ms: 1e3 * wall / steps,
                share: 1e3 * wall / steps / ms,
                gflops: (cost.flops > 0.0).then(|| 1e-9 * cost.flops / wall),
                gb_per_s: (cost.bytes > 0.0).then(|| 1e-9 * cost.bytes / wall),
            }
        })
        .collect();
    rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let parts = Parts { forward_ms, backward_ms, optimizer_ms, rest_ms: ms - all, outside_gemm: 1.0 - gemm_ms / all };
    (parts, rows)
}

impl Report {
    fn text(&self, config: &Config) -> String {
        let tokens_per_s = |rate: f64| format!("{rate:.0} tokens/s");
        let mut lines =
            vec![("training step", format!("{:.3} ms, {}", self.ms_per_step, tokens_per_s(self.tokens_per_s)))];
        lines.extend(self.parts.as_ref().map(|parts| {
            let Parts { forward_ms, backward_ms, optimizer_ms, rest_ms, .. } = parts;
            let what = format!(
                "forward {forward_ms:.3} ms, backward {backward_ms:.3} ms, optimizer {optimizer_ms:.3} ms, other {rest_ms:.3} ms"
            );
            ("", what)
        }));
        let (gflops, peak, share) = (self.gflops, self.peak_gflops, 100.0 * self.fraction_of_peak);
        lines.push(("", format!("{gflops:.1} GFLOP/s, {share:.1} % of this machine's peak of {peak:.1} GFLOP/s")));
        lines.push(("evaluation batch", format!("{:.3} ms", self.ms_per_eval_batch)));
        let of = |n: usize| {
            [format!("sampling {n} at once, context half full"), format!("sampling {n} at once, context full")]
        };
        let batches = self.sample.iter().flat_map(|sample| &sample.batches);
        let batches: Vec<_> = batches.map(|batch| (of(batch.streams), batch)).collect();
        if let Some(sample) = &self.sample {
            lines.push(("sampling, context filling up", tokens_per_s(sample.first_block)));
            lines.push(("sampling, context full", tokens_per_s(sample.context_full)));
        }
        for ([half, full], batch) in &batches {
            lines.push((half, tokens_per_s(batch.first_block)));
            lines.push((full, tokens_per_s(batch.context_full)));
        }
        if let Some(process) = &self.process {
            lines.push(("from program start to step 0", format!("{:.0} ms", process.start_ms)));
            lines.extend(process.peak_memory_mib.map(|mib| ("peak memory of a training run", format!("{mib:.0} MiB"))));
        }
        let mut text = format!(
            "{}: {:.2} M parameters, {} sequences of {} tokens per step; {}, {}, {}, {}\n\n{}",
            self.preset,
            self.params as f64 / 1e6,
            config.gradient_accumulation_steps * config.batch_size,
            config.block_size,
            count(self.threads as u64, "thread"),
            self.isa,
            if self.precision == Precision::F32 { "f32" } else { "bf16" },
            count(self.shards as u64, "shard"),
            pairs(&lines),
        );
        if let Some(profile) = &self.profile {
            let mut rows = vec![row!["operation", "calls", "ms", "%", "GFLOP/s", "GB/s"]];
            let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.1}"));
            rows.extend(profile.iter().map(|row| {
                let [calls, ms, share] =
                    [(0, row.calls), (3, row.ms), (1, 100.0 * row.share)].map(|(n, x)| format!("{x:.n$}"));
                row![row.op, calls, ms, share, number(row.gflops), number(row.gb_per_s)]
            }));
            let outside = self.parts.as_ref().map_or(0.0, |parts| parts.outside_gemm);
            let outside = format!("outside linear layers: {:.1} % of the time\n", 100.0 * outside);
            text += &format!("\n{}{outside}", columns(&rows));
        }
        text
    }
}
