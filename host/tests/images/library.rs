//! What only the library can be asked for: an operator's policy, and a root that is in use.

use std::fs;

use cloister::images::digest::Digest;
use cloister::images::import::{ImportError, Imported, Progress, Request, import};
use cloister::images::policy::{Policy, PolicyError};
use cloister::images::store::Store;
use cloister::images::store::session::Session;

use super::bed::{Bed, Parts, layer};

struct Quiet;

impl Progress for Quiet {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
}

fn imported(bed: &Bed, request: &Request) -> Result<Imported, ImportError> {
    let store = Store::open(&bed.store())?;
    let (guard, _) = store.enter()?;
    import(&store, Session::begin(&store, guard)?, &bed.path("image.tar"), request, &Quiet)
}

fn bed() -> (Bed, Digest) {
    let bed = Bed::new();
    let parts = Parts::new(vec![layer(&[("f", b"content")])]);
    fs::write(bed.path("image.tar"), parts.archive()).unwrap();
    (bed, parts.digest())
}

#[test]
fn a_policy_lets_only_pinned_images_in() {
    let (bed, digest) = bed();
    let policy = Policy { require_digest: true, ..Policy::default() };
    let request = Request { policy, ..Request::default() };
    let error = imported(&bed, &request).unwrap_err();
    assert!(matches!(error, ImportError::Policy(PolicyError::Unpinned(_))), "{error}");
    assert_eq!(bed.counts(), [0, 0, 0]);
    let name = Some(format!("a@{digest}").parse().unwrap());
    assert_eq!(imported(&bed, &Request { name, ..request }).unwrap().digest, digest);
}

#[test]
fn a_root_in_use_stays_until_it_is_let_go() {
    let (bed, digest) = bed();
    imported(&bed, &Request::default()).unwrap();
    let store = Store::open(&bed.store()).unwrap();
    let (guard, _) = store.enter().unwrap();
    let held = store.hold_root(store.image(digest).unwrap().chain()).unwrap();
    drop(guard);
    let (_, told) = bed.good(&["rm", "made:1"]);
    assert!(told.contains("1 roots are in use"), "{told}");
    assert_eq!(bed.counts(), [0, 1, 0]);
    let file =
        rustix::fs::openat(&held.root, "f", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    assert!(file.is_ok());
    // What another test just starts has a copy of the descriptor until it executes its program.
    let (_, lock) = held.into_descriptors();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    bed.good(&["gc"]);
    assert_eq!(bed.counts(), [0, 0, 0]);
}
