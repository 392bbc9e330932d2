//! Every kind of source, made by real tools, and what becomes of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use cloister::images::digest::Digest;
use serde_json::{Value, json};

use super::bed::{Bed, Parts, gzip, layer, text, tool};

/// An OCI layout made by umoci: three layers, with a whiteout and an opaque directory.
pub(crate) fn made_by_umoci(bed: &Bed) -> String {
    let layout = bed.path("umoci").to_str().unwrap().to_owned();
    let image = format!("{layout}:latest");
    let files = bed.path("files");
    fs::create_dir_all(files.join("sub")).unwrap();
    fs::write(files.join("sub/kept"), "kept").unwrap();
    fs::write(files.join("gone"), "gone").unwrap();
    fs::hard_link(files.join("gone"), files.join("linked")).unwrap();
    symlink("/etc/passwd", files.join("soft")).unwrap();
    let sparse = fs::File::create(files.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    fs::create_dir(bed.path("more")).unwrap();
    fs::write(bed.path("more/new"), "new").unwrap();
    tool("umoci", &["init", "--layout", &layout]);
    tool("umoci", &["new", "--image", &image]);
    let insert = |words: &[&str]| {
        tool("umoci", &[&["insert", "--rootless", "--image", &image], words].concat())
    };
    insert(&[files.to_str().unwrap(), "/data"]);
    insert(&["--whiteout", "/data/gone"]);
    insert(&["--opaque", bed.path("more").to_str().unwrap(), "/data/sub"]);
    tool(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--architecture",
            "amd64",
            "--os",
            "linux",
            "--config.entrypoint",
            "/bin/agent",
            "--config.cmd=--all",
            "--config.user",
            "7:8",
            "--config.workingdir",
            "/data",
            "--config.env",
            "KEY=value",
        ],
    );
    layout
}

fn check_umoci_root(root: &Path) {
    let data = root.join("data");
    assert_eq!(fs::read_to_string(data.join("sub/new")).unwrap(), "new");
    assert!(!data.join("sub/kept").exists(), "the directory is opaque");
    assert!(!data.join("gone").exists(), "it is whited out");
    assert_eq!(fs::read_to_string(data.join("linked")).unwrap(), "gone");
    assert_eq!(fs::read_link(data.join("soft")).unwrap(), Path::new("/etc/passwd"));
    let sparse = data.join("sparse").metadata().unwrap();
    assert_eq!((sparse.len(), sparse.blocks()), (50 << 20, 0));
}

#[test]
fn layouts_and_archives_of_real_tools_give_one_root() {
    let bed = Bed::new();
    let layout = made_by_umoci(&bed);
    let source = format!("oci:{layout}:latest");
    let copy = |to: &str| tool("skopeo", &["--insecure-policy", "copy", "--quiet", &source, to]);
    let (oci, docker) = (bed.path("oci.tar"), bed.path("docker.tar"));
    copy(&format!("oci-archive:{}:made:1", oci.display()));
    copy(&format!("docker-archive:{}:made:2", docker.display()));
    let packed = bed.path("packed.tar.gz");
    fs::write(&packed, gzip(&fs::read(&docker).unwrap())).unwrap();
    bed.good(&["import", "--name", "layout:1", &layout]);
    bed.good(&["import", oci.to_str().unwrap()]);
    let (out, _) = bed.good(&["import", docker.to_str().unwrap()]);
    assert!(out.contains("made:2 sha256:"), "the archive's own name: {out}");
    bed.good(&["import", "--name", "packed:1", packed.to_str().unwrap()]);
    let images = bed.list();
    assert_eq!(images.len(), 4, "{images:?}");
    let roots: Vec<_> =
        images.iter().map(|image| bed.root(image["name"].as_str().unwrap())).collect();
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
    check_umoci_root(&roots[0]);
    for image in &images {
        assert_eq!(image["run"]["command"], json!(["/bin/agent", "--all"]));
        assert_eq!(image["run"]["user"], "7:8");
        assert_eq!(image["run"]["workdir"], "/data");
        assert!(image["run"]["env"].as_array().unwrap().contains(&"KEY=value".into()));
    }
    let (table, _) = bed.good(&["ls"]);
    assert!(table.contains("made:1") && table.contains("/bin/agent --all (as 7:8)"), "{table}");
}

#[test]
fn a_layout_by_hand_is_imported_from_a_folder_an_archive_and_a_pipe() {
    let bed = Bed::new();
    let parts = Parts::new(vec![small_layer()]);
    let folder = bed.path("layout");
    parts.write_folder(&folder);
    let (out, err) = bed.good(&["import", folder.to_str().unwrap()]);
    assert_eq!(out, format!("made:1 {}\n", parts.digest()));
    assert!(err.contains("OCI layout with 2 entries"), "{err}");
    let mut child = bed.command(&["import", "--name", "piped", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&zstd::encode_all(&parts.archive()[..], 1).unwrap())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), format!("piped:latest {}\n", parts.digest()));
    let pinned = format!("x@{}", parts.digest());
    bed.good(&["import", "--name", &pinned, folder.to_str().unwrap()]);
    assert_eq!(bed.counts(), [3, 1, 0], "all three are one image");
}

#[test]
fn of_several_processors_this_hosts_is_taken() {
    let bed = Bed::new();
    let mut parts = Parts::new(vec![small_layer()]);
    let mut own = parts.index["manifests"][0].clone();
    own["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = own.clone();
    other["platform"]["architecture"] = json!("arm64");
    other["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    // An index in the layout's own index, as builders for several processors write it.
    let nest = |parts: &mut Parts, manifests: Value| {
        let kind = "application/vnd.oci.image.index.v1+json";
        let nested = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let bytes = nested.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        parts.index["manifests"][0] =
            json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()});
        parts.blobs.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        digest
    };
    let index = nest(&mut parts, json!([other, own]));
    parts.write_folder(&bed.path("both"));
    // The digest that somebody pins is that of the index.
    let name = format!("both@{index}");
    let (out, _) = bed.good(&["import", "--name", &name, bed.path("both").to_str().unwrap()]);
    assert_eq!(out, format!("{name} {}\n", parts.digest()));
    nest(&mut parts, json!([other]));
    parts.write_folder(&bed.path("other"));
    let error = bed.bad(&["import", "--name", "x", bed.path("other").to_str().unwrap()]);
    assert!(error.contains("none of the 1 manifests in the index is for linux/amd64"), "{error}");
}

fn small_layer() -> Vec<u8> {
    layer(&[("bin/agent", b"#!/bin/sh\n")])
}

#[test]
fn a_directory_and_tarballs_of_it_give_one_root() {
    let bed = Bed::new();
    let root = bed.path("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("bin/tool"), "tool").unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(root.join("bin/tool"), root.join("bin/same")).unwrap();
    symlink("bin", root.join("sbin")).unwrap();
    fs::write(root.join(format!("{}-long", "n".repeat(200))), "long").unwrap();
    rustix::fs::setxattr(
        root.join("bin/tool"),
        "user.note",
        b"a\nb",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let folder = root.to_str().unwrap();
    let plain = bed.path("plain.tar");
    let words = ["--xattrs", "--format=pax", "--sort=name", "-C", folder, "-cf"];
    tool("tar", &[&words[..], &[plain.to_str().unwrap(), "."]].concat());
    fs::write(bed.path("packed.tgz"), gzip(&fs::read(&plain).unwrap())).unwrap();
    tool(
        "zstd",
        &["-q", plain.to_str().unwrap(), "-o", bed.path("best.tar.zst").to_str().unwrap()],
    );
    let (_, err) = bed.good(&["import", "--name", "folder", folder]);
    assert!(err.contains("set-id bits cleared"), "{err}");
    for (name, source) in
        [("plain", "plain.tar"), ("packed", "packed.tgz"), ("best", "best.tar.zst")]
    {
        let (out, _) = bed.good(&["import", bed.path(source).to_str().unwrap()]);
        assert!(out.starts_with(&format!("{name}:latest ")), "{out}");
    }
    let expected = described(&bed.root("folder"));
    let uid = fs::metadata(&root).unwrap().uid();
    assert!(
        expected.iter().any(|line| line.starts_with(&format!("bin/tool {uid}:"))),
        "{expected:?}"
    );
    assert!(expected.iter().any(|line| line.contains(":750 note=a\\nb")), "{expected:?}");
    for name in ["plain", "packed", "best"] {
        assert_eq!(described(&bed.root(name)), expected, "{name}");
    }
    let inodes = ["tool", "same"]
        .map(|name| bed.root("plain").join("bin").join(name).metadata().unwrap().ino());
    assert_eq!(inodes[0], inodes[1]);
}

/// Every file of a root with what is recorded of it, its time and its content.
fn described(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let shown = path.strip_prefix(root).unwrap().display().to_string();
            let time = format!("{}.{}", metadata.mtime(), metadata.mtime_nsec());
            if metadata.is_symlink() {
                lines.push(format!("{shown} -> {:?} {time}", fs::read_link(&path).unwrap()));
                continue;
            }
            let attribute = |name: &str| {
                let mut value = [0; 100];
                let length = rustix::fs::getxattr(&path, name, &mut value[..]).unwrap_or(0);
                text(&value[..length]).escape_default().to_string()
            };
            let owner = attribute("user.containers.override_stat");
            let note = attribute("user.note");
            let content = fs::read(&path).unwrap_or_default();
            lines.push(format!("{shown} {owner} note={note} {time} {content:?}"));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    lines.sort();
    lines
}

#[test]
fn special_files_are_refused_or_left_out() {
    let bed = Bed::new();
    let root = bed.path("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "").unwrap();
    tool("mkfifo", &[root.join("pipe").to_str().unwrap()]);
    let error = bed.bad(&["import", root.to_str().unwrap()]);
    assert!(error.contains("pipe is a FIFO") && error.contains("--skip-special"), "{error}");
    assert_eq!(bed.counts(), [0, 0, 0]);
    let (_, told) = bed.good(&["import", "--skip-special", root.to_str().unwrap()]);
    assert!(told.contains("1 special files left out"), "{told}");
}

#[test]
fn what_is_removed_is_gone_and_what_is_shared_stays() {
    let bed = Bed::new();
    let shared = layer(&[("shared", b"1")]);
    for name in ["one", "two"] {
        let parts = Parts::new(vec![shared.clone(), layer(&[("own", name.as_bytes())])]);
        fs::write(bed.path(name), parts.archive()).unwrap();
        bed.good(&["import", "--name", name, bed.path(name).to_str().unwrap()]);
    }
    assert_eq!(bed.counts(), [7, 2, 0]);
    let (out, _) = bed.good(&["rm", "one"]);
    assert_eq!(out, "one:latest\n");
    assert_eq!(bed.counts(), [4, 1, 0]);
    // A name that goes to another image leaves the first without one.
    bed.good(&["import", "--name", "two", bed.path("one").to_str().unwrap()]);
    assert_eq!(bed.counts(), [7, 2, 0]);
    let (out, _) = bed.good(&["gc"]);
    assert!(out.contains("removed 3 blobs") && out.contains("1 roots"), "{out}");
    let digest = bed.list()[0]["digest"].as_str().unwrap()[7..20].to_owned();
    bed.good(&["rm", &digest]);
    assert_eq!(bed.counts(), [0, 0, 0]);
}

#[test]
fn an_ordinary_user_gets_the_same_root() {
    // Only root can become somebody else; anybody else is ordinary in every other test.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bed = Bed::new();
    fs::set_permissions(bed.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let home = bed.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("etc/secret").unwrap();
    header.set_uid(0);
    header.set_gid(42);
    header.set_mode(0o640);
    header.set_size(0);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b""[..]).unwrap();
    fs::write(bed.path("base.tar"), builder.into_inner().unwrap()).unwrap();
    bed.good(&["import", bed.path("base.tar").to_str().unwrap()]);
    // The program lies where nobody but root may look.
    let program = bed.path("cloister");
    fs::copy(env!("CARGO_BIN_EXE_cloister"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["image", "import", bed.path("base.tar").to_str().unwrap()])
        .env_clear()
        .env("HOME", &home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let roots = home.join(".local/share/cloister/images/roots");
    let own = fs::read_dir(roots).unwrap().next().unwrap().unwrap().path().join("fs");
    assert_eq!(described(&own), described(&bed.root("base")));
    assert!(described(&own).iter().any(|line| line.starts_with("etc/secret 0:42:640")));
    assert_eq!(own.join("etc/secret").metadata().unwrap().uid(), 65534);
}
