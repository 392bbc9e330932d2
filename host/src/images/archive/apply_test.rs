use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::images::archive::attributes::OVERRIDE;
use crate::images::archive::finish::Extent;

/// Entries of a layer, written with the crate `tar`.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Any name, also one that the crate would refuse.
    fn raw(mut self, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = header(kind, content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.raw(EntryType::Regular, path.as_bytes(), b"", content)
    }

    fn directory(self, path: &str) -> Self {
        self.raw(EntryType::Directory, path.as_bytes(), b"", b"")
    }

    fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.raw(kind, path.as_bytes(), target.as_bytes(), b"")
    }

    fn extended(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1001);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header
}

fn small() -> Limits {
    Limits { entries: 100, bytes: 1 << 20, ..Limits::default() }
}

/// A folder with a root in it, beside something that must stay as it is.
struct Bed {
    folder: TempDir,
    applier: Applier,
}

impl Bed {
    fn new() -> Self {
        Self::with(small(), Specials::Refuse)
    }

    fn with(limits: Limits, specials: Specials) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("outside"), "as it was").unwrap();
        let root = fs::File::open(folder.path().join("root")).unwrap();
        Self { applier: Applier::new(OwnedFd::from(root), limits, specials), folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn apply(&mut self, layer: &[u8]) -> Result<(), LayerError> {
        self.applier.apply(layer).map(drop)
    }

    fn finish(self) -> (TempDir, Extent, Vec<u8>) {
        let mut owners = Vec::new();
        let extent = self.applier.finish(&mut owners).unwrap();
        (self.folder, extent, owners)
    }
}

/// What applying one layer says is wrong; nothing outside of the root may change.
fn refused(layer: Layer) -> Fault {
    let mut bed = Bed::new();
    let error = bed.apply(&layer.bytes()).expect_err("a wrong layer");
    assert_eq!(fs::read_to_string(bed.folder.path().join("outside")).unwrap(), "as it was");
    assert_eq!(fs::read_dir(bed.folder.path()).unwrap().count(), 2);
    assert!(!error.fault.to_string().is_empty() && !error.fault.remedy().is_empty());
    error.fault
}

fn recorded(path: &Path) -> String {
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(path, OVERRIDE, &mut value[..]).unwrap();
    String::from_utf8(value[..length].to_vec()).unwrap()
}

#[test]
fn a_layer_becomes_a_tree() {
    let mut bed = Bed::new();
    let layer = Layer::new()
        .directory("./")
        .directory("./a/")
        .file("./a/file", b"content")
        .link(EntryType::Link, "a/again", "./a/file")
        .link(EntryType::Symlink, "a/soft", "/etc/passwd")
        .file("deep/er/file", b"");
    bed.apply(&layer.bytes()).unwrap();
    assert_eq!(fs::read(bed.path("a/file")).unwrap(), b"content");
    let (one, two) =
        (bed.path("a/file").metadata().unwrap(), bed.path("a/again").metadata().unwrap());
    assert_eq!(one.ino(), two.ino());
    assert_eq!(fs::read_link(bed.path("a/soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(recorded(&bed.path("a/file")), "1000:1001:644");
    assert_eq!(recorded(&bed.path("deep")), "0:0:755", "made on the way");
    assert_eq!(one.mtime(), 1_000_000_000);
    let (folder, extent, owners) = bed.finish();
    assert_eq!(extent.entries, 7);
    assert_eq!(owners, b"1000:1001 a/soft\0");
    let times = |name: &str| folder.path().join("root").join(name).metadata().unwrap().mtime();
    assert_eq!((times("a"), times("deep")), (1_000_000_000, 0));
}

#[test]
fn set_id_bits_go_and_the_rest_of_a_mode_is_recorded() {
    let mut header = header(EntryType::Regular, 0);
    header.set_path("su").unwrap();
    header.set_mode(0o7711);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, &b""[..]).unwrap();
    let mut bed = Bed::new();
    bed.apply(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(recorded(&bed.path("su")), "1000:1001:1711");
    let mode = bed.path("su").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(bed.applier.notes().cleared_set_id, 1);
}

#[test]
fn only_attributes_of_users_are_set() {
    let records: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.user.kept", b"a\nb=c"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.containers.override_stat", b"0:0:4755"),
        ("SCHILY.xattr.system.posix_acl_access", b"x"),
    ];
    let mut bed = Bed::new();
    bed.apply(&Layer::new().extended(&records).file("f", b"").bytes()).unwrap();
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(bed.path("f"), "user.kept", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"a\nb=c");
    assert_eq!(recorded(&bed.path("f")), "1000:1001:644");
    assert_eq!(bed.applier.notes().dropped_xattrs, 4);
    assert!(rustix::fs::getxattr(bed.path("f"), "security.capability", &mut value[..]).is_err());
}

#[test]
fn whiteouts_remove_what_is_below_and_keep_what_the_layer_made() {
    let mut bed = Bed::new();
    let below =
        Layer::new().file("a/old", b"").file("b/old", b"").file("b/both", b"1").file("c", b"");
    bed.apply(&below.bytes()).unwrap();
    let above = Layer::new()
        .file("b/new", b"")
        .file("b/both", b"2")
        .file(".wh.c", b"")
        .file("b/.wh..wh..opq", b"")
        .file(".wh.a", b"")
        .file("a/new", b"")
        .file(".wh.absent", b"")
        .file(".wh..wh.plnk", b"");
    bed.apply(&above.bytes()).unwrap();
    for gone in ["c", "b/old", "a/old", ".wh.c", "b/.wh..wh..opq", ".wh..wh.plnk"] {
        assert!(!bed.path(gone).exists(), "{gone}");
    }
    for there in ["b/new", "a/new"] {
        assert!(bed.path(there).exists(), "{there}");
    }
    assert_eq!(fs::read(bed.path("b/both")).unwrap(), b"2");
    // A whiteout after the same layer's own entry leaves that alone.
    let own = Layer::new().file("b/more", b"").file(".wh.b", b"");
    bed.apply(&own.bytes()).unwrap();
    assert!(bed.path("b/more").exists() && !bed.path("b/new").exists());
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let mut bed = Bed::new();
    let layer = Layer::new()
        .file("x", b"file")
        .directory("x")
        .file("x/y", b"")
        .link(EntryType::Symlink, "x", "elsewhere")
        .file("x", b"again");
    bed.apply(&layer.bytes()).unwrap();
    assert_eq!(fs::read(bed.path("x")).unwrap(), b"again");
    assert!(!bed.path("elsewhere").exists());
}

#[test]
fn a_link_changed_in_a_layer_above_leaves_its_other_name() {
    let mut bed = Bed::new();
    bed.apply(&Layer::new().file("a", b"1").link(EntryType::Link, "b", "a").bytes()).unwrap();
    bed.apply(&Layer::new().file("a", b"2").bytes()).unwrap();
    assert_eq!(fs::read(bed.path("b")).unwrap(), b"1");
}

#[test]
fn zeros_become_holes() {
    let mut content = vec![0; 300_000];
    content[100_000] = 1;
    let mut bed = Bed::new();
    bed.apply(&Layer::new().file("f", &content).bytes()).unwrap();
    assert_eq!(fs::read(bed.path("f")).unwrap(), content);
    let blocks = bed.path("f").metadata().unwrap().blocks();
    assert!(blocks <= 16, "{blocks} blocks of 512 bytes");
}

#[test]
fn what_leaves_the_root_is_refused() {
    let file = |path: &str| Layer::new().file(path, b"x");
    assert!(matches!(refused(file("../outside")), Fault::Parent));
    assert!(matches!(refused(file("a/../../outside")), Fault::Parent));
    assert!(matches!(refused(file("/outside")), Fault::Absolute));
    let through = Layer::new().link(EntryType::Symlink, "l", "..").file("l/outside", b"x");
    assert!(matches!(refused(through), Fault::Through));
    let nested = Layer::new()
        .directory("d")
        .link(EntryType::Symlink, "d/l", "../..")
        .file("d/l/sub/file", b"x");
    assert!(matches!(refused(nested), Fault::Through));
    let whiteout = Layer::new().link(EntryType::Symlink, "l", "..").file("l/.wh.outside", b"");
    assert!(matches!(refused(whiteout), Fault::Through));
    let opaque = Layer::new().link(EntryType::Symlink, "l", "..").file("l/.wh..wh..opq", b"");
    assert!(matches!(refused(opaque), Fault::Through));
    assert!(matches!(refused(file("a/.wh...")), Fault::Whiteout));
    let hard = |target| Layer::new().link(EntryType::Link, "h", target);
    assert!(matches!(refused(hard("../outside")), Fault::Parent));
    assert!(matches!(refused(hard("/etc/passwd")), Fault::Absolute));
    let hard =
        Layer::new().link(EntryType::Symlink, "l", "..").link(EntryType::Link, "h", "l/outside");
    assert!(matches!(refused(hard), Fault::Through));
    let file_in_the_way = Layer::new().file("f", b"").file("f/g", b"");
    assert!(matches!(refused(file_in_the_way), Fault::Through));
    let opaque_above = Layer::new().file(".wh..", b"");
    assert!(matches!(refused(opaque_above), Fault::Whiteout));
}

#[test]
fn a_parent_that_became_a_link_is_not_entered_by_its_descriptor() {
    // The second file's directory is the one of the entry before, which is gone by then.
    let layer =
        Layer::new().file("d/one", b"").link(EntryType::Symlink, "d", "..").file("d/outside", b"x");
    assert!(matches!(refused(layer), Fault::Through));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let entry = |kind, path: &str, link: &str| Layer::new().link(kind, path, link);
    assert!(matches!(refused(entry(EntryType::Char, "null", "")), Fault::Special(_)));
    assert!(matches!(refused(entry(EntryType::Fifo, "pipe", "")), Fault::Special(_)));
    assert!(matches!(refused(entry(EntryType::new(b'Z'), "x", "")), Fault::Type('Z')));
    assert!(matches!(refused(entry(EntryType::Symlink, "x", "")), Fault::Empty));
    assert!(matches!(refused(entry(EntryType::Link, "x", "x")), Fault::HardLink(_)));
    assert!(matches!(refused(entry(EntryType::Link, "x", "absent")), Fault::HardLink(_)));
    assert!(matches!(refused(Layer::new().file(".", b"")), Fault::Root));
    let folder = Layer::new().directory("d").link(EntryType::Link, "x", "d");
    assert!(matches!(refused(folder), Fault::HardLink(_)));
    let swallowed = Layer::new().file("d/f", b"").link(EntryType::Link, "d", "d/f");
    assert!(matches!(refused(swallowed), Fault::HardLink(_)));
    let far = Layer::new().extended(&[("linkpath", &[b'a'; 4096])]);
    assert!(matches!(refused(far.link(EntryType::Symlink, "l", "")), Fault::Length));
    let owner = Layer::new().extended(&[("uid", b"4294967295")]).file("f", b"");
    assert!(matches!(refused(owner), Fault::Owner { .. }));
    let nul = Layer::new().extended(&[("path", b"a\0b")]).file("f", b"");
    assert!(matches!(refused(nul), Fault::Nul));
    let long = Layer::new().extended(&[("path", &[b'a'; 256])]).file("f", b"");
    assert!(matches!(refused(long), Fault::Length));
    let many = (0..70)
        .fold(Layer::new(), |layer, _| layer)
        .extended(&(0..70).map(|_| ("SCHILY.xattr.user.a", &b"x"[..])).collect::<Vec<_>>());
    assert!(matches!(refused(many.file("f", b"")), Fault::Xattrs));
}

#[test]
fn limits_end_a_layer() {
    let many = (0..101).fold(Layer::new(), |layer, number| layer.file(&format!("f{number}"), b""));
    assert!(matches!(refused(many), Fault::Entries(100)));
    let deep = (0..60).map(|_| "d/").collect::<String>();
    let deep = Layer::new()
        .extended(&[("path", format!("a/{deep}f").as_bytes())])
        .file("f", b"")
        .extended(&[("path", format!("b/{deep}f").as_bytes())])
        .file("f", b"");
    // Directories on the way count.
    assert!(matches!(refused(deep), Fault::Entries(100)));
    let size = Layer::new().extended(&[("size", b"2000000")]).file("f", b"");
    assert!(matches!(refused(size), Fault::Bytes(_)));
    let huge = Layer::new().extended(&[("size", b"18446744073709551615")]).file("f", b"");
    assert!(matches!(refused(huge), Fault::Number("size")));
    let again = (0..40).fold(Layer::new(), |layer, number| layer.file(&format!("d/{number}"), b""));
    let again = (0..40).fold(again, |layer, _| layer.file("d/.wh..wh..opq", b""));
    assert!(matches!(refused(again), Fault::Whiteouts));
}

#[test]
fn special_files_can_be_left_out() {
    let mut bed = Bed::with(small(), Specials::Skip);
    bed.apply(&Layer::new().link(EntryType::Block, "dev/sda", "").file("f", b"").bytes()).unwrap();
    assert!(bed.path("f").exists() && !bed.path("dev/sda").exists());
    assert_eq!(bed.applier.notes().skipped_specials, 1);
}

#[test]
fn an_archive_that_is_cut_or_changed_is_refused() {
    let whole = Layer::new().file("f", &[7; 2000]).bytes();
    for length in [100, 512, 1000, 2048] {
        let error = Bed::new().apply(&whole[..length]).expect_err("cut");
        assert!(matches!(error.fault, Fault::Truncated), "{length}: {error:?}");
    }
    // Between entries a cut can't be told from an end without a mark, which layers may have.
    for length in [0, 2512, 2560] {
        assert!(Bed::new().apply(&whole[..length]).is_ok(), "{length}");
        let mut strict = Bed::new();
        strict.applier.require_mark();
        let error = strict.apply(&whole[..length]).expect_err("cut");
        assert!(matches!(error.fault, Fault::Truncated), "{length}: {error:?}");
    }
    let mut changed = whole;
    changed[0] ^= 1;
    assert!(matches!(Bed::new().apply(&changed).unwrap_err().fault, Fault::Checksum));
}

#[test]
fn sparse_files_of_all_forms_are_read() {
    // Format 1.0: the map is in the data. 4 bytes at 0 and 4 at 8192, 10000 in all.
    let mut data = b"2\n0\n4\n8192\n4\n".to_vec();
    data.resize(512, 0);
    data.extend(b"headtail");
    let mut expected = vec![0; 10_000];
    expected[..4].copy_from_slice(b"head");
    expected[8192..8196].copy_from_slice(b"tail");
    let new: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"new"),
        ("GNU.sparse.realsize", b"10000"),
    ];
    let map: [(&str, &[u8]); 2] =
        [("GNU.sparse.size", b"10000"), ("GNU.sparse.map", b"0,4,8192,4")];
    let pairs: [(&str, &[u8]); 5] = [
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"4"),
        ("GNU.sparse.offset", b"8192"),
        ("GNU.sparse.numbytes", b"4"),
    ];
    let layer = Layer::new()
        .extended(&new)
        .file("GNUSparseFile.0/new", &data)
        .extended(&map)
        .file("map", b"headtail")
        .extended(&pairs)
        .file("pairs", b"headtail");
    let mut bed = Bed::new();
    bed.apply(&layer.bytes()).unwrap();
    for name in ["new", "map", "pairs"] {
        assert_eq!(fs::read(bed.path(name)).unwrap(), expected, "{name}");
    }
    let lies: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"10"), ("GNU.sparse.map", b"0,4,8192,4")];
    assert!(matches!(refused(Layer::new().extended(&lies).file("x", b"headtail")), Fault::Sparse));
    let global: [(&str, &[u8]); 1] = [("path", b"x")];
    let mut bytes = Layer::new().extended(&global).file("f", b"").bytes();
    bytes[156] = b'g';
    let mut header = Header::from_byte_slice(&bytes[..512]).clone();
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    assert!(matches!(Bed::new().apply(&bytes).unwrap_err().fault, Fault::Global(_)));
}

/// Names that collide, nest, lead out, or mean removal.
fn any_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned),
        1 => prop_oneof![Just(".."), Just("."), Just(""), Just(".wh.a"), Just(".wh..wh..opq")]
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn any_entry() -> impl Strategy<Value = (u8, String, String)> {
    let kind = prop_oneof![Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5'), Just(b'6')];
    (kind, any_path(), prop_oneof![any_path(), Just("../outside".to_owned())])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the entries are, nothing outside of the root changes, and what was applied can be
    /// walked to its end.
    #[test]
    fn nothing_outside_changes(layers in prop::collection::vec(
        prop::collection::vec(any_entry(), 1..12), 1..3)) {
        let mut bed = Bed::with(small(), Specials::Skip);
        for entries in layers {
            let layer = entries.iter().fold(Layer::new(), |layer, (kind, path, link)| {
                layer.raw(EntryType::new(*kind), path.as_bytes(), link.as_bytes(), b"")
            });
            if bed.apply(&layer.bytes()).is_err() {
                break;
            }
        }
        let outside = fs::read_to_string(bed.folder.path().join("outside")).unwrap();
        prop_assert_eq!(outside, "as it was");
        prop_assert_eq!(fs::read_dir(bed.folder.path()).unwrap().count(), 2);
        bed.finish();
    }

    /// Whatever the bytes are, there is an end and no panic.
    #[test]
    fn any_bytes_come_to_an_end(mut bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut bed = Bed::new();
        bed.apply(&bytes).ok();
        // With a right checksum, to come further.
        if bytes.len() >= 512 {
            let mut header = Header::from_byte_slice(&bytes[..512]).clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
            bed.apply(&bytes).ok();
        }
    }

    /// What is written by the crate `tar` is read as it was.
    #[test]
    fn content_comes_back(content in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..20_000)) {
        let mut bed = Bed::new();
        let mut layer = Vec::new();
        layer.write_all(&Layer::new().file("f", &content).bytes()).unwrap();
        bed.apply(&layer).unwrap();
        prop_assert_eq!(fs::read(bed.path("f")).unwrap(), content);
    }
}
