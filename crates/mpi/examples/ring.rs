//! Sends messages around a ring of ranks, to try an MPI library and the links: `mpirun -n 4 target/release/examples/ring 1000000`.

use kinglet_core::ranks::{Ranks, Team};
use kinglet_mpi::Mpi;
use std::{env, error::Error, sync::Arc, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let bytes: usize = env::args().nth(1).map_or(Ok(1 << 20), |bytes| bytes.parse())?;
    let rounds: usize = env::args().nth(2).map_or(Ok(10), |rounds| rounds.parse())?;
    let Some(launch) = Mpi::launched() else { return Err("start it with mpirun".into()) };
    let mpi = Arc::new(Mpi::start(&launch, |why| eprintln!("error: {why}"))?);
    let (rank, size) = (mpi.rank(), mpi.size());
    let team = Team::new(mpi.clone());
    let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
    let byte = |rank: usize, round: usize, i: usize| (rank * 31 + round * 7 + i).to_le_bytes()[0];
    let message = |rank: usize, round: usize| (0..bytes).map(|i| byte(rank, round, i)).collect::<Vec<u8>>();
    let mut slowest = 0.0_f64;
    for round in 0..rounds {
        let (out, expected) = (message(rank, round), message(before, round));
        let began = Instant::now();
        team.send(next, out);
        let arrived = team.receive(before, bytes);
        slowest = slowest.max(began.elapsed().as_secs_f64());
        assert!(arrived == expected, "rank {rank}: another message came from rank {before}");
    }
    team.settle();
    let all = team.gather(slowest.to_le_bytes().to_vec(), |_| 8);
    if rank == 0 {
        let all = all.iter().map(|b| f64::from_le_bytes(b[..].try_into().expect("eight bytes")));
        let slowest = all.fold(slowest, f64::max);
        println!(
            "{}: {size} ranks, {rounds} rounds of {bytes} bytes, the slowest took {:.3} ms",
            mpi.library(),
            1e3 * slowest
        );
    }
    team.settle();
    Ok(mpi.finish()?)
}
