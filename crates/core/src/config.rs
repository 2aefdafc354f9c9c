//! Everything that defines a run, the presets, and what names mean that are no keys.

mod fields;
mod names;
mod presets;

pub use fields::*;
pub use names::key_elsewhere;
pub use presets::{PRESETS, Preset, SHAKESPEARE_VOCAB, preset_like};
