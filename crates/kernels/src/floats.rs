//! Memory for numbers.

use memmap2::MmapMut;
use std::{
    alloc::{Layout, handle_alloc_error},
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
    slice,
    sync::Arc,
};

/// Numbers in a cache line of 64 bytes.
const LINE: usize = 16;
/// Numbers in a large page of 2 MiB.
const LARGE_PAGE: usize = 1 << 19;
/// Numbers for which a [`Region`] has room, unless a buffer is larger.
const ROOM: usize = 4 * LARGE_PAGE;

/// Numbers that begin at a cache line: a vector as long as a line loads at half the speed if it straddles two lines.
pub struct Floats {
    at: *mut f32,
    len: usize,
    memory: Memory,
}

/// Where numbers are.
enum Memory {
    /// In a vector, from any one of its numbers on.
    Own(Vec<f32>),
    /// In a region, of which they have a part to themselves.
    Shared { _region: Arc<Region> },
}

// SAFETY: its numbers belong to this value alone, as a vector's do.
unsafe impl Send for Floats {}
// SAFETY: as above.
unsafe impl Sync for Floats {}

impl Floats {
    /// Zeros, in memory that is not touched until they are used.
    pub fn zeros(len: usize) -> Floats {
        if let Some(floats) = TOGETHER.with_borrow_mut(|room| room.as_mut().map(|room| room.zeros(len))) {
            return floats;
        }
        let mut memory = vec![0.0; len + LINE];
        let at = at_multiple(&mut memory, LINE * size_of::<f32>());
        Floats { at, len, memory: Memory::Own(memory) }
    }

    /// Numbers that are in memory already. They stay where they are, at a cache line or not.
    pub fn in_place(mut memory: Vec<f32>) -> Floats {
        Floats { at: memory.as_mut_ptr(), len: memory.len(), memory: Memory::Own(memory) }
    }

    /// The numbers as a vector: the one of [`Floats::in_place`], or a copy.
    pub fn into_vec(self) -> Vec<f32> {
        match self.memory {
            Memory::Own(memory) if memory.len() == self.len => memory,
            _ => self.to_vec(),
        }
    }

    /// Grows scratch memory to at least `len` numbers; growing loses its contents. Like a vector, it grows by at least
    /// half.
    pub fn grow(&mut self, len: usize) {
        if self.len < len {
            *self = Floats::zeros(len.max(self.len + self.len / 2));
        }
    }
}

impl Default for Floats {
    fn default() -> Floats {
        Floats::in_place(Vec::new())
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: so many numbers are there as long as `memory` is, and nothing else refers to them.
        unsafe { slice::from_raw_parts(self.at, self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.at, self.len) }
    }
}

/// The first element whose address is a multiple of so many bytes.
fn at_multiple<T>(memory: &mut [T], bytes: usize) -> *mut T {
    let from = memory.as_ptr().align_offset(bytes);
    memory[from..].as_mut_ptr()
}

thread_local! {
    /// Where this thread makes buffers at present, if it makes them [`together`].
    static TOGETHER: RefCell<Option<Room>> = const { RefCell::new(None) };
}

/// What `make` returns. The [`Floats`] that it makes on this thread lie next to each other, in pages of 2 MiB where the system
/// has such: a step that goes through many small buffers finds their pages sooner. The memory is given back when none of them
/// is left, so they should be as long-lived as each other. Where a page is used in part, all of it is taken.
pub fn together<T>(make: impl FnOnce() -> T) -> T {
    /// Ends it, even in a panic.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            TOGETHER.set(None);
        }
    }
    if TOGETHER.with_borrow(Option::is_some) {
        return make();
    }
    TOGETHER.set(Some(Room::default()));
    let _end = End;
    make()
}

/// The regions of buffers that are made together, and how many numbers of each are taken.
#[derive(Default)]
struct Room(Vec<(Arc<Region>, usize)>);

impl Room {
    fn zeros(&mut self, len: usize) -> Floats {
        // Small buffers fill what large ones leave.
        let has_room = |(region, taken): &(Arc<Region>, usize)| taken + len <= region.len;
        let i = self.0.iter().position(has_room).unwrap_or_else(|| {
            self.0.push((Arc::new(Region::new(len.max(ROOM))), 0));
            self.0.len() - 1
        });
        let (region, taken) = &mut self.0[i];
        // SAFETY: there are as many numbers in the region, and `taken` says that these belong to nobody yet.
        let at = unsafe { region.at.add(*taken) };
        *taken = (*taken + len).next_multiple_of(LINE).min(region.len);
        Floats { at, len, memory: Memory::Shared { _region: region.clone() } }
    }
}

/// Zeros that begin at a large page. They are mapped from the system and go back to it: an allocator would keep large pages
/// when it is given them back, and use them for other things.
struct Region {
    at: *mut f32,
    len: usize,
    _map: MmapMut,
}

// SAFETY: only the `Floats` that have parts of it touch it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(len: usize) -> Region {
        let len = len.next_multiple_of(LARGE_PAGE);
        let layout = Layout::array::<f32>(len + LARGE_PAGE).expect("less than the address space");
        let Ok(mut map) = MmapMut::map_anon(layout.size()) else { handle_alloc_error(layout) };
        // A system that does not take the advice has small pages.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let at = at_multiple(&mut map, LARGE_PAGE * size_of::<f32>()).cast();
        Region { at, len, _map: map }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_line(floats: &Floats) -> bool {
        floats.as_ptr().addr().is_multiple_of(64)
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

    #[test]
    fn buffers_made_together_are_apart_and_outlive_each_other() {
        let lens = [0, 1, 100, LARGE_PAGE, 3 * LARGE_PAGE, 5 * LARGE_PAGE + 3, 7];
        let mut buffers = together(|| together(|| lens.map(Floats::zeros)).map(|b| (b, Floats::zeros(33))));
        for (i, (one, other)) in buffers.iter_mut().enumerate() {
            assert!(one.len() == lens[i] && other.len() == 33 && at_line(one) && at_line(other));
            assert!(one.iter().chain(other.iter()).all(|&x| x == 0.0));
            one.fill(1.0 + i as f32);
            other.fill(-1.0 - i as f32);
        }
        let [.., last, _] = buffers;
        let moved = std::thread::spawn(move || last).join().unwrap();
        assert!(moved.0.iter().all(|&x| x == 6.0) && moved.1.iter().all(|&x| x == -6.0));
        assert!(moved.0.into_vec().len() == lens[5]);
        // And not after it, nor after a panic in it.
        let _ = std::panic::catch_unwind(|| together(|| panic!("while buffers are made")));
        assert!(matches!(Floats::zeros(3).memory, Memory::Own(_)));
    }
}
