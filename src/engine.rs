//! Many texts at once: sequences join and leave one batch at any token.
