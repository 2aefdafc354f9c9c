//! Try.
use kinglet::{
    Model,
    formats::{Portable, c},
};
fn main() {
    let mut a = std::env::args().skip(1);
    let (run, out) = (a.next().unwrap(), a.next().unwrap());
    let int8 = a.next().is_some();
    let mut run = kinglet::run::RunDir::open(std::path::Path::new(&run)).unwrap();
    let layout = kinglet::params::Layout::new(&run.config).unwrap();
    let weights = run.load_weights(&layout, None, kinglet::run::Which::Last).unwrap().1;
    let p = Portable::new(run.config.clone(), weights, run.tokenizer.clone()).unwrap();
    let mut o = c::Options::default();
    o.int8 = int8;
    println!("{:?}", c::write(std::path::Path::new(&out), &p, &o).unwrap());
    println!(
        "{:?}",
        kinglet::formats::onnx::write(
            std::path::Path::new(&(out + "-onnx")),
            &p,
            &kinglet::formats::onnx::Options { int8, ..Default::default() }
        )
        .unwrap()
    );
    let _ = Model::<kinglet::backend::Cpu>::open(run.path());
}
