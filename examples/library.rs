//! Train, measure and sample from Rust: cargo run --release --example library

use kinglet::{
    Model,
    backend::Cpu,
    config::Config,
    inference::Part,
    train::{self, Event, Job, Options},
};

fn main() -> kinglet::error::Result<()> {
    let out = "runs/library-example";
    let config = Config::preset("big-0.2m")?.with(&["data=[\"builtin\"]", "max_iters=500"])?;

    let job = Job::start(config, out)?;
    train::run(job, Cpu::new()?, &Options::default(), |event| {
        if let Event::Estimate { step, train_loss, val_loss, .. } = event {
            println!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}");
        }
    })?;

    let model = Model::open(out)?;
    let data = model.dataset(None, Part::Val)?;
    let exact = model.eval(data, Part::Val, 0, |_, _| ())?.exact;
    println!("{:.4} ± {:.4} nats per character", exact.loss, exact.stderr);
    for piece in model.generate("The ").max_tokens(200) {
        print!("{}", piece?.text);
    }
    Ok(())
}
