//! What more machines would give: the options of `kinglet plan` and of `--plan`, and what they show.

use super::{
    choice::at_least_one,
    info::in_mib,
    report::duration,
    table::{columns, row},
    terminal::count,
};
use crate::{
    error::Error,
    train::{Machines, Network, Row, Scaling},
};

/// More machines.
#[derive(clap::Args)]
pub(super) struct MachinesArg {
    /// Plan also for this many ranks, each on a machine like this one, and for fewer
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    ranks: Option<usize>,
    /// With --ranks: rate of the network between the machines, such as 1G for 1 Gbit/s [default: 10G]
    #[arg(long, value_name = "RATE", requires = "ranks")]
    network: Option<Network>,
}

impl MachinesArg {
    /// The machines that are asked for; with `zero`, each has the moments of a part of the weights.
    pub(super) fn machines(&self, zero: bool) -> Option<Machines> {
        self.ranks.map(|ranks| Machines { ranks, network: self.network.unwrap_or(Network::TEN_G), zero })
    }

    /// The same where a command does more than to plan, unless `--plan` is given.
    pub(super) fn only_with(&self, plan: bool, zero: bool) -> Result<Option<Machines>, Error> {
        match self.machines(zero) {
            Some(Machines { ranks, .. }) if !plan => Err(Error::BadConfig(format!(
                "--ranks is for --plan; a run has the ranks that a launcher starts: mpirun -n {ranks} kinglet ..."
            ))),
            machines => Ok(machines),
        }
    }
}

/// The table of a plan for several machines, and from which batch on they give something.
pub(super) fn text(scaling: &Scaling) -> String {
    let mut rows =
        vec![row!["ranks", "shards", "ms per step", "communication", "in total", "speed-up", "efficiency", "memory"]];
    rows.extend(scaling.rows.iter().map(|row| {
        let &Row { ranks, shards, ms_per_step, wall_s, speed_up, efficiency, memory_mib, .. } = row;
        let communication = if ranks == 1 { "-".to_owned() } else { format!("{:.1} %", 100.0 * row.communication()) };
        row![
            ranks,
            shards,
            format!("{ms_per_step:.2}"),
            communication,
            duration(wall_s),
            format!("{speed_up:.2}"),
            format!("{:.0} %", 100.0 * efficiency),
            in_mib(memory_mib)
        ]
    }));
    let threads = count(scaling.threads as u64, "thread");
    format!(
        "\nmachines like this one, each with a rank of {threads}, and {} between them:\n{}{}",
        scaling.network,
        columns(&rows),
        batches(scaling)
    )
}

/// From which batch on all ranks give something.
fn batches(scaling: &Scaling) -> String {
    let Some(&Row { ranks, .. }) = scaling.rows.last().filter(|row| row.ranks > 1) else { return String::new() };
    let per_sequence = scaling.tokens_per_step / scaling.sequences_per_step as f64;
    let tokens = |tokens: f64| format!("{} tokens a step ({} sequences)", about(tokens), about(tokens / per_sequence));
    // Each rank has at least a sequence.
    let is_least = |tokens: f64| tokens <= ranks as f64 * per_sequence * 1.0001;
    let even = match scaling.even_tokens {
        Some(even) if is_least(even) => format!("{ranks} ranks are faster than one at any batch that they can share"),
        Some(even) => format!("below about {}, {ranks} ranks give nothing", tokens(even)),
        None => format!("{ranks} ranks give nothing, however large the batch is"),
    };
    let tenth = match scaling.tenth_tokens {
        Some(tenth) if is_least(tenth) => "communication takes less than 10 % of a step".to_owned(),
        Some(tenth) => format!("from about {} on, communication takes less than 10 % of a step", tokens(tenth)),
        None => "communication takes more than 10 % of a step, however large the batch is".to_owned(),
    };
    let here = format!("{} tokens ({} sequences)", scaling.tokens_per_step.round(), scaling.sequences_per_step);
    format!("{even}; {tenth}\na step of this run has {here}: batch_size x gradient_accumulation_steps\n")
}

/// A number in two digits.
fn about(x: f64) -> String {
    let unit = 10_f64.powf(x.max(1.0).log10().floor() - 1.0).max(1.0);
    format!("{:.0}", (x / unit).round() * unit)
}
