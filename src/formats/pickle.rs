//! Python objects as pickles of protocol 2: just what a checkpoint holds.

/// A pickle that is being written.
pub(super) struct Pickle(Vec<u8>);

impl Pickle {
    pub(super) fn new() -> Pickle {
        Pickle(vec![0x80, 2])
    }

    fn op(&mut self, op: u8) -> &mut Self {
        self.0.push(op);
        self
    }

    /// `from module import name`
    pub(super) fn global(&mut self, module: &str, name: &str) -> &mut Self {
        self.op(b'c');
        self.0.extend(format!("{module}\n{name}\n").bytes());
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.op(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
        self
    }

    pub(super) fn int(&mut self, x: u64) -> &mut Self {
        match i32::try_from(x) {
            Ok(x) => {
                self.op(b'J');
                self.0.extend(x.to_le_bytes());
            }
            Err(_) => {
                // LONG1, signed: nine bytes hold any.
                self.0.extend([0x8a, 9]);
                self.0.extend(x.to_le_bytes());
                self.0.push(0);
            }
        }
        self
    }

    pub(super) fn float(&mut self, x: f64) -> &mut Self {
        self.op(b'G');
        self.0.extend(x.to_be_bytes());
        self
    }

    pub(super) fn bool(&mut self, x: bool) -> &mut Self {
        self.op(if x { 0x88 } else { 0x89 })
    }

    /// A tuple of what `items` writes.
    pub(super) fn tuple(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.op(b'(');
        items(self);
        self.op(b't')
    }

    /// A dictionary of the keys and values that `items` writes in turn.
    pub(super) fn dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.op(b'}').op(b'(');
        items(self);
        self.op(b'u')
    }

    /// An `OrderedDict` of the keys and values that `items` writes in turn.
    pub(super) fn ordered_dict(&mut self, items: impl FnOnce(&mut Self)) -> &mut Self {
        self.global("collections", "OrderedDict").op(b')').op(b'R').op(b'(');
        items(self);
        self.op(b'u')
    }

    /// What the tuple before this names outside of the pickle.
    pub(super) fn persistent(&mut self) -> &mut Self {
        self.op(b'Q')
    }

    /// The call of the function before the tuple before this.
    pub(super) fn call(&mut self) -> &mut Self {
        self.op(b'R')
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.op(b'.');
        self.0
    }
}
