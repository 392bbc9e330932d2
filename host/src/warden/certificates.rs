//! The certificate of the team's authority in the agents whose streams are opened: a list with the image's
//! own authorities and it, in place of the image's list and by the variables that programs look at.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cloister_file_server::spec::Owner;
use cloister_protocol::agent::{ShareMount, first_id};

use super::recipe::{AgentRecipe, Recipe, Trusted};
use crate::egress::authority::Authority;
use crate::egress::java_store::java_store;
use crate::launch::shares::Share;
use crate::machine::set_variable;

/// Where an agent finds the files.
const PLACE: &str = "/run/cloister";
/// The authority's certificate alone.
const ALONE: &str = "authority.pem";
/// It and the image's own.
const LIST: &str = "certificates.pem";
/// The same for Java.
const JAVA_STORE: &str = "cacerts";
/// Variables by which programs find a list in place of their usual one: OpenSSL and what stands on it, Go among them;
/// Python's requests and pip; curl; git; the tools of AWS; Deno and Cargo.
const LIST_VARIABLES: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "CARGO_HTTP_CAINFO",
];
/// Node adds what this names to its own list.
const ALONE_VARIABLE: &str = "NODE_EXTRA_CA_CERTS";

/// Gives the certificate to each agent whose streams are opened. The files are the team's, in `folder`; nothing in
/// them is secret.
pub(super) fn install(recipe: &mut Recipe, authority: &Authority, folder: &Path) -> io::Result<()> {
    let pem = authority.pem();
    let folder = folder.join("certificates");
    std::fs::create_dir_all(&folder)?;
    for agent in &mut recipe.agents {
        let Some(trusted) = agent.trusted.take() else { continue };
        let own = folder.join(&agent.name);
        std::fs::create_dir_all(&own)?;
        write(&own.join(ALONE), pem.as_bytes())?;
        write(&own.join(LIST), &[trusted.list.as_slice(), b"\n", pem.as_bytes()].concat())?;
        // Without the image's own it would trust nobody else.
        if !trusted.list.is_empty() {
            write(&own.join(JAVA_STORE), &java_store(&[&trusted.list, pem.as_bytes()]))?;
        }
        share(agent, &mut recipe.launch.shares, &own, &trusted)?;
        for name in LIST_VARIABLES {
            point(agent, name, LIST);
        }
        point(agent, ALONE_VARIABLE, ALONE);
    }
    Ok(())
}

/// Shows the files in the agent: in a place of their own, and in place of the image's lists.
fn share<'a>(
    agent: &mut AgentRecipe,
    shares: &mut Vec<Share>,
    own: &Path,
    trusted: &'a Trusted,
) -> io::Result<()> {
    let number = agent.spec.agent;
    let first = first_id(number);
    let owner = Owner::All { uid: first, gid: first };
    let mounts = &agent.spec.mounts;
    let covered = |place: &&str| mounts.iter().any(|one| covers(&one.target, place.as_bytes()));
    let open = |places: &'a [String]| -> Vec<&'a str> {
        places.iter().map(String::as_str).filter(|place| !covered(place)).collect()
    };
    let (places, java_places) = (open(&trusted.places), open(&trusted.java_places));
    let mut add = |name: String, path: &Path, targets: &[&str]| -> io::Result<()> {
        let source = OwnedFd::from(std::fs::File::open(path)?);
        shares.push(Share { name: name.clone(), source: source.into(), writable: false, owner });
        for target in targets {
            let target = target.as_bytes().to_vec();
            agent.spec.mounts.push(ShareMount { share: name.clone(), target, read_only: true });
        }
        Ok(())
    };
    add(format!("trust-{number}"), own, &[PLACE])?;
    if !places.is_empty() {
        add(format!("trust-list-{number}"), &own.join(LIST), &places)?;
    }
    if !java_places.is_empty() && !trusted.list.is_empty() {
        add(format!("trust-java-{number}"), &own.join(JAVA_STORE), &java_places)?;
    }
    Ok(())
}

/// Whether a mount shows something else at a place: it is there or above.
fn covers(target: &[u8], place: &[u8]) -> bool {
    let target = target.strip_suffix(b"/").unwrap_or(target);
    place.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Points a variable at a file, unless it is set.
fn point(agent: &mut AgentRecipe, name: &str, file: &str) {
    let environment = &mut agent.exec.environment;
    if !environment.iter().any(|(other, _)| other == name.as_bytes()) {
        set_variable(environment, name.as_bytes(), format!("{PLACE}/{file}").as_bytes());
    }
}

/// Writes a file whole, readable for everybody: the file server is nobody in particular.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o644).open(path)?;
    io::Write::write_all(&mut file, bytes)
}
