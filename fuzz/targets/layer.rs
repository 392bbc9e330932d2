//! Bytes of a hostile image: a layer that is applied to a directory, as it is and after a layer with links
//! that lead out. Whatever it does, it does within the directory.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use cloister::images::archive::apply::{Applier, Specials};
use cloister::images::archive::compression::unpack;
use cloister::images::limits::Limits;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

/// A folder in memory with something beside the root that must stay.
fn folder() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // From fuzz/run, which removes it: a process of libFuzzer ends without its destructors.
        let folder = PathBuf::from(std::env::var_os("FUZZ_FOLDER").expect("FUZZ_FOLDER is set"))
            .join(std::process::id().to_string());
        std::fs::create_dir_all(&folder).expect("a folder in memory");
        std::fs::write(folder.join("outside"), "as it was").expect("a folder in memory");
        folder
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, layer)) = input.split_first() else { return };
    let mut layer = layer.to_vec();
    // Right checksums in every block that could be a header, or nothing would come far.
    if choice & 1 != 0 {
        for block in layer.chunks_exact_mut(BLOCK) {
            let sum: u32 = block
                .iter()
                .enumerate()
                .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
                .sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        layer.extend([0; 2 * BLOCK]);
    }
    let root = folder().join("root");
    std::fs::create_dir(&root).expect("a folder in memory");
    std::os::unix::fs::symlink("..", root.join("a")).expect("a folder in memory");
    let limits = Limits { entries: 200, bytes: 1 << 20, free_expansion: 1 << 16, ratio: 50 };
    let specials = if choice & 2 != 0 { Specials::Skip } else { Specials::Refuse };
    let mut applier =
        Applier::new(OwnedFd::from(File::open(&root).expect("a root")), limits, specials);
    for part in layer.chunks(layer.len().div_ceil(1 + usize::from(choice >> 7)).max(1)) {
        if let Ok(unpacked) = unpack(part, &limits)
            && applier.apply(unpacked).is_err()
        {
            break;
        }
    }
    applier.finish(&mut Vec::new()).ok();
    let outside = std::fs::read(folder().join("outside")).expect("what was outside");
    assert_eq!(outside, b"as it was");
    assert_eq!(std::fs::read_dir(folder()).expect("a folder").count(), 2);
    std::fs::remove_dir_all(&root).expect("a root that can be removed");
});
