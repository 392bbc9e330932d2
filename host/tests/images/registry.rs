//! Pulls from Debian's registry server on loopback, and from servers that lie.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloister::images::digest::Digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use super::bed::{Bed, Parts, layer, tool};
use super::kinds::made_by_umoci;

/// The password `s3cret` of the user `agent`, by bcrypt at its least cost.
const HTPASSWD: &str = "agent:$2y$05$zpe1QUmwiLCvcUxiR/DopOIQEEVGFDOtNQiuvNZWIC7J4PAPz/p42\n";

struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Registry {
    fn start(bed: &Bed, with_login: bool) -> Self {
        tool("true", &[]);
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            bed.path("registry").display()
        );
        if with_login {
            let file = bed.path("htpasswd");
            fs::write(&file, HTPASSWD).unwrap();
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        let file = bed.path("registry.yml");
        fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says where it listens once it does.
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let host = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest
                    .split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
                    .next()
                    .unwrap()
                    .to_owned();
            }
        };
        // Its log must be read on, or it would wait for that.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, host }
    }

    fn push(&self, source: &str, name: &str, login: &[&str]) {
        let target = format!("docker://{}/{name}", self.host);
        let words = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        tool("skopeo", &[&words[..], login, &[source, &target]].concat());
    }
}

fn digest_of_first(bed: &Bed) -> String {
    bed.list()[0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn an_image_is_pulled_by_tag_and_by_digest() {
    let bed = Bed::new();
    let layout = made_by_umoci(&bed);
    let registry = Registry::start(&bed, false);
    registry.push(&format!("oci:{layout}:latest"), "team/agent:1", &[]);
    let name = format!("{}/team/agent:1", registry.host);
    let (out, err) = bed.good(&["pull", &name]);
    assert!(out.starts_with(&name) && err.contains("registry with"), "{out}{err}");
    bed.good(&["import", "--name", "local", &layout]);
    assert_eq!(bed.root(&name), bed.root("local"));
    let digest = digest_of_first(&bed);
    bed.good(&["pull", &format!("{}/team/agent@{digest}", registry.host)]);
    let other = format!("{}/team/agent@sha256:{}", registry.host, "0".repeat(64));
    let error = bed.bad(&["pull", &other]);
    assert!(error.contains("can't get the manifest") && error.contains("What to do"), "{error}");
    let error = bed.bad(&["pull", &format!("{}/team/absent", registry.host)]);
    assert!(error.contains(&registry.host), "{error}");
}

#[test]
fn a_login_of_dockers_configuration_is_used() {
    let bed = Bed::new();
    let layout = made_by_umoci(&bed);
    let registry = Registry::start(&bed, true);
    registry.push(&format!("oci:{layout}:latest"), "agent:1", &["--dest-creds=agent:s3cret"]);
    let name = format!("{}/agent:1", registry.host);
    let error = bed.bad(&["pull", &name]);
    assert!(error.contains("can't get") && error.contains("login"), "{error}");
    fs::create_dir(bed.path("docker")).unwrap();
    let config = |value: serde_json::Value| {
        fs::write(bed.path("docker/config.json"), value.to_string()).unwrap();
    };
    let host = registry.host.clone();
    config(json!({"auths": {host.clone(): {"auth": STANDARD.encode("agent:wrong")}}}));
    let error = bed.bad(&["pull", &name]);
    assert!(!error.contains("wrong"), "a password in an error: {error}");
    config(json!({"auths": {host.clone(): {"auth": STANDARD.encode("agent:s3cret")}}}));
    bed.good(&["pull", &name]);
    bed.good(&["rm", &name]);
    // The same by a helper.
    let helper = bed.path("docker-credential-test");
    fs::write(&helper, "#!/bin/sh\nread -r host\n[ \"$1\" = get ] && echo '{\"Username\":\"agent\",\"Secret\":\"s3cret\"}'\n").unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    config(json!({"credHelpers": {host: "test"}}));
    let path = format!("{}:{}", bed.path("").display(), std::env::var("PATH").unwrap());
    let output = bed.command(&["pull", &name]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", super::bed::text(&output.stderr));
}

/// A key in a file, as cosign writes it.
fn key(bed: &Bed, name: &str) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let kind = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap();
    let header = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let mut der: Vec<u8> = (0..header.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&header[at..at + 2], 16).unwrap())
        .collect();
    der.extend(pair.public_key().as_ref());
    let pem =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    fs::write(bed.path(name), pem).unwrap();
    pair
}

/// Puts the signature of an image into an OCI layout, as an image with cosign's tag.
fn sign(folder: &Path, pair: &EcdsaKeyPair, image: &str) {
    let payload = json!({"critical": {"identity": {"docker-reference": "x"},
        "image": {"docker-manifest-digest": image}, "type": "cosign container image signature"},
        "optional": null})
    .to_string();
    let signature = pair.sign(&SystemRandom::new(), payload.as_bytes()).unwrap();
    let mut parts = Parts::new(vec![payload.into_bytes()]);
    parts.manifest["layers"][0]["mediaType"] =
        json!("application/vnd.dev.cosign.simplesigning.v1+json");
    parts.manifest["layers"][0]["annotations"] =
        json!({"dev.cosignproject.cosign/signature": STANDARD.encode(signature.as_ref())});
    parts.manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    parts.link();
    let tag = format!("{}.sig", image.replace(':', "-"));
    parts.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = json!(tag);
    parts.write_folder(folder);
}

#[test]
fn only_what_the_key_signed_is_pulled_or_imported() {
    let bed = Bed::new();
    let layout = made_by_umoci(&bed);
    let registry = Registry::start(&bed, false);
    registry.push(&format!("oci:{layout}:latest"), "agent:1", &[]);
    let name = format!("{}/agent:1", registry.host);
    let (right, _other) = (key(&bed, "right.pub"), key(&bed, "other.pub"));
    let (right_key, other_key) = (bed.path("right.pub"), bed.path("other.pub"));
    let pull = ["pull", "--verify-key", right_key.to_str().unwrap(), &name];
    let error = bed.bad(&pull);
    assert!(error.contains("has no signature") && error.contains("cosign sign"), "{error}");
    assert_eq!(bed.counts(), [0, 0, 0]);
    bed.good(&["pull", &name]);
    let digest = digest_of_first(&bed);
    bed.good(&["rm", &name]);
    let signatures = bed.path("signatures");
    sign(&signatures, &right, &digest);
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.push(&format!("oci:{}:{tag}", signatures.display()), &format!("agent:{tag}"), &[]);
    let (_, told) = bed.good(&pull);
    assert!(told.contains("signature was verified"), "{told}");
    assert_eq!(bed.list()[0]["signed"], true);
    let error = bed.bad(&["pull", "--verify-key", other_key.to_str().unwrap(), &name]);
    assert!(error.contains("none of the 1 signatures"), "{error}");
    let error = bed.bad(&["pull", "--verify-key", "/dev/null", &name]);
    assert!(error.contains("not a public key"), "{error}");
    // An archive without a signature beside it.
    let error =
        bed.bad(&["import", "--verify-key", right_key.to_str().unwrap(), "--name", "x", &layout]);
    assert!(error.contains("has no signature"), "{error}");
    let bare = bed.path("bare.tar");
    fs::write(&bare, layer(&[("f", b"")])).unwrap();
    let error =
        bed.bad(&["import", "--verify-key", right_key.to_str().unwrap(), bare.to_str().unwrap()]);
    assert!(error.contains("only signed images"), "{error}");
}

/// A registry of one answer for each path, which may be a lie.
fn liar(answers: Vec<(String, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => request.extend(&buffer[..count]),
                    _ => break,
                }
            }
            let request = String::from_utf8_lossy(&request);
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let found = answers.iter().find(|(end, _)| path.ends_with(end.as_str()));
            let (status, body) = match found {
                Some((_, body)) => ("200 OK", body.as_slice()),
                None if path == "/v2/" => ("200 OK", &b"{}"[..]),
                None => ("404 Not Found", &b"{}"[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).ok();
            // The reader may have had enough.
            stream.write_all(body).ok();
        }
    });
    host
}

#[test]
fn a_registry_that_lies_is_found_out() {
    let bed = Bed::new();
    let parts = Parts::new(vec![layer(&[("f", b"content")])]);
    let blobs = |change: &dyn Fn(&str, Vec<u8>) -> Vec<u8>| -> Vec<(String, Vec<u8>)> {
        let mut answers: Vec<_> = parts
            .files()
            .into_iter()
            .filter_map(|(path, content)| {
                let hex = path.strip_prefix("blobs/sha256/")?.to_owned();
                let content = change(&hex, content);
                Some((format!("/blobs/sha256:{hex}"), content))
            })
            .collect();
        answers.push(("/manifests/1".to_owned(), parts.manifest.to_string().into_bytes()));
        answers
    };
    let host = liar(blobs(&|_, content| content));
    bed.good(&["pull", &format!("{host}/a:1")]);
    bed.good(&["rm", &format!("{host}/a:1")]);
    let hex = Digest::of(&parts.layers[0]).hex();
    let host =
        liar(blobs(&|name, content| if name == hex { vec![0; content.len()] } else { content }));
    let error = bed.bad(&["pull", &format!("{host}/a:1")]);
    assert!(error.contains("layer 1 of 1") && error.contains("digest"), "{error}");
    let host = liar(blobs(&|name, content| if name == hex { vec![0; 1 << 20] } else { content }));
    let error = bed.bad(&["pull", &format!("{host}/a:1")]);
    assert!(error.contains("more than the"), "{error}");
    let host = liar(vec![("/manifests/1".to_owned(), vec![b' '; 5 << 20])]);
    let error = bed.bad(&["pull", &format!("{host}/a:1")]);
    assert!(error.contains("5242880 bytes; at most 4194304"), "{error}");
    let host = liar(vec![("/manifests/1".to_owned(), b"<html>".to_vec())]);
    let error = bed.bad(&["pull", &format!("{host}/a:1")]);
    assert!(error.contains("manifest is not what it should be"), "{error}");
    let host = liar(vec![(format!("/manifests/sha256:{}", "0".repeat(64)), b"{}".to_vec())]);
    let error = bed.bad(&["pull", &format!("{host}/a@sha256:{}", "0".repeat(64))]);
    assert!(error.contains("sha256:0000"), "{error}");
    assert_eq!(bed.counts(), [0, 0, 0]);
}
