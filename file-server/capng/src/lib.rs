//! Stands in for the crate `capng`, which binds the C library libcap-ng.
//!
//! virtiofsd's library asks it to drop and raise single capabilities around a write or a change of
//! user. The file server is jailed before it starts: it has no capability, can get none, and changes no
//! user, so none of this is ever called for. Should it be all the same, the answer is the truth: there
//! is no capability, and no set can be changed. No C library is linked.

/// A capability's number.
pub type Capability = u32;

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCapability;

impl std::fmt::Display for NoCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this process has no capability and changes none")
    }
}

impl std::error::Error for NoCapability {}

/// What a call gives.
pub type Result<T> = std::result::Result<T, NoCapability>;

/// A set of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(u32);

impl Type {
    /// The effective set.
    pub const EFFECTIVE: Self = Self(1);
    /// The permitted set.
    pub const PERMITTED: Self = Self(2);
}

/// Which sets a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(u32);

impl Set {
    /// The three ordinary sets.
    pub const CAPS: Self = Self(16);
    /// These and the bounding set.
    pub const BOTH: Self = Self(48);
}

/// What to do with a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take it away.
    DROP,
    /// Add it.
    ADD,
}

/// A change of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CUpdate {
    /// What to do.
    pub action: Action,
    /// In which set.
    pub cap_type: Type,
    /// With which capability.
    pub capability: Capability,
}

/// Would empty a set: all are empty.
pub fn clear(_: Set) {}

/// Would read the process's sets.
///
/// # Errors
/// Always.
pub fn get_caps_process() -> Result<()> {
    Err(NoCapability)
}

/// Would change sets.
///
/// # Errors
/// Always.
pub fn update(_: Vec<CUpdate>) -> Result<()> {
    Err(NoCapability)
}

/// Would put changes into effect.
///
/// # Errors
/// Always.
pub fn apply(_: Set) -> Result<()> {
    Err(NoCapability)
}

/// Whether the process has a capability: no.
#[must_use]
pub const fn have_capability(_: Type, _: Capability) -> bool {
    false
}

/// Would look a capability up.
///
/// # Errors
/// Always.
pub fn name_to_capability(_: &str) -> Result<Capability> {
    Err(NoCapability)
}
