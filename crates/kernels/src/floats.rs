//! Memory for numbers.

use std::ops::{Deref, DerefMut};

/// Bytes in a cache line.
const LINE: usize = 64;

/// Numbers that begin at a cache line: a vector as long as a line loads at half the speed if it straddles two lines.
#[derive(Debug, Default)]
pub struct Floats {
    memory: Vec<f32>,
    from: usize,
    len: usize,
}

impl Floats {
    /// Zeros, in memory that is not touched until they are used.
    pub fn zeros(len: usize) -> Floats {
        let memory = vec![0.0; len + LINE / size_of::<f32>()];
        Floats { from: memory.as_ptr().align_offset(LINE), memory, len }
    }

    /// Numbers that are in memory already. They stay where they are, at a cache line or not.
    pub fn in_place(memory: Vec<f32>) -> Floats {
        Floats { from: 0, len: memory.len(), memory }
    }

    /// The numbers as a vector: the one of [`Floats::in_place`], or a copy.
    pub fn into_vec(self) -> Vec<f32> {
        if self.from == 0 && self.len == self.memory.len() { self.memory } else { self.to_vec() }
    }

    /// Grows scratch memory to at least `len` numbers; growing loses its contents. Like a vector, it grows by at least
    /// half.
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            *self = Floats::zeros(len.max(self.len + self.len / 2));
        }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.from..][..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.from..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_line(floats: &Floats) -> bool {
        floats.as_ptr().addr().is_multiple_of(LINE)
    }

    #[test]
    fn numbers_begin_at_a_line_and_are_as_many_as_asked() {
        for len in [0, 1, 15, 16, 17, 100_000] {
            let mut floats = Floats::zeros(len);
            assert!(floats.len() == len && at_line(&floats));
            floats.grow(len / 2);
            assert_eq!(floats.len(), len);
            floats.grow(len + 3);
            assert!(floats.len() >= len + 3 && at_line(&floats));
            assert!(floats.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn numbers_that_are_in_memory_stay_there() {
        let numbers = vec![1.0, 2.0, 3.0];
        let at = numbers.as_ptr();
        let floats = Floats::in_place(numbers);
        assert_eq!((&*floats, floats.as_ptr()), (&[1.0, 2.0, 3.0][..], at));
        let numbers = floats.into_vec();
        assert_eq!((numbers.as_ptr(), numbers.len()), (at, 3));
        assert_eq!(Floats::zeros(5).into_vec(), [0.0; 5]);
    }
}
