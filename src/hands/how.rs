//! How a run is to be trained on another rank.

/// How a run is to be trained.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct How {
    /// The name of the run's folder.
    pub(super) name: String,
    /// The run's folder as rank 0 names it.
    pub(super) place: String,
    /// Whether there is no report at its end.
    pub(super) skip_report: bool,
}

impl How {
    /// As the bytes of a message.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let skip = if self.skip_report { "skip" } else { "" };
        // No path has a zero byte in it.
        [self.name.as_str(), &self.place, skip].join("\0").into_bytes()
    }

    /// Of the bytes of a message.
    pub(super) fn of(bytes: &[u8]) -> Option<How> {
        let mut parts = std::str::from_utf8(bytes).ok()?.split('\0').map(str::to_owned);
        let (name, place, skip) = (parts.next()?, parts.next()?, parts.next()?);
        Some(How { name, place, skip_report: skip == "skip" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_arrives() {
        for skip_report in [true, false] {
            let how = How { name: "a=1".into(), place: "runs/s/ä=1".into(), skip_report };
            assert_eq!(How::of(&how.to_bytes()), Some(how));
        }
        assert_eq!(How::of(b"a\0b"), None);
    }
}
