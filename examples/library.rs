//! Train, measure and sample from Rust: cargo run --release --example library

use kinglet::{
    backend::Cpu,
    config::Config,
    inference::{Part, Session},
    run::Which,
    sample::Sampling,
    train::{self, Event, Job},
};
use std::{ops::ControlFlow, path::Path, sync::atomic::AtomicBool};

fn main() -> kinglet::error::Result<()> {
    let out = Path::new("runs/library-example");
    let mut config = Config::preset("big-0.2m")?;
    config.data = vec!["builtin".into()];
    config.set("max_iters=500")?;

    let job = Job::start(config, out)?;
    train::run(&job, &Cpu::new()?, 0, &AtomicBool::new(false), |event| {
        if let Event::Estimate { step, train_loss, val_loss, .. } = event {
            println!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}");
        }
    })?;

    let session = Session::load(out, Which::Best)?;
    let exact = session.eval(None, Part::Val, 0, |_, _| ())?.exact;
    println!("{:.4} ± {:.4} nats per character", exact.loss, exact.stderr);
    session.generate("The ", 200, &Sampling::default(), "", 0, |text| {
        print!("{text}");
        ControlFlow::Continue(())
    })
}
