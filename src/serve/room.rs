//! Room for what is large: of each kind of work, only so much is taken on at once.

use super::answer::Failure;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// A part of the room of a kind of work, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<AtomicUsize>,
    size: usize,
}

impl Place {
    /// A place of this size, where at most `most` may be `taken` in all. What needs more than that has to be alone.
    ///
    /// # Errors
    /// If there is no room, because of what `full` says.
    pub(super) fn of(taken: &Arc<AtomicUsize>, size: usize, most: usize, full: &str) -> Result<Place, Failure> {
        let before = taken.fetch_add(size, SeqCst);
        let place = Place { taken: taken.clone(), size };
        if before == 0 || before.saturating_add(size) <= most {
            return Ok(place);
        }
        Err(Failure::of(429, "server_busy", format!("{full}: try again later")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.size, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_and_what_is_larger_than_all_of_it_has_it_alone() {
        let taken = Arc::default();
        let place = |size| Place::of(&taken, size, 10, "it is full");
        let two = (place(6).unwrap(), place(4).unwrap());
        let refused = place(1).unwrap_err();
        assert_eq!((refused.status, refused.code), (429, Some("server_busy")));
        assert!(refused.message.contains("it is full"));
        drop(two.1);
        assert!(place(5).is_err() && place(4).is_ok());
        drop(two.0);
        let large = place(99).unwrap();
        assert!(place(1).is_err());
        drop(large);
        assert_eq!(taken.load(SeqCst), 0);
    }
}
