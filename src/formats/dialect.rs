//! One table for each architecture, read in both directions.
