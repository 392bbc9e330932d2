//! A store in a folder of its own, `cloister image` run on it, and images made for it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use cloister::images::digest::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

pub(crate) struct Bed {
    folder: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// `cloister image` on this store, with nothing of this environment but where programs are.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,QUIT,TERM").arg(env!("CARGO_BIN_EXE_cloister"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CLOISTER_STORE", self.store()).env("DOCKER_CONFIG", self.path("docker"));
        command.stdin(Stdio::null()).arg("image").args(words);
        command
    }

    pub(crate) fn image(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("a working file system")
    }

    /// Standard output and standard error of a command that must succeed.
    pub(crate) fn good(&self, words: &[&str]) -> (String, String) {
        let output = self.image(words);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {err}");
        (out, err)
    }

    /// Standard error of a command that must fail as documented.
    pub(crate) fn bad(&self, words: &[&str]) -> String {
        let output = self.image(words);
        assert_eq!(output.status.code(), Some(125), "{words:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{words:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    pub(crate) fn list(&self) -> Vec<Value> {
        let (out, _) = self.good(&["ls", "--json"]);
        let value: Value = serde_json::from_str(&out).expect("JSON");
        value["images"].as_array().expect("a list").clone()
    }

    pub(crate) fn inspect(&self, image: &str) -> Value {
        let (out, _) = self.good(&["inspect", image]);
        serde_json::from_str(&out).expect("JSON")
    }

    /// The unpacked root of an image.
    pub(crate) fn root(&self, image: &str) -> PathBuf {
        let digest = self.inspect(image)["root_digest"].as_str().expect("a digest").to_owned();
        self.store().join("roots").join(digest.trim_start_matches("sha256:")).join("fs")
    }

    /// How many blobs, roots and unfinished things are in the store.
    pub(crate) fn counts(&self) -> [usize; 3] {
        ["blobs", "roots", "work"]
            .map(|name| fs::read_dir(self.store().join(name)).map_or(0, Iterator::count))
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program of Debian's that must succeed; gives back what it wrote.
pub(crate) fn tool(program: &str, words: &[&str]) -> String {
    static PACKAGES: Once = Once::new();
    PACKAGES.call_once(|| {
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/packages");
        let wanted = ["skopeo", "umoci", "docker-registry", "zstd", "strace"];
        let status = Command::new(packages).args(wanted).status().expect("a shell");
        assert!(status.success(), "these tests need skopeo, umoci, docker-registry and zstd");
    });
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A tar archive of regular files.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<_> =
        files.iter().map(|(path, content)| (EntryType::Regular, *path, "", *content)).collect();
    entries_of(&entries)
}

/// A tar archive of any entries, with names that no writer would make.
pub(crate) fn entries_of(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, link, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// The parts of an OCI image, to be changed before they are written.
pub(crate) struct Parts {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) configuration: Value,
    pub(crate) manifest: Value,
    pub(crate) index: Value,
    pub(crate) layout: Value,
    /// Written in place of what belongs there.
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
}

impl Parts {
    pub(crate) fn new(layers: Vec<Vec<u8>>) -> Self {
        let diffs: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let configuration = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/bin/agent"], "Cmd": ["--work"], "User": "7:8",
                       "Env": ["A=b"], "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        });
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| {
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                       "digest": Digest::of(layer).to_string(), "size": layer.len()})
            })
            .collect();
        let mut parts = Self {
            layers,
            configuration,
            manifest: json!({"schemaVersion": 2, "layers": descriptors}),
            index: Value::Null,
            layout: json!({"imageLayoutVersion": "1.0.0"}),
            blobs: Vec::new(),
        };
        parts.link();
        parts
    }

    /// Puts the digests of what is below into what is above, from the configuration to the index.
    pub(crate) fn link(&mut self) {
        let configuration = self.configuration.to_string();
        self.manifest["config"] = json!({
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(configuration.as_bytes()).to_string(), "size": configuration.len()});
        self.link_manifest();
    }

    pub(crate) fn link_manifest(&mut self) {
        let manifest = self.manifest.to_string();
        self.index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(manifest.as_bytes()).to_string(), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "made:1"}}]});
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.to_string().as_bytes())
    }

    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut blobs = self.layers.clone();
        blobs.push(self.configuration.to_string().into_bytes());
        blobs.push(self.manifest.to_string().into_bytes());
        let mut files = vec![
            ("oci-layout".to_owned(), self.layout.to_string().into_bytes()),
            ("index.json".to_owned(), self.index.to_string().into_bytes()),
        ];
        for blob in blobs {
            let path = format!("blobs/sha256/{}", Digest::of(&blob).hex());
            if !files.iter().any(|(other, _)| *other == path) {
                files.push((path, blob));
            }
        }
        for (path, content) in &self.blobs {
            files.retain(|(other, _)| other != path);
            files.push((path.clone(), content.clone()));
        }
        files
    }

    pub(crate) fn write_folder(&self, folder: &Path) {
        for (path, content) in self.files() {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a working file system");
            fs::write(path, content).expect("a working file system");
        }
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        let files = self.files();
        let files: Vec<_> =
            files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        layer(&files)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
