//! Wrong images: each error says what is wrong, where, and what to do; nothing of them stays.

use std::fs;

use serde_json::json;
use tar::EntryType;

use super::bed::{Bed, Parts, entries_of, gzip, layer};

/// A case: its name, what is imported, further words of the command, and what the error must say.
struct Case(&'static str, Vec<u8>, &'static [&'static str], &'static [&'static str]);

fn parts() -> Parts {
    Parts::new(vec![layer(&[("bin/agent", b"#!/bin/sh\n")])])
}

fn changed(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut parts = parts();
    change(&mut parts);
    parts.archive()
}

/// An image of two layers, the second of which has these entries.
fn second(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let below = entries_of(&[(EntryType::Symlink, "usr/up", "../..", b"")]);
    Parts::new(vec![below, entries_of(entries)]).archive()
}

fn one(kind: EntryType, path: &str, link: &str) -> Vec<u8> {
    second(&[(kind, path, link, b"")])
}

const LAYER: &str = "layer 2 of 2 can't be unpacked: entry 1";

fn layer_cases() -> Vec<Case> {
    let file = EntryType::Regular;
    vec![
        Case("parent", one(file, "../evil", ""), &[], &[LAYER, "\"../evil\"", "by \"..\""]),
        Case("inner parent", one(file, "a/../../evil", ""), &[], &[LAYER, "by \"..\""]),
        Case("absolute", one(file, "/etc/evil", ""), &[], &[LAYER, "/etc/evil", "absolute"]),
        Case(
            "through a link",
            one(file, "usr/up/evil", ""),
            &[],
            &[LAYER, "usr/up/evil", "symbolic link"],
        ),
        Case(
            "hard link out",
            one(EntryType::Link, "h", "../../etc/passwd"),
            &[],
            &[LAYER, "by \"..\""],
        ),
        Case(
            "hard link through",
            one(EntryType::Link, "h", "usr/up/etc"),
            &[],
            &[LAYER, "symbolic link"],
        ),
        Case(
            "hard link to nothing",
            one(EntryType::Link, "h", "no"),
            &[],
            &[LAYER, "\"no\"", "no file that came before"],
        ),
        Case(
            "device",
            one(EntryType::Char, "dev/null", ""),
            &[],
            &[LAYER, "dev/null", "character device", "--skip-special"],
        ),
        Case("block device", one(EntryType::Block, "sda", ""), &[], &[LAYER, "block device"]),
        Case("fifo", one(EntryType::Fifo, "pipe", ""), &[], &[LAYER, "FIFO"]),
        Case("whiteout up", one(file, "usr/.wh...", ""), &[], &[LAYER, "whiteout"]),
        Case("whiteout through", one(file, "usr/up/.wh.etc", ""), &[], &[LAYER, "symbolic link"]),
        Case("unknown type", one(EntryType::new(b'Q'), "q", ""), &[], &[LAYER, "unknown type 'Q'"]),
        Case("root a file", one(file, ".", ""), &[], &["root"]),
        Case("escape codes", one(file, "../\x1b[2J", ""), &[], &["\\\\x1b[2J"]),
    ]
}

fn image_cases() -> Vec<Case> {
    let good = layer(&[("bin/agent", b"#!/bin/sh\n")]);
    let hex = |parts: &Parts, index: usize| parts.files()[index].0.clone();
    let mut cut = good.clone();
    cut.truncate(515);
    vec![
        Case(
            "no JSON",
            changed(|p| p.blobs.push(("index.json".into(), b"{".to_vec()))),
            &[],
            &["index", "line 1 column 1"],
        ),
        Case(
            "old layout",
            changed(|p| p.layout = json!({"imageLayoutVersion": "9"})),
            &[],
            &["\"9\"", "1.0.0"],
        ),
        Case(
            "no layout version",
            changed(|p| p.layout = json!({})),
            &[],
            &["oci-layout", "imageLayoutVersion"],
        ),
        Case(
            "layer changed",
            changed(|p| {
                let n = hex(p, 2);
                p.blobs.push((n, vec![0; p.layers[0].len()]));
            }),
            &[],
            &["layer 1 of 1", "has the digest"],
        ),
        Case(
            "layer cut",
            changed(|p| {
                let n = hex(p, 2);
                p.blobs.push((n, vec![0; 100]));
            }),
            &[],
            &["layer 1 of 1", "has 100 bytes, not"],
        ),
        Case(
            "layer longer",
            changed(|p| {
                let n = hex(p, 2);
                p.blobs.push((n, vec![0; 1 << 20]));
            }),
            &[],
            &["layer 1 of 1", "bytes, not"],
        ),
        Case(
            "configuration changed",
            changed(|p| {
                let n = hex(p, 3);
                p.blobs.push((n, b"{}".to_vec()));
            }),
            &[],
            &["blobs/sha256/", "has the digest"],
        ),
        Case(
            "manifest changed",
            changed(|p| {
                let n = hex(p, 4);
                p.blobs.push((n, b"{}".to_vec()));
            }),
            &[],
            &["blobs/sha256/", "has the digest"],
        ),
        Case("no layer", changed(|p| p.layers.clear()), &[], &["the image has no \"blobs/sha256/"]),
        Case(
            "schema 1",
            changed(|p| {
                p.manifest["schemaVersion"] = json!(1);
                p.link();
            }),
            &[],
            &["manifest", "form 1"],
        ),
        Case(
            "no layers at all",
            changed(|p| {
                p.manifest["layers"] = json!([]);
                p.link();
            }),
            &[],
            &["0 layers"],
        ),
        Case(
            "too many layers",
            changed(|p| {
                p.manifest["layers"] = json!(vec![p.manifest["layers"][0].clone(); 200]);
                p.link();
            }),
            &[],
            &["200 layers", "128"],
        ),
        Case(
            "encrypted layer",
            changed(|p| {
                p.manifest["layers"][0]["mediaType"] = json!("application/x+encrypted");
                p.link();
            }),
            &[],
            &["layer 1", "x+encrypted"],
        ),
        Case(
            "huge layer",
            changed(|p| {
                p.manifest["layers"][0]["size"] = json!(1_u64 << 50);
                p.link();
            }),
            &[],
            &["layer has 1125899906842624 bytes"],
        ),
        Case(
            "another digest",
            changed(|p| {
                p.manifest["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
                p.link();
            }),
            &[],
            &["sha512", "sha256"],
        ),
        Case(
            "digest of dots",
            changed(|p| {
                p.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
                p.link();
            }),
            &[],
            &["manifest"],
        ),
        Case(
            "another processor",
            changed(|p| {
                p.configuration["architecture"] = json!("s390x");
                p.link();
            }),
            &[],
            &["linux/s390x", "linux/amd64"],
        ),
        Case(
            "another system",
            changed(|p| {
                p.configuration["os"] = json!("windows");
                p.link();
            }),
            &[],
            &["windows/amd64"],
        ),
        Case(
            "wrong unpacked digest",
            changed(|p| {
                p.configuration["rootfs"]["diff_ids"][0] =
                    json!(format!("sha256:{}", "0".repeat(64)));
                p.link();
            }),
            &[],
            &["layer 1 unpacks to", "sha256:0000"],
        ),
        Case(
            "fewer unpacked digests",
            changed(|p| {
                p.configuration["rootfs"]["diff_ids"] = json!([]);
                p.link();
            }),
            &[],
            &["1 layers, its configuration 0"],
        ),
        Case(
            "no such reference",
            parts().archive(),
            &["--ref", "other"],
            &["no image \"other\"", "made:1", "--ref"],
        ),
        Case(
            "pinned to another",
            parts().archive(),
            &[
                "--name",
                "x@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ],
            &["not sha256:0000"],
        ),
        Case(
            "name in the source",
            changed(|p| {
                p.index["manifests"][0]["annotations"] =
                    json!({"org.opencontainers.image.ref.name": "../../x"});
            }),
            &[],
            &["\"../../x\"", "--name"],
        ),
        Case(
            "several",
            changed(|p| {
                let m = p.index["manifests"][0].clone();
                p.index["manifests"] = json!([m.clone(), m]);
            }),
            &[],
            &["several", "--ref"],
        ),
        Case(
            "cut layer inside",
            Parts::new(vec![cut]).archive(),
            &[],
            &["layer 1 of 1", "cut short"],
        ),
        Case(
            "not a tar layer",
            Parts::new(vec![b"hello".repeat(500)]).archive(),
            &[],
            &["layer 1 of 1", "checksum"],
        ),
        Case("rubbish", b"this is no archive at all".repeat(100), &[], &["source", "checksum"]),
        Case("xz", b"\xfd7zXZ\0 and so on".to_vec(), &[], &["xz", "gzip or zstd"]),
        Case("empty", Vec::new(), &[], &["cut short"]),
        Case(
            "cut gzip",
            {
                let mut b = gzip(&good);
                b.truncate(60);
                b
            },
            &["--name", "x"],
            &["cut short"],
        ),
        Case(
            "cut archive",
            {
                let mut b = parts().archive();
                b.truncate(3000);
                b
            },
            &[],
            &["cut short"],
        ),
        Case("Docker's list", layer(&[("manifest.json", b"{}")]), &[], &["docker save", "line 1"]),
        Case(
            "Docker's parts",
            layer(&[("manifest.json", br#"[{"Config":"x.json","Layers":["y"]}]"#)]),
            &[],
            &["\"x.json\""],
        ),
        Case(
            "twice",
            {
                let mut b = layer(&[("index.json", b"{}"), ("index.json", b"{}")]);
                b.extend([0; 512]);
                b
            },
            &[],
            &["\"index.json\" twice"],
        ),
        Case("no name", good, &[], &["layer", "--name"]),
    ]
}

#[test]
fn each_wrong_image_is_refused_with_what_where_and_what_to_do() {
    let bed = Bed::new();
    let cases: Vec<Case> = layer_cases().into_iter().chain(image_cases()).collect();
    assert!(cases.len() >= 25);
    let mut wrong = Vec::new();
    for Case(name, bytes, words, expected) in cases {
        // A name that is no image's, so that nothing is called by it.
        let path = bed.path(if name == "no name" { "Ü layer.tar" } else { "source.tar" });
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let error = bed.bad(&[&["import", path], words].concat());
        let lines = error.lines().count();
        let told =
            error.starts_with("cloister: ") && error.contains("\n  What to do: ") && lines == 2;
        let missing: Vec<_> = expected.iter().filter(|words| !error.contains(**words)).collect();
        if !told || !missing.is_empty() {
            wrong.push(format!("{name}: lacks {missing:?}: {error}"));
        }
        assert_eq!(bed.counts(), [0, 0, 0], "{name} left something");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(bed.list().is_empty());
}

#[test]
fn wrong_stores_and_names_are_told() {
    let bed = Bed::new();
    assert!(bed.bad(&["rm", "absent"]).contains("no image \"absent\""));
    assert!(bed.bad(&["inspect", "absent"]).contains("image ls"));
    assert!(bed.bad(&["import", "/nonexistent"]).contains("/nonexistent"));
    assert!(bed.bad(&["import", "/dev/null"]).contains("neither a file nor a directory"));
    assert!(bed.bad(&["pull", "team/agent"]).contains("which registry"));
    assert!(bed.bad(&["pull", "UPPER/case"]).contains("lower-case"));
    let store = bed.path("other");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("precious"), "").unwrap();
    let error = bed.bad(&["--store", store.to_str().unwrap(), "ls"]);
    assert!(error.contains("not an image store"), "{error}");
    let open = bed.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let error = bed.bad(&["--store", open.to_str().unwrap(), "ls"]);
    assert!(error.contains("written by other users"), "{error}");
}
