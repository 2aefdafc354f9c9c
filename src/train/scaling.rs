//! What more machines would give: the time of a step on several ranks, from what one process does by itself and from what the
//! network takes.

use kinglet_core::ranks::Traffic;
use serde::Serialize;
use std::{fmt, str::FromStr};

/// How much of a network's rate is left for messages, as Ethernet, IP and TCP need the rest for themselves.
const PAYLOAD: f64 = 0.94;

/// Seconds that a message takes beside its bytes, and that sending or receiving it takes a core. A guess for MPI by TCP between
/// neighbours in one room; on links of 1 Gbit/s, steps took what it says.
const MESSAGE_S: f64 = 50e-6;

/// The share of a step that communication should not exceed.
const TENTH: f64 = 0.1;

/// A network between machines, whose links work in both directions at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Its rate in bit per second and direction, as networks are named.
    #[serde(rename = "network_bit_per_s")]
    bit_per_s: f64,
}

impl Network {
    /// Ethernet of 10 Gbit/s.
    pub const TEN_G: Network = Network { bit_per_s: 10e9 };

    /// Its rate in bit per second and direction.
    pub fn bit_per_s(self) -> f64 {
        self.bit_per_s
    }

    /// Seconds for so many bytes.
    fn seconds(self, bytes: f64) -> f64 {
        8.0 * bytes / (PAYLOAD * self.bit_per_s)
    }
}

impl FromStr for Network {
    type Err = String;

    /// Reads a rate such as `10G`, `2.5G` or `100M`.
    fn from_str(text: &str) -> Result<Network, String> {
        let wrong = || "must be a rate in bit per second, such as 100M, 1G, 2.5G or 10G".to_owned();
        let short = ["bit/s", "bps", "bit"].iter().find_map(|unit| text.strip_suffix(unit)).unwrap_or(text).trim_end();
        let (number, of) = match short.as_bytes().last() {
            Some(b'M') => (short.trim_end_matches('M'), 1e6),
            Some(b'G') => (short.trim_end_matches('G'), 1e9),
            Some(b'T') => (short.trim_end_matches('T'), 1e12),
            _ => return Err(wrong()),
        };
        let is_plain = number.trim_end().bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number: f64 = number.trim_end().parse().map_err(|_| wrong())?;
        let bit_per_s = of * number;
        match is_plain && (1e6..=100e12).contains(&bit_per_s) {
            true => Ok(Network { bit_per_s }),
            false => Err("must be from 1M to 100T bit per second".into()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.bit_per_s {
            rate if rate < 1e9 => write!(f, "{} Mbit/s", rate / 1e6),
            rate if rate < 1e12 => write!(f, "{} Gbit/s", rate / 1e9),
            rate => write!(f, "{} Tbit/s", rate / 1e12),
        }
    }
}

/// What a step takes a rank by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    /// The forward and backward passes of its shards.
    pub(super) passes_s: f64,
    /// What every rank does: the batch and the weights are prepared, and the weights are updated.
    pub(super) same_s: f64,
    /// Its part in the sum of the gradients, without waiting.
    pub(super) sum_s: f64,
    /// How long before the last chunk of the gradient each is ready to be sent.
    pub(super) ahead_s: Vec<f64>,
    /// Threads that compute, on as many cores.
    pub(super) threads: usize,
}

/// What travels in a step and in a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Load {
    /// The sum of the gradients.
    pub(super) sum: Traffic,
    /// Where each rank updates a part of the weights: bytes of those that are trained.
    pub(super) parts: f64,
    /// Bytes of the sequences of a step.
    pub(super) batch: f64,
    /// Bytes of a sequence that a loss is measured on.
    pub(super) sequence: f64,
    /// Bytes of all weights.
    pub(super) weights: f64,
}

impl Load {
    /// Seconds that messages of so many bytes take from rank 0 to all: along a tree.
    fn to_all(bytes: f64, messages: f64, ranks: usize, network: Network) -> f64 {
        let levels = f64::from(ranks.next_power_of_two().trailing_zeros());
        levels * (network.seconds(bytes) + messages * MESSAGE_S)
    }

    /// Seconds that the sequences of a step take.
    fn batch_s(&self, ranks: usize, network: Network) -> f64 {
        Load::to_all(self.batch, 0.0, ranks, network)
    }

    /// Seconds that a step waits for the network, beside those for its sequences. Of the passes, so much is computed after the
    /// first chunk of the gradient is ready as was measured, times `passes`.
    fn step_s(&self, ranks: usize, own: &Own, network: Network, passes: f64) -> f64 {
        if ranks == 1 {
            return 0.0;
        }
        let hops = 2.0 * (ranks - 1) as f64;
        // Each passes the parts of the weights on in a ring.
        let each = self.parts / ranks as f64;
        let ring = if each > 0.0 { 0.5 * hops * (network.seconds(each) + MESSAGE_S) } else { 0.0 };
        // Commands: the gradient (its head and its batch) and the update; and what all report.
        self.chain_s(ranks, own, network, passes) + ring + Load::to_all(0.0, 3.0, ranks, network) + MESSAGE_S
    }

    /// Seconds from when a rank's last chunk of the gradient is ready to when the total of the last one is back, and those that
    /// messages take from the passes before.
    fn chain_s(&self, ranks: usize, own: &Own, network: Network, passes: f64) -> f64 {
        let Traffic { chunks } = &self.sum;
        let hops = 2.0 * (ranks - 1) as f64;
        // With two ranks, a link carries partial sums one way and totals the other way; a rank with two neighbours sends both.
        let ways = if ranks == 2 { 1.0 } else { 2.0 };
        let work_s = 0.5 * own.sum_s / chunks.len() as f64;
        let window = Traffic::window(ranks) as f64;
        // A chunk goes up the chain and back, and behind it come the others, whether or not the links waited for it: as many at a
        // time as may be under way.
        let (mut behind, mut longest) = (0.0, 0.0_f64);
        for (i, &bytes) in chunks.iter().enumerate().rev() {
            let bytes_s = network.seconds(bytes as f64);
            let there_and_back = hops * (bytes_s + MESSAGE_S + work_s);
            let ahead = passes * own.ahead_s.get(i).unwrap_or(&0.0);
            longest = longest.max(there_and_back + behind - ahead);
            behind += f64::max(ways * bytes_s, there_and_back / window);
        }
        // What travels while others are computed is sent and received by a core that would compute: sums and totals.
        let first = passes * own.ahead_s.first().unwrap_or(&0.0);
        let meanwhile = (first / behind).min(1.0) * chunks.len() as f64;
        longest + 2.0 * ways * meanwhile * MESSAGE_S / own.threads as f64
    }
}

/// What a run would take on so many ranks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Processes, each on a machine like this one.
    pub ranks: usize,
    /// Parts that a batch is divided into.
    pub shards: usize,
    /// Time per update: the sum of the next four.
    pub ms_per_step: f64,
    /// The forward and backward passes of the rank with the most shards.
    pub ms_passes: f64,
    /// What every rank does: the weights are updated. Rank 0 reads the batch.
    pub ms_same: f64,
    /// A rank's own work in the sum of the gradients.
    pub ms_sum: f64,
    /// Waiting for messages, and what they take from the passes.
    pub ms_network: f64,
    /// An estimate of all losses.
    pub ms_per_estimate: f64,
    /// Seconds from the start to the end.
    pub wall_s: f64,
    /// How often the whole run of one rank fits into that.
    pub speed_up: f64,
    /// The speed-up of each rank.
    pub efficiency: f64,
    /// Peak memory of a rank.
    pub memory_mib: f64,
}

impl Row {
    /// The share of a step in which ranks exchange and add up gradients.
    pub fn communication(&self) -> f64 {
        if self.ranks == 1 { 0.0 } else { (self.ms_sum + self.ms_network) / self.ms_per_step }
    }
}

/// What more machines of this kind would give.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// The network between them.
    #[serde(flatten)]
    pub network: Network,
    /// Threads of each rank.
    pub threads: usize,
    /// Bytes of a gradient.
    pub gradient_bytes: usize,
    /// Tokens of a step.
    pub tokens_per_step: f64,
    /// Sequences of a step.
    pub sequences_per_step: usize,
    /// Tokens of a step at which all ranks together are as fast as one; none if they never are.
    pub even_tokens: Option<f64>,
    /// Tokens of a step from which on communication takes a tenth of it; none if it always takes more.
    pub tenth_tokens: Option<f64>,
    /// One rank, two, four, and so on, up to all.
    pub rows: Vec<Row>,
}

/// The steps of a run on ranks, and what else is needed to know how long it takes.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) network: Network,
    pub(super) load: Load,
    /// What one rank takes.
    pub(super) one: Own,
    /// Batches of a step: the gradient travels while that of the last one is computed.
    pub(super) batches: f64,
    /// Seconds of one rank for a sequence that a loss is measured on.
    pub(super) sequence_s: f64,
    /// Steps; sequences that losses are measured on; of these, those of an estimate.
    pub(super) steps: f64,
    pub(super) sequences: f64,
    pub(super) of_estimate: f64,
    /// What rank 0 does alone: checkpoints and what is at the end.
    pub(super) alone_s: f64,
}

impl Run {
    /// The row of so many ranks, of which the one with the most shards takes `own`.
    pub(super) fn row(&self, ranks: usize, shards: usize, own: &Own, memory_mib: f64) -> Row {
        let Run { network, load, one, .. } = self;
        let network_s = load.step_s(ranks, own, *network, 1.0) + load.batch_s(ranks, *network);
        let step_s = own.passes_s + own.same_s + own.sum_s + network_s;
        let share = own.passes_s / one.passes_s;
        let sequence_s = share * self.sequence_s + Load::to_all(load.sequence, 0.0, ranks, *network);
        let start_s = Load::to_all(load.weights, 0.0, ranks, *network);
        let wall_s = start_s + self.steps * step_s + self.sequences * sequence_s + self.alone_s;
        let of_one = self.steps * (one.passes_s + one.same_s + one.sum_s) + self.sequences * self.sequence_s;
        let speed_up = (of_one + self.alone_s) / wall_s;
        Row {
            ranks,
            shards,
            ms_per_step: 1e3 * step_s,
            ms_passes: 1e3 * own.passes_s,
            ms_same: 1e3 * own.same_s,
            ms_sum: 1e3 * own.sum_s,
            ms_network: 1e3 * network_s,
            ms_per_estimate: 1e3 * self.of_estimate * sequence_s,
            wall_s,
            speed_up,
            efficiency: speed_up / ranks as f64,
            memory_mib,
        }
    }

    /// What communication takes in a step so much larger than that of the run, and the whole step.
    fn at(&self, times: f64, ranks: usize, own: &Own) -> (f64, f64) {
        let Run { network, load, batches, .. } = self;
        // There are more batches, or the only one is smaller.
        let waits = load.step_s(ranks, own, *network, (times * batches).min(1.0));
        let communication = own.sum_s + waits + times * load.batch_s(ranks, *network);
        (communication, times * own.passes_s + own.same_s + communication)
    }

    /// How much larger than that of the run a step must be for so many ranks to be as fast as one.
    pub(super) fn even(&self, ranks: usize, own: &Own) -> Option<f64> {
        least(|times| self.at(times, ranks, own).1 <= self.at(times, 1, &self.one).1)
    }

    /// How much larger it must be for communication to take a tenth of it.
    pub(super) fn tenth(&self, ranks: usize, own: &Own) -> Option<f64> {
        least(|times| {
            let (communication, step) = self.at(times, ranks, own);
            communication <= TENTH * step
        })
    }
}

/// The least factor from which on something is so; none if that is far away.
fn least(is_so: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut low, mut high) = (1e-9_f64, 1e9);
    if !is_so(high) {
        return None;
    }
    while high / low > 1.0 + 1e-6 {
        let middle = (low * high).sqrt();
        if is_so(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A microsecond for each byte.
    const SLOW: Network = Network { bit_per_s: 8e6 / PAYLOAD };

    fn load() -> Load {
        let sum = Traffic { chunks: vec![250_000; 4] };
        Load { sum, parts: 0.0, batch: 10_000.0, sequence: 1000.0, weights: 2_000_000.0 }
    }

    fn run() -> Run {
        Run {
            network: SLOW,
            load: load(),
            one: Own { passes_s: 1.0, same_s: 0.1, sum_s: 0.004, ahead_s: Vec::new(), threads: 1 },
            batches: 1.0,
            sequence_s: 0.05,
            steps: 100.0,
            sequences: 400.0,
            of_estimate: 40.0,
            alone_s: 7.0,
        }
    }

    /// What a rank of so many takes whose gradient is complete all at once.
    fn own(ranks: usize) -> Own {
        Own { passes_s: 1.0 / ranks as f64, same_s: 0.1, sum_s: 0.008, ahead_s: vec![0.0; 4], threads: 2 }
    }

    #[track_caller]
    fn near(is: f64, want: f64) {
        assert!((is - want).abs() < 1e-9 * want.abs().max(1.0), "{is} is not {want}");
    }

    #[test]
    fn a_step_by_hand() {
        let step_s = |ranks| load().step_s(ranks, &own(ranks), SLOW, 1.0);
        // Two hops of 250 ms of bytes, 1 ms of work and 50 us; 750 ms for what follows; three commands and a report.
        near(step_s(2), 2.0 * 0.25105 + 0.75 + 4.0 * 50e-6);
        // Each neighbour has its bytes, and commands go down two levels.
        near(step_s(3), 4.0 * 0.25105 + 2.0 * 0.75 + 7.0 * 50e-6);
        near(step_s(4), 6.0 * 0.25105 + 2.0 * 0.75 + 7.0 * 50e-6);
        near(step_s(1), 0.0);
        for (ranks, levels) in [(1, 0.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 3.0), (1024, 10.0)] {
            near(load().batch_s(ranks, SLOW), 0.01 * levels);
        }
        // Three times a quarter of the weights.
        let in_parts = Load { parts: 1_200_000.0, ..load() };
        near(in_parts.step_s(4, &own(4), SLOW, 1.0) - step_s(4), 3.0 * 0.30005);
        // What is named 1 Gbit/s carries 117.5 MB a second.
        near(Network { bit_per_s: 1e9 }.seconds(117.5e6), 1.0);
    }

    #[test]
    fn what_travels_while_other_layers_are_computed_is_not_waited_for() {
        let chain_s =
            |ahead_s: [f64; 4], passes| load().chain_s(2, &Own { ahead_s: ahead_s.to_vec(), ..own(2) }, SLOW, passes);
        let hop = 2.0 * 0.25105;
        // Each of four chunks is sent and received, by one of two cores; links need a second for them.
        let messages = |share: f64| share * 4.0 * 2.0 * 50e-6 / 2.0;
        near(chain_s([0.0; 4], 1.0), hop + 0.75);
        // The first three leave while the last one is computed.
        near(chain_s([0.9, 0.8, 0.5, 0.0], 1.0), hop + messages(0.9));
        // Links are busy from the first on, 0.4 s before the last is ready.
        near(chain_s([0.4, 0.3, 0.2, 0.0], 1.0), hop + 0.75 - 0.4 + messages(0.4));
        // They wait for the second.
        near(chain_s([2.0, 0.1, 0.05, 0.0], 1.0), hop + 0.5 - 0.1 + messages(1.0));
        near(chain_s([0.4, 0.3, 0.2, 0.0], 0.25), hop + 0.75 - 0.1 + messages(0.1));
        // Where bytes take no time, a window of chunks at a time is on a way of 30 hops.
        let sum = Traffic { chunks: vec![1; 2 * Traffic::window(16) + 1] };
        let quick =
            Load { sum, ..load() }.chain_s(16, &Own { sum_s: 0.0, ..own(16) }, Network { bit_per_s: 1e15 }, 1.0);
        assert!((quick - 3.0 * 30.0 * 50e-6).abs() < 1e-6, "{quick}");
    }

    #[test]
    fn a_run_by_hand() {
        let run = run();
        let one = run.row(1, 2, &run.one, 50.0);
        near(one.wall_s, 100.0 * 1.104 + 400.0 * 0.05 + 7.0);
        assert_eq!((one.speed_up, one.efficiency, one.ms_network, one.communication()), (1.0, 1.0, 0.0, 0.0));
        near(one.ms_per_estimate, 2000.0);
        let two = run.row(2, 4, &own(2), 40.0);
        let network_s = 1.2523 + 0.01;
        near(two.ms_per_step, 1e3 * (0.5 + 0.1 + 0.008 + network_s));
        near(two.ms_passes + two.ms_same + two.ms_sum + two.ms_network, two.ms_per_step);
        near(two.communication(), (0.008 + network_s) / 1.8703);
        // Half the time of one, and the bytes of the sequence.
        near(two.ms_per_estimate, 40.0 * (25.0 + 1.0));
        // The weights are sent once.
        near(two.wall_s, 2.0 + 100.0 * 1.8703 + 400.0 * 0.026 + 7.0);
        near(two.speed_up, one.wall_s / two.wall_s);
        near(two.efficiency, two.speed_up / 2.0);
        assert_eq!((two.ranks, two.shards, two.memory_mib), (2, 4, 40.0));
    }

    /// At the batch that is found, both are as fast, or a tenth of the step is communication.
    #[test]
    fn from_which_batch_on_ranks_give_something() {
        let run = run();
        for (ranks, even) in [(2, 1.2523 + 0.004), (3, 2.50455 + 0.004), (4, 3.00665 + 0.004)] {
            let own = own(ranks);
            // What is fixed, by what is saved.
            let saved = 1.0 - 1.0 / ranks as f64 - load().batch_s(ranks, SLOW);
            let found = run.even(ranks, &own).unwrap();
            assert!((found - even / saved).abs() < 1e-5 * found, "{ranks}: {found} is not {}", even / saved);
            let (communication, step) = run.at(run.tenth(ranks, &own).unwrap(), ranks, &own);
            assert!((communication / step - 0.1).abs() < 1e-5, "{ranks}: {}", communication / step);
        }
        // The sequences alone take more than a tenth.
        assert!(run.even(16, &own(16)).is_some());
        assert_eq!(run.tenth(16, &own(16)), None);
        let endless = Run { load: Load { batch: 2_000_000.0, ..load() }, ..run.clone() };
        assert_eq!(endless.even(2, &own(2)), None, "sending the sequences takes longer");
        let quick = Run { network: Network { bit_per_s: 1e15 }, ..run };
        assert!(quick.even(2, &own(2)).unwrap() < 0.03);
    }

    #[test]
    fn rates_are_read_as_networks_are_named() {
        for (text, rate, shown) in [
            ("100M", 1e8, "100 Mbit/s"),
            ("1G", 1e9, "1 Gbit/s"),
            ("2.5G", 2.5e9, "2.5 Gbit/s"),
            ("10G", 1e10, "10 Gbit/s"),
            ("100Gbit/s", 1e11, "100 Gbit/s"),
            ("25 Gbit", 2.5e10, "25 Gbit/s"),
            ("0.5Gbps", 5e8, "500 Mbit/s"),
            ("1.6T", 1.6e12, "1.6 Tbit/s"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!((network.bit_per_s(), network.to_string().as_str()), (rate, shown), "{text}");
        }
        for text in [
            "", "G", "10", "1e9", "10g", "-1G", "10GB", "10GB/s", "1.2.3G", "nanG", "infG", "1e3M", "+1G", "10k",
            "1 0G", "GG", "bit/s",
        ] {
            text.parse::<Network>().unwrap_err();
        }
        for text in ["0G", "0.5M", "1000T"] {
            assert_eq!(text.parse::<Network>(), Err("must be from 1M to 100T bit per second".into()));
        }
    }
}
