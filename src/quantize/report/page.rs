//! The report card as people read it: rows of a table, a page of Markdown, and its picture.

use super::{Layer, Paired, Report, paired::ByPosition, signed};
use crate::report::{
    plot::{Chart, Series},
    with_error,
};
use kinglet_core::config::Quantization;
use std::fmt::Write as _;

/// What the four linear layers of a block are called in the picture.
const OF_A_BLOCK: [(&str, &str); 4] = [
    ("attn.c_attn", "queries, keys and values (attn.c_attn)"),
    ("attn.c_proj", "output of attention (attn.c_proj)"),
    ("mlp.c_fc", "first of the MLP (mlp.c_fc)"),
    ("mlp.c_proj", "second of the MLP (mlp.c_proj)"),
];

impl Report {
    /// What a reader wants to know first, row by row: what it is, before, after, and the difference.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let mut rows = self.size_rows();
        rows.extend(self.text.iter().flat_map(loss_rows));
        rows.extend(self.speed.iter().map(|speed| {
            let what = if speed.streams == 1 { "1 text".to_owned() } else { format!("{} texts", speed.streams) };
            let times = format!("{:.2} times as fast", speed.times_faster);
            [format!("tokens/s, {what} at once"), rate(speed.before), rate(speed.after), times]
        }));
        rows
    }

    fn size_rows(&self) -> Vec<[String; 4]> {
        let (before, after) = (&self.before, &self.after);
        let times = |what: &str, unit: &str, [a, b]: [f64; 2]| {
            let size = |mib: f64| if mib < 100.0 { format!("{mib:.2} {unit}") } else { format!("{mib:.0} {unit}") };
            [what.to_owned(), size(a), size(b), format!("{:.2} times smaller", a / b)]
        };
        let file = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| format!("{bytes} bytes"));
        let mut rows = vec![times("weights", "MiB", [before.weights_mib, after.weights_mib])];
        if before.file_bytes.or(after.file_bytes).is_some() {
            let difference = before.file_bytes.zip(after.file_bytes).map(|(a, b)| a as f64 / b as f64);
            let difference = difference.map_or(String::new(), |times| format!("{times:.2} times smaller"));
            rows.push(["file".to_owned(), file(before.file_bytes), file(after.file_bytes), difference]);
        }
        rows.push(times("as the published sizes", "MB", [before.published_mib, after.published_mib]));
        rows.push(times("weights in memory", "MiB", [before.memory_mib, after.memory_mib]));
        rows
    }

    /// How alike the predictions are, and which layer hurts most: what it is, and the finding.
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if let Some(text) = &self.text {
            let same = format!("{:.2} % of {} tokens", 100.0 * text.same_top, text.tokens);
            found.push(("same token most probable", same));
            let kl = format!("{} nats in the mean, {} at most", small(text.kl_mean), small(text.kl_max));
            found.push(("KL divergence from before", kl));
        }
        if let Some(layers) = &self.layers {
            let worst = layers.layers.iter().find(|layer| Some(&layer.name) == layers.worst.as_ref());
            let what = match worst {
                Some(layer) => format!(
                    "{}: if it alone is rounded, KL {} and loss {}, on {} tokens",
                    layer.name,
                    small(layer.kl_alone.unwrap_or(0.0)),
                    alone(layer),
                    layers.tokens
                ),
                None => format!("none: alone, no layer changes a prediction on {} tokens", layers.tokens),
            };
            found.push(("layer that hurts most", what));
        }
        found
    }

    /// The page of Markdown about the model that was made from `of`.
    pub fn page(&self, of: &str) -> String {
        let mut page = format!("# {of} in {}\n\n**{}.**\n\n", self.bits(), self.verdict());
        let mut table = |head: &[&str], rows: Vec<Vec<String>>| {
            page += &format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
            rows.iter().for_each(|row| page += &format!("| {} |\n", row.join(" | ")));
            page += "\n";
        };
        table(&["", "before", "after", "difference"], self.rows().into_iter().map(Vec::from).collect());
        let findings = self.findings();
        if !findings.is_empty() {
            table(&["", ""], findings.into_iter().map(|(what, found)| vec![what.to_owned(), found]).collect());
        }
        page += &self.measured();
        if self.text.is_some() {
            page +=
                &format!("![Difference of the losses by position, and what each layer costs]({})\n\n", super::PICTURE);
            page += &self.positions();
            page += &self.layers_table();
        }
        page
    }

    /// What weights were rounded to.
    fn bits(&self) -> String {
        let bits = if self.scheme == Quantization::W4 { "four bits (w4)" } else { "eight bits (w8)" };
        let more = match (self.head, self.embeddings) {
            (false, false) => "",
            (true, false) => ", the head too",
            (false, true) => ", the embeddings too",
            (true, true) => ", the head and the embeddings too",
        };
        format!("{bits}{more}")
    }

    /// How it was measured.
    fn measured(&self) -> String {
        let mut text = "## How this was measured\n\n".to_owned();
        if self.text.is_some() {
            text += "- Both models predicted the same tokens. The error of a loss (±) is its standard error. That of the \
                     difference is the error of the paired difference: what is hard for one model is hard for the other, so \
                     it is far smaller.\n";
            text += "- The KL divergence says how far the probabilities of all tokens are from those before. 0 is the same.\n";
        }
        text += "- The published sizes count MiB as MB, and PyTorch's causal masks as weights.\n";
        if let Some(speed) = self.speed.first() {
            text += &format!(
                "- Tokens per second are medians of {} turns on one thread ({}), both models in turn, from an empty \
                 context on. Other work on the machine makes them smaller.\n",
                speed.turns, self.isa
            );
        }
        self.notes.iter().for_each(|note| _ = writeln!(text, "- Note: {note}."));
        text + "\n"
    }

    fn positions(&self) -> String {
        let Some(text) = &self.text else { return String::new() };
        let mut page = "## Loss by position\n\nTokens that the model sees before the predicted one.\n\n\
                        | tokens seen | loss before | loss after | difference | perplexity before | after |\n|---|---|---|---|---|---|\n"
            .to_owned();
        for at in &text.by_position {
            // At the first position it sees one.
            let (from, to) = (at.from + 1, at.to + 1);
            let range = if from == to { from.to_string() } else { format!("{from} to {to}") };
            let ByPosition { before, after, perplexity_before, perplexity_after, .. } = at;
            _ = writeln!(
                page,
                "| {range} | {before:.4} | {after:.4} | {} | {} | {} |",
                plus(after - before),
                large(*perplexity_before),
                large(*perplexity_after)
            );
        }
        page + "\n"
    }

    fn layers_table(&self) -> String {
        let Some(layers) = &self.layers else { return String::new() };
        let mut page = format!(
            "## Layers\n\nErrors are relative to the model before, on {} tokens. The input's error comes from the layers below, \
             the output's has the layer's own as well. The own error is that of the output for the input before. The last \
             columns are how much the loss grows and how large the KL divergence is if only this layer is in few bits. Where \
             a loss is not several times its error, it is chance: the divergence tells more.\n\n\
             | layer | input | output | own | loss alone | KL alone |\n|---|---|---|---|---|---|\n",
            layers.tokens
        );
        for layer in &layers.layers {
            let share = |error: Option<f64>| error.map_or("-".to_owned(), |error| format!("{:.2} %", 100.0 * error));
            let kl = layer.kl_alone.map_or("-".to_owned(), small);
            let [input, output, own] = [layer.input_error, layer.output_error, layer.own_error].map(share);
            _ = writeln!(page, "| {} | {input} | {output} | {own} | {} | {kl} |", layer.name, alone(layer));
        }
        page + "\n"
    }

    /// The picture beside the page: the difference of the losses by position, and for each layer what it costs alone and its
    /// error. `None` without text.
    pub fn picture(&self) -> Option<String> {
        let (text, layers) = (self.text.as_ref()?, self.layers.as_ref()?);
        let cost = by_block(&layers.layers, "KL divergence alone", "nats", |layer| layer.kl_alone);
        let own = by_block(&layers.layers, "own error", "% of the output", |layer| layer.own_error.map(|e| 100.0 * e));
        Some(Chart::panels(&[by_position(text), cost, own]))
    }
}

/// The rows of losses.
fn loss_rows(text: &Paired) -> Vec<[String; 4]> {
    let (before, after) = (&text.before, &text.after);
    let perplexity = format!("{:+.2} %", 100.0 * text.difference.loss.exp_m1());
    vec![
        [
            "loss (nats per token)".to_owned(),
            with_error(before.loss, before.stderr),
            with_error(after.loss, after.stderr),
            signed(&text.difference),
        ],
        [
            "bits per character".to_owned(),
            format!("{:.4}", before.bits_per_char),
            format!("{:.4}", after.bits_per_char),
            plus(text.difference.bits_per_char),
        ],
        ["perplexity".to_owned(), large(before.perplexity), large(after.perplexity), perplexity],
    ]
}

/// What a layer costs alone, with its error.
fn alone(layer: &Layer) -> String {
    let error = layer.loss_increase_stderr.map_or_else(String::new, |error| format!(" ± {}", small(error)));
    layer.loss_increase.map_or("not rounded".to_owned(), |loss| plus(loss) + &error)
}

/// A perplexity, which may be huge.
fn large(x: f64) -> String {
    if x < 1e6 { format!("{x:.3}") } else { format!("{x:.3e}") }
}

/// Tokens per second, without digits that say nothing.
fn rate(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// A number with two digits that say something, however small it is.
fn small(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        ..1e-6 => format!("{x:.1e}"),
        size => format!("{x:.*}", (1.0 - size.log10().floor()).clamp(0.0, 7.0) as usize),
    }
}

/// The same of a difference, with its sign.
fn plus(x: f64) -> String {
    if x > 0.0 { format!("+{}", small(x)) } else { small(x) }
}

/// The difference of the losses by position.
fn by_position(text: &Paired) -> Chart {
    let at = |at: &ByPosition| (at.from + at.to) as f64 / 2.0 + 1.0;
    let points: Vec<_> = text.by_position.iter().map(|range| (at(range), range.after - range.before)).collect();
    let ends = points.first().map_or(1.0, |point| point.0)..points.last().map_or(1.0, |point| point.0);
    let all = signed(&text.difference);
    Chart {
        title: "What smaller weights cost".into(),
        x_desc: "tokens that the model sees".into(),
        y_desc: "loss after - before (nats)".into(),
        log_x: true,
        series: vec![Series::new(0, format!("all positions: {all}"), points), Series::limit("as before", 0.0, ends)],
        ..Chart::default()
    }
}

/// A curve over the blocks for each of their four layers.
fn by_block(layers: &[Layer], what: &str, unit: &str, value: impl Fn(&Layer) -> Option<f64>) -> Chart {
    let blocks = layers.iter().filter_map(|layer| layer.block).max().unwrap_or(0);
    let series = OF_A_BLOCK.iter().enumerate().map(|(i, (name, label))| {
        let of_kind = layers.iter().filter(|layer| layer.name.ends_with(name));
        let points = of_kind.filter_map(|layer| Some((layer.block? as f64, value(layer)?))).collect();
        Series::new(i, *label, points)
    });
    let others = layers.iter().filter(|layer| layer.block.is_none() && layer.rounded);
    // Embeddings are before the first block, the head is behind the last.
    let place = |layer: &Layer| if layer.name.contains("lm_head") { blocks as f64 + 1.0 } else { -1.0 };
    let others: Vec<_> = others.filter_map(|layer| Some((place(layer), value(layer)?))).collect();
    let outside = (!others.is_empty()).then(|| Series::dots(4, "embeddings and head", others));
    Chart {
        x_desc: "block".into(),
        y_desc: format!("{what} ({unit})"),
        series: series.chain(outside).collect(),
        y_limits: (Some(0.0), None),
        ..Chart::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        let shown = [0.0, 1e-9, 0.000_123, 0.012_3, 0.5, 12.3].map(small);
        assert_eq!(shown, ["0", "1.0e-9", "0.00012", "0.012", "0.50", "12"]);
        assert_eq!([plus(0.01), plus(-0.01), plus(0.0)], ["+0.010", "-0.010", "0"]);
        assert_eq!([rate(12.34), rate(1234.5)], ["12.3", "1234"]);
    }
}
