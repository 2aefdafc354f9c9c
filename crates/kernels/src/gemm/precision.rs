//! What the factors of a product are rounded to, and which of these precisions this processor can multiply.

use crate::isa::Isa;

/// What the factors of a product are rounded to; sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Not rounded.
    F32,
    /// bf16, eight significant bits, on processors that can multiply it.
    #[cfg(target_arch = "x86_64")]
    Bf16(Bf16),
}

impl Precision {
    /// Every precision that this processor can multiply with this instruction set: f32, and then each way of
    /// multiplying bf16, the fastest last.
    pub fn available(isa: Isa) -> Vec<Precision> {
        let mut found = vec![Precision::F32];
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = isa.avx512().filter(|_| is_x86_feature_detected!("avx512bf16")) {
            found.push(Precision::Bf16(Bf16 { simd, tiles: false }));
            if has_tiles() {
                found.push(Precision::Bf16(Bf16 { simd, tiles: true }));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = isa;
        found
    }

    /// bf16, where this processor multiplies it: in tiles on Sapphire Rapids and later Xeons, else in vectors on Zen 4,
    /// Cooper Lake and later.
    pub fn bf16(isa: Isa) -> Option<Precision> {
        Precision::available(isa).pop().filter(|&precision| precision != Precision::F32)
    }

    /// `f32`, `bf16 in vectors` or `bf16 in tiles`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(Bf16 { tiles: false, .. }) => "bf16 in vectors",
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16(Bf16 { tiles: true, .. }) => "bf16 in tiles",
        }
    }
}

/// The proof that this processor has AVX-512 and its bf16 instructions.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Bf16 {
    pub(super) simd: pulp::x86::V4,
    /// Whether it also has tiles and products use them.
    pub(super) tiles: bool,
}

#[cfg(target_arch = "x86_64")]
impl PartialEq for Bf16 {
    fn eq(&self, other: &Bf16) -> bool {
        self.tiles == other.tiles
    }
}

#[cfg(target_arch = "x86_64")]
impl Eq for Bf16 {}

/// Whether this processor has tiles of bf16 numbers and the system lets this process use them: their 8 KiB make context
/// switches more expensive, so Linux requires processes to ask.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_tiles() -> bool {
    use std::sync::LazyLock;
    static GRANTED: LazyLock<bool> = LazyLock::new(|| {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        let has = std::fs::read_to_string("/proc/cpuinfo")
            .is_ok_and(|text| text.split_whitespace().any(|flag| flag == "amx_bf16"));
        // SAFETY: the request changes nothing except what this process may do.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    });
    *GRANTED
}

/// Tiles are used on Linux only.
#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_tiles() -> bool {
    false
}
