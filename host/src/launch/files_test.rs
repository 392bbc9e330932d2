use super::*;

#[test]
fn files_lie_beside_the_program() {
    let files = Files::relative_to(Path::new("/usr/local/bin"), None, None);
    assert_eq!(files.vmm, Path::new("/usr/local/bin/cloister-vmm"));
    assert_eq!(files.kernel, Path::new("/usr/local/lib/cloister/vmlinux"));
    assert_eq!(files.root, Path::new("/usr/local/lib/cloister/rootfs.cpio"));
    assert_eq!(files.kvm, Path::new("/dev/kvm"));
}

#[test]
fn others_can_be_named() {
    let (kernel, root) = (PathBuf::from("k"), PathBuf::from("/r"));
    let files = Files::relative_to(Path::new("/out/bin"), Some(kernel.clone()), Some(root.clone()));
    assert_eq!((files.kernel, files.root), (kernel, root));
}

#[test]
fn every_way_to_miss_a_file_has_its_words() {
    let files = Files {
        vmm: "/no/vmm".into(),
        jailer: "/no/jailer".into(),
        kernel: "/no/kernel".into(),
        root: "/dev".into(),
        kvm: "/no/kvm".into(),
    };
    for (error, words, remedy) in [
        (
            check_program(Role::Vmm, &files.vmm).unwrap_err(),
            "can't open the program cloister-vmm (/no/vmm)",
            "beside the program cloister",
        ),
        (
            files.open_kernel().unwrap_err(),
            "can't open the guest kernel (/no/kernel)",
            "--kernel or CLOISTER_KERNEL",
        ),
        (
            files.open_root().unwrap_err(),
            "the guest root (/dev) is not a regular file",
            "--rootfs or CLOISTER_ROOTFS",
        ),
        (
            files.open_kvm().unwrap_err(),
            "can't open the KVM device (/no/kvm)",
            "load the module kvm_intel or kvm_amd",
        ),
    ] {
        assert_eq!(error.to_string(), words);
        assert!(error.remedy().unwrap().contains(remedy), "{error:?}");
    }
    let denied = FileError::open(
        Role::Kvm,
        Path::new("/dev/kvm"),
        io::Error::from_raw_os_error(libc::EACCES),
    );
    assert!(denied.remedy().unwrap().contains("usermod -aG kvm"));
}
