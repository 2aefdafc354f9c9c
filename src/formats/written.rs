//! What an export wrote, for whoever tells the user.

/// What an export wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The files, by their names in the folder, and their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// What was changed, left out or rounded on the way.
    pub notes: Vec<String>,
    /// What the other side cannot do that kinglet can.
    pub limits: Vec<String>,
    /// How the result is used: a command or a line of code each.
    pub usage: Vec<String>,
}
