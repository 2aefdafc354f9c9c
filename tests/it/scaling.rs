//! What a plan says of several machines, beside a chain of ranks on links that are as slow as a network.

use kinglet::{
    backend::Cpu,
    config::Config,
    error::Result,
    ranks::{Ranks, Team},
    replica::{quit, serve},
    threads::with_threads,
    train::{self, Event, Job, Machines, Network, Options, plan::Plan},
};
use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Messages, and when they arrive.
type Messages = VecDeque<(Instant, Vec<u8>)>;

/// Links of a network: each rank has one, and sends and receives at its rate.
struct Links {
    bit_per_s: f64,
    /// When the last byte that each rank sends has left it, and when the last one has reached it.
    free: Mutex<Vec<(Instant, Instant)>>,
    /// Messages from each rank to each.
    under_way: Vec<Vec<Mutex<Messages>>>,
}

struct Linked {
    rank: usize,
    links: Arc<Links>,
}

/// Ranks on such links.
fn linked(size: usize, bit_per_s: f64) -> Vec<Team> {
    let row = || (0..size).map(|_| Mutex::default()).collect();
    let under_way = (0..size).map(|_| row()).collect();
    let links =
        Arc::new(Links { bit_per_s, free: Mutex::new(vec![(Instant::now(), Instant::now()); size]), under_way });
    (0..size).map(|rank| Team::new(Arc::new(Linked { rank, links: links.clone() }))).collect()
}

impl Ranks for Linked {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.links.under_way.len()
    }

    fn send(&self, to: usize, bytes: Vec<u8>) -> Result<()> {
        let mut free = self.links.free.lock().unwrap();
        let takes = Duration::from_secs_f64(8.0 * bytes.len() as f64 / self.links.bit_per_s);
        let left = free[self.rank].0.max(Instant::now()) + takes;
        free[self.rank].0 = left;
        // It arrives while it leaves.
        let arrived = left.max(free[to].1 + takes);
        free[to].1 = arrived;
        self.links.under_way[self.rank][to].lock().unwrap().push_back((arrived, bytes));
        Ok(())
    }

    fn expect(&self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        let mut messages = self.links.under_way[from][self.rank].lock().unwrap();
        let is_there = messages.front().is_some_and(|(arrived, _)| *arrived <= Instant::now());
        Ok(if is_there { messages.pop_front().map(|(_, bytes)| bytes) } else { None })
    }

    fn unsent(&self) -> Result<usize> {
        Ok(0)
    }

    fn abort(&self, why: &str) -> ! {
        panic!("rank {}: {why}", self.rank)
    }
}

/// The median seconds of a step on so many ranks, each with one thread.
fn step_s(config: &Config, (ranks, zero): (usize, bool), bit_per_s: f64, out: &Path) -> f64 {
    let teams = linked(ranks, bit_per_s);
    let be = Cpu::new().unwrap();
    let job = Job::start(config.clone(), out).unwrap();
    let mut steps = Vec::new();
    std::thread::scope(|scope| {
        for team in &teams[1..] {
            scope.spawn(move || with_threads(1, || serve(&be, team)).unwrap().unwrap());
        }
        train::run(job, be, &Options::default().threads(1).team(&teams[0]).zero(zero), |event| {
            if let Event::Step { .. } = event {
                steps.push(Instant::now());
            }
        })
        .unwrap();
        quit(&teams[0]);
    });
    let mut each: Vec<f64> = steps.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    each.sort_by(f64::total_cmp);
    each[each.len() / 2]
}

#[test]
fn the_plan_for_several_machines_is_what_a_chain_of_them_takes() {
    let temp = tempfile::tempdir().unwrap();
    let settings = [
        "data=[\"builtin\"]",
        "n_layer=4",
        "n_head=4",
        "n_embd=96",
        "block_size=32",
        "batch_size=8",
        "max_iters=6",
        "eval_interval=6",
        "eval_iters=1",
        "sample_tokens=0",
    ];
    let network: Network = "200M".parse().unwrap();
    let be = Cpu::new().unwrap();
    for (of_all, zero) in [(&[1, 2][..], false), (&[1, 2, 3], false), (&[1, 2, 4], false), (&[1, 2, 3], true)] {
        let ranks = of_all[of_all.len() - 1];
        let config = Config::default().with(&settings).unwrap().with(&[format!("shards={ranks}").as_str()]).unwrap();
        let (resolved, tokenizer, data) = train::resolve(config.clone()).unwrap();
        let mut all = Vec::new();
        // Other tests run at the same time: until one round was undisturbed.
        let near = |all: &[f64]| all.iter().any(|beside| (0.85..1.15).contains(beside));
        for round in 0..8 {
            let folder = temp.path().join(format!("{ranks}-{zero}-{round}"));
            let machines = (Machines { ranks, network, zero }, ranks);
            let plan = || Plan::measure_on(&resolved, &tokenizer, (&data, None), be, &folder, 0.2, machines);
            let (plan, scaling) = with_threads(1, plan).unwrap().unwrap();
            let numbers: Vec<_> = scaling.rows.iter().map(|row| row.ranks).collect();
            assert_eq!(numbers, of_all, "{ranks}");
            let (one, last) = (&scaling.rows[0], scaling.rows.last().unwrap());
            let wall_s = plan.time.unwrap().wall_s;
            assert!((one.wall_s / wall_s - 1.0).abs() < 0.02 && one.memory_mib == plan.memory_mib, "{one:?} {plan:?}");
            assert_eq!((scaling.threads, last.shards), (1, ranks));
            // Links carry nothing but messages.
            let took = step_s(&config, (ranks, zero), 0.94 * network.bit_per_s(), &folder.join("run"));
            all.push(1e-3 * last.ms_per_step / took);
            if near(&all) {
                break;
            }
        }
        eprintln!("{ranks} ranks, each a part of the weights: {zero}; planned time by what happened: {all:.3?}");
        assert!(near(&all), "{ranks} {zero}: {all:?}");
    }
}
