//! How channels are divided among heads.

/// What all heads of a layer share.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Channels, `nh * hs`.
    pub c: usize,
    /// Heads.
    pub nh: usize,
    /// Heads of keys and values, a divisor of `nh`: each serves `nh / nkv` neighbours (Ainslie et al. 2023).
    pub nkv: usize,
    /// The factor on the scores before the softmax.
    pub scale: f64,
}

impl Heads {
    /// Channels of a head.
    pub fn hs(self) -> usize {
        self.c / self.nh
    }

    /// Channels of the keys; the values have as many.
    pub fn kv(self) -> usize {
        self.nkv * self.hs()
    }

    /// Channels of queries, keys and values together.
    pub fn width(self) -> usize {
        self.c + 2 * self.kv()
    }

    /// Where the keys, or the values, of head `h` begin within `kv` channels.
    pub(super) fn shared(self, h: usize) -> usize {
        h / (self.nh / self.nkv) * self.hs()
    }

    pub(super) fn check(self) {
        assert!(self.c.is_multiple_of(self.nh) && self.nh.is_multiple_of(self.nkv));
    }
}
