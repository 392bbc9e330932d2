//! What a template is made of, and so found by: programs and images by their content, the machine's shape, and the
//! host that it can go on on.

use std::fs::File;

use cloister_vmm::spec::{FINGERPRINT_BYTES, VmSpec};
use serde::{Deserialize, Serialize};

use super::TemplateError;
use super::store::Store;
use crate::images::digest::Digest;
use crate::launch::files::Files;
use crate::launch::{LaunchSpec, fingerprint};

/// What a template is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The version of this program.
    pub version: String,
    /// The vmm.
    pub vmm: String,
    /// The guest's kernel.
    pub kernel: String,
    /// The guest's root.
    pub root: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// Words added to the guest kernel's command line.
    pub cmdline: String,
    /// Whether there is a device for shared directories.
    pub shares: bool,
    /// Processor and kernel of this host.
    pub host: String,
}

impl Key {
    /// Of the machine that is asked for.
    ///
    /// # Errors
    /// A file can't be read, or this host does not say what it is.
    pub fn of(spec: &LaunchSpec, store: &Store) -> Result<Self, TemplateError> {
        Self::with(&spec.files, &spec.vm, !spec.shares.is_empty(), store)
    }

    /// Of a machine of this shape.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn with(
        files: &Files,
        vm: &VmSpec,
        shares: bool,
        store: &Store,
    ) -> Result<Self, TemplateError> {
        let digest = |file: &File| store.digest(file).map(|digest| digest.hex());
        let open_vmm = File::open(&files.vmm);
        let vmm = open_vmm.map_err(TemplateError::io("open the vmm", &files.vmm))?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: digest(&vmm)?,
            kernel: digest(&files.open_kernel()?)?,
            root: digest(&files.open_root()?)?,
            vcpus: vm.vcpus,
            memory_mib: vm.memory_mib,
            cmdline: vm.extra_cmdline.clone(),
            shares,
            host: fingerprint::host().map_err(TemplateError::Host)?.hex(),
        })
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// Whether both are of machines of the same shape.
    #[must_use]
    pub fn is_shaped_like(&self, other: &Self) -> bool {
        let shape = |key: &Self| (key.vcpus, key.memory_mib, key.cmdline.clone(), key.shares);
        shape(self) == shape(other)
    }

    /// All of it as one name.
    #[must_use]
    pub fn name(&self) -> String {
        // The fields' own text has no line ends: a command line is printable.
        let Self { version, vmm, kernel, root, vcpus, memory_mib, cmdline, shares, host } = self;
        let text = format!(
            "cloister template 1\n{version}\n{vmm}\n{kernel}\n{root}\n{vcpus}\n{memory_mib}\n\
             {cmdline}\n{shares}\n{host}\n"
        );
        Digest::of(text.as_bytes()).hex()
    }

    /// What the vmm compares: where it was made.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; FINGERPRINT_BYTES] {
        fingerprint::of(&self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            version: "1".into(),
            vmm: "a".into(),
            kernel: "b".into(),
            root: "c".into(),
            vcpus: 1,
            memory_mib: 512,
            cmdline: String::new(),
            shares: false,
            host: "d".into(),
        }
    }

    #[test]
    fn whatever_changes_makes_another_template() {
        let changes: [fn(&mut Key); 9] = [
            |key| key.version.push('1'),
            |key| key.vmm.push('1'),
            |key| key.kernel.push('1'),
            |key| key.root.push('1'),
            |key| key.vcpus = 2,
            |key| key.memory_mib = 513,
            |key| key.cmdline.push('1'),
            |key| key.shares = true,
            |key| key.host.push('1'),
        ];
        let mut names = std::collections::BTreeSet::from([key().name()]);
        for change in changes {
            let mut other = key();
            change(&mut other);
            assert!(names.insert(other.name()), "{other:?}");
        }
    }
}
