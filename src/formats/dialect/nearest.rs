//! Of tensors that are of no architecture: which it is nearly.

use super::{form::Dialect, place::named};
use crate::formats::foreign::Foreign;
use std::collections::BTreeSet;

/// An architecture whose names most of a file's tensors have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The architecture.
    pub name: &'static str,
    /// Weights that it needs and the file has not.
    pub missing: Vec<String>,
    /// Tensors of the file that it has no place for.
    pub strange: Vec<String>,
}

impl Dialect {
    /// The architecture that least is missing of, and least is left over for; none if that is more than is right.
    pub fn nearest(foreign: &Foreign) -> Option<Nearest> {
        let amiss = |(nearest, _): &(Nearest, usize)| nearest.missing.len() + nearest.strange.len();
        let all = Dialect::all().iter().map(|dialect| (dialect.compare(foreign), !dialect.has_biases_of(foreign)));
        let (best, _) = all.min_by_key(|(found, biases_differ)| (amiss(found), *biases_differ))?;
        (amiss(&best) > 0 && amiss(&best) < best.1).then_some(best.0)
    }

    /// What is missing and left over, and how many tensors are right.
    fn compare(&self, foreign: &Foreign) -> (Nearest, usize) {
        // As many blocks and heads as any name has.
        let most = |has: &dyn Fn(usize) -> bool| (0..).take_while(|n| has(*n)).count();
        let any = |l: usize, m: usize| {
            let lines = self.lines.iter().filter(|line| line.theirs.contains("{l}"));
            lines
                .filter(|line| m == 0 || line.theirs.contains("{m}"))
                .any(|line| self.name_in(foreign, &(named(line.theirs, l, m) + ".weight")).is_some())
        };
        let layers = most(&|l| any(l, 0)).max(1);
        let heads = most(&|m| any(0, m)).max(1);
        let (mut used, mut missing) = (BTreeSet::new(), Vec::new());
        for line in self.lines {
            let blocks = if line.theirs.contains("{l}") { layers } else { 1 };
            let each = if line.theirs.contains("{m}") { heads } else { 1 };
            for (l, m) in (0..blocks).flat_map(|l| (0..each).map(move |m| (l, m))) {
                let name = named(line.theirs, l, m);
                used.extend(self.name_in(foreign, &(name.clone() + ".bias")));
                match self.name_in(foreign, &(name.clone() + ".weight")) {
                    Some(found) => _ = used.insert(found),
                    None if line.ours == "lm_head" => {}
                    None => missing.push(name + ".weight"),
                }
            }
        }
        let is_buffer = |name: &str| self.buffers.iter().any(|end| name.ends_with(end));
        let strange = foreign.tensors.keys().filter(|name| !used.contains(*name) && !is_buffer(name));
        let strange = strange.cloned().collect();
        (Nearest { name: self.name, missing, strange }, used.len())
    }
}
