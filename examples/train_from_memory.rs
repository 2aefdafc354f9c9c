//! Trains on a text in memory, shows the loss, and writes text with the model:
//! cargo run --release --example train_from_memory

use kinglet::{
    Model,
    backend::Cpu,
    config::Config,
    error::Result,
    train::{self, Event, Job, Options},
};

fn main() -> Result<()> {
    let text = "The kinglet is the smallest bird of the wood, and the wood is the home of the kinglet.\n".repeat(50);
    let config = Config::preset("big-0.2m")?.with(&["max_iters=200", "eval_interval=50", "eval_iters=20"])?;
    let job = Job::start_on_text(&text, config, "runs/memory-example")?;
    train::run(job, Cpu::new()?, &Options::default(), |event| {
        if let Event::Estimate { step, train_loss, val_loss, .. } = event {
            println!("step {step}: train loss {train_loss:.4}, val loss {val_loss:.4}");
        }
    })?;
    let model = Model::open("runs/memory-example")?;
    println!("{}", model.generate("The ").max_tokens(100).temperature(0.5).text()?);
    Ok(())
}
