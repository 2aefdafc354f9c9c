//! One process by itself.

use super::carrier::Ranks;
use crate::error::Result;

/// The only rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _: Vec<u8>) -> Result<()> {
        unreachable!("there is no rank {to}")
    }

    fn expect(&self, from: usize, _: usize) -> Result<()> {
        unreachable!("there is no rank {from}")
    }

    fn poll(&self, from: usize) -> Result<Option<Vec<u8>>> {
        unreachable!("there is no rank {from}")
    }

    fn unsent(&self) -> Result<usize> {
        Ok(0)
    }

    fn abort(&self, why: &str) -> ! {
        panic!("{why}")
    }
}
