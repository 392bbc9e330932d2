//! The examples run: from the image's build to the report on the host, with nothing left behind.
//!
//! On the machine itself: the script that a user would call decides where the team can run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloister_tests::Call;

/// Building the image for the first time fetches packages.
const LIMIT: Duration = Duration::from_secs(900);

#[test]
fn the_research_team_makes_its_report() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let report = root.join("examples/research/report/report.html");
    fs::remove_file(&report).ok();
    let outcome = Call::of_repository("examples/run").argument("research").limit(LIMIT).output();
    let outcome = outcome.exits(0);
    let shown = outcome.text();
    assert!(shown.contains("extractor | 8 documents read, 0 without"), "{shown}");
    assert!(shown.contains("reporter | /report/report.html: 8 rows"), "{shown}");
    let page = fs::read_to_string(report).unwrap();
    let documents = fs::read_dir(root.join("examples/research/documents")).unwrap().count();
    assert_eq!(page.matches("<tr><td>").count(), documents);
    assert_eq!(page.matches("<rect ").count(), documents, "a bar for each");
    assert!(page.contains("<td>Cordouan</td><td>1611</td><td>67.5</td><td>2006</td>"), "{page}");
    assert!(!root.join("out/examples/volumes/research").exists());
}
