//! Stop strings in text that comes in pieces.

/// Finds stop strings in text that arrives piece by piece, holding back what may be the beginning of one.
#[derive(Clone, Debug, Default)]
pub struct Stopper {
    stops: Vec<String>,
    held: String,
}

impl Stopper {
    /// Stops at the first of `stops` that appears; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Stopper {
        Stopper { stops: stops.into_iter().collect(), held: String::new() }
    }

    /// Adds a piece. Returns the text that is now certain to come before any stop string, and the number of the one
    /// that has come, if one has.
    pub fn push(&mut self, piece: &str) -> (String, Option<usize>) {
        self.held.push_str(piece);
        let stops = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        if let Some((at, which)) = stops.filter_map(|(i, stop)| Some((self.held.find(stop)?, i))).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(which));
        }
        let begins_one = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().map(|(at, _)| at).find(begins_one).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// The text that was held back; call this when no more pieces follow.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_strings_are_found_across_pieces_and_nothing_is_lost() {
        let run = |stops: &str, pieces: &[&str]| {
            let (mut stopper, mut out) = (Stopper::new(stops.split('|').map(str::to_owned)), String::new());
            for piece in pieces {
                let (text, stopped) = stopper.push(piece);
                out.push_str(&text);
                if stopped.is_some() {
                    return (out, true);
                }
            }
            (out + &stopper.finish(), false)
        };
        assert_eq!(run("END", &["a", "bE", "N", "Dc"]), ("ab".into(), true));
        assert_eq!(run("END", &["a", "E", "N", "E", "N"]), ("aENEN".into(), false));
        assert_eq!(run("aab", &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run("é!", &["caf", "é", "s"]), ("cafés".into(), false));
        assert_eq!(run("", &["a", "b"]), ("ab".into(), false));
        assert_eq!(run("xy|END", &["a", "bE", "N", "Dc"]), ("ab".into(), true));
        assert_eq!(run("bcd|c", &["ab", "c", "d"]), ("ab".into(), true), "the first that comes");
        assert_eq!(run("abcd|bc", &["ab", "c", "d"]), ("a".into(), true), "the first that is complete");
        assert_eq!(run("xyz|yq", &["x", "y", "y", "q"]), ("xy".into(), true));
        let mut stopper = Stopper::new(["", "b", "a"].map(str::to_owned));
        assert_eq!((stopper.push("c"), stopper.push("cab")), (("c".into(), None), ("c".into(), Some(2))), "which one");
    }
}
