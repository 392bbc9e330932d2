//! A secret that an agent's requests are given, looked for everywhere while it is in use. It needs the lab, whose
//! addresses and `/etc` it changes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::egress::{lab, make_certificate, prepare, trust};
use crate::team_bed::Bed;

const TEAM: &str = r#"
name = "t"
[agents.one]
image = "programs"
command = ["sleep", "100000"]
[[agents.one.egress]]
host = "open.test"
ports = [443]
paths = ["/v1/**"]
secret = "token"
[[agents.one.egress]]
host = "open.test"
ports = [443]
paths = ["/free/**"]
[[agents.one.egress]]
cidr = "10.77.0.1"
ports = [443]
"#;

/// A TLS server on the host that answers with the digest of the field that it was given, and keeps the
/// connection open.
const SERVE: &str = r#"
import hashlib, ssl, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = self.headers.get("Authorization", "nothing")
        page = hashlib.sha256(said.encode()).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *words):
        pass
server = ThreadingHTTPServer(("10.77.0.1", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

/// The agent: three requests on one connection, which it keeps open, so that the secret is in use.
const ASK: &str = r#"
import http.client, ssl, sys
link = http.client.HTTPSConnection("open.test", context=ssl.create_default_context())
for path, said in [("/v1/a", None), ("/v1/b", "Bearer __cloister_secret_token__"), ("/free/c", None)]:
    link.request("GET", path, headers={"Authorization": said} if said else {})
    answer = link.getresponse()
    print(answer.status, answer.read().decode(), flush=True)
print("open", flush=True)
sys.stdin.read()
"#;

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether some bytes are in a stream of them.
fn is_in(mut stream: impl std::io::Read, wanted: &[u8]) -> bool {
    let mut buffer = vec![0; (1 << 20) + wanted.len()];
    let mut kept = 0;
    loop {
        let Ok(count) = stream.read(&mut buffer[kept..]) else { return false };
        let whole = &buffer[..kept + count];
        let found = |bytes: &[u8]| bytes.windows(wanted.len()).any(|some| some == wanted);
        if count > 0 && whole.iter().any(|byte| *byte == wanted[0]) && found(whole) {
            return true;
        }
        if count == 0 {
            return false;
        }
        let rest = whole.len().min(wanted.len() - 1);
        let from = whole.len() - rest;
        buffer.copy_within(from..from + rest, 0);
        kept = rest;
    }
}

/// Where in a process's memory some bytes are, and how much was read. All of a guest's memory is in its vmm's.
fn in_memory(process: &Path, wanted: &[u8]) -> (Option<String>, u64) {
    let (Ok(maps), Ok(memory)) =
        (fs::read_to_string(process.join("maps")), File::open(process.join("mem")))
    else {
        return (None, 0);
    };
    let mut read = 0;
    for line in maps.lines() {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let address = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (mut at, end) = (address(from), address(to));
        let mut buffer = vec![0; 1 << 20];
        while at < end {
            let most = usize::try_from(end - at).unwrap().min(buffer.len());
            // What can't be read is no memory: guard pages, the kernel's own.
            let Ok(count) = memory.read_at(&mut buffer[..most], at) else { break };
            if count == 0 {
                break;
            }
            read += count as u64;
            if is_in(&buffer[..count], wanted) {
                return (Some(line.to_owned()), read);
            }
            // A value that lies across two pieces is found in the next.
            let step = if count == most && at + (count as u64) < end { count - 64 } else { count };
            at += step as u64;
        }
    }
    (None, read)
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), all);
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
}

/// Looks in the memory of the team's jailed processes, and in every process's environment and words.
fn assert_in_no_process(wanted: &[u8]) {
    let mut searched = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        let Ok(id) = process.file_name().unwrap().to_str().unwrap().parse::<u32>() else {
            continue;
        };
        for file in ["environ", "cmdline"] {
            let found = File::open(process.join(file)).is_ok_and(|file| is_in(file, wanted));
            assert!(!found, "{id}: {file}");
        }
        // Its words, as it was executed from a memory file, by which the kernel names it otherwise.
        let words = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        let program = words.split('\0').next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        if name == "cloister-vmm" || name == "cloister-file-server" {
            let (found, read) = in_memory(&process, wanted);
            assert!(found.is_none(), "{name}: {found:?}");
            assert!(read > 1 << 20, "{name}: {read} bytes of memory read");
            searched.push(name);
        }
    }
    searched.sort();
    searched.dedup();
    assert_eq!(searched, ["cloister-file-server", "cloister-vmm"]);
}

/// The server, which the lab trusts.
fn serve(bed: &Bed) -> Ended {
    let folder = bed.path("team/shared");
    fs::create_dir(&folder).unwrap();
    let (key, certificate) = make_certificate(&folder);
    trust(&certificate);
    let mut server = Ended(
        Command::new("/usr/bin/python3")
            .args(["-c", SERVE])
            .args([&certificate, &key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    server
}

/// A value: made here, so that it is in no file and on no command line by this test's doing.
fn made_up() -> String {
    let mut random = [0; 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_secret_in_use_is_found_nowhere() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    let bed = Bed::with_programs();
    let _server = serve(&bed);
    let value = made_up();
    let file = bed.path("team/team.toml");
    fs::write(&file, TEAM).unwrap();
    let refused = bed.call(&["up", "-d"]).argument(&file).output().exits(125);
    let _says = refused.says("there is no secret \"token\"").says("in line 6");
    let set = bed.call(&["secret", "set", "token"]).stdin(format!("{value}\n"));
    let _set = set.output().exits(0);
    let listed = bed.call(&["secret", "ls"]).output().exits(0).text();
    assert!(listed.contains("token") && !listed.contains(&value), "{listed}");
    bed.up(TEAM);

    let ask = bed.call(&["exec", "-i", "t/one"]).limit(Duration::from_secs(300));
    let mut agent = ask.command(["python3", "-c", ASK]).spawn();
    let said = agent.wait_for("open\n");
    let with = sha256(format!("Bearer {value}").as_bytes());
    let without = sha256(b"nothing");
    assert_eq!(said, format!("200 {with}\n200 {with}\n200 {without}\nopen\n"));

    let wanted = value.as_bytes();
    // That the search finds what is there: this test's own memory has it.
    assert!(in_memory(Path::new("/proc/self"), wanted).0.is_some());
    assert_in_no_process(wanted);
    let mut all = Vec::new();
    files(bed.logs().ancestors().nth(3).unwrap(), &mut all);
    files(&bed.path(""), &mut all);
    assert!(all.iter().any(|path| path.ends_with("secrets/token")), "{all:?}");
    for path in all {
        assert!(!is_in(File::open(&path).unwrap(), wanted), "{}", path.display());
    }
    agent.close_stdin();
    bed.down();
}

fn sha256(bytes: &[u8]) -> String {
    let output = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = output.unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn an_agents_lists_of_authorities_have_the_teams() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    crate::egress::name_server_alone();
    let bed = Bed::new();
    let agent = |name: &str, more: &str| {
        let rule = format!("[[agents.{name}.egress]]\nhost = \"open.test\"\nports = [443]\n{more}");
        format!("[agents.{name}]\nimage = \"tools\"\ncommand = [\"sleep\", \"100000\"]\n{rule}")
    };
    let opened = agent("opened", "methods = [\"GET\"]\n");
    bed.up(&format!("name = \"t\"\n{opened}{}", agent("passed", "")));
    let script = "cd /etc/ssl/certs; grep -c BEGIN ca-certificates.crt; head -n 1 ca-certificates.crt; \
                  cmp java/cacerts /run/cloister/cacerts && head -c 4 java/cacerts | od -An -tx1";
    let (code, said) = bed.exec("t/opened", script);
    assert_eq!((code, said.as_str()), (0, "1\n# none\n fe ed fe ed\n"));
    // Whose streams are not opened has its image's alone.
    let (_, said) = bed.exec("t/passed", "cat /etc/ssl/certs/java/cacerts; ls /run/cloister");
    assert!(said.starts_with("none") && said.contains("No such file"), "{said}");
    bed.down();
}

/// An agent that asks without end, and again by a new connection when one fails.
const ASK_ON: &str = r#"
import http.client, ssl, time
link = None
while True:
    try:
        link = link or http.client.HTTPSConnection("open.test", context=ssl.create_default_context(), timeout=60)
        link.request("GET", "/v1/a")
        answer = link.getresponse()
        print("said", answer.status, answer.read().decode()[:64], flush=True)
    except Exception as error:
        link = None
        print("failed", type(error).__name__, flush=True)
    time.sleep(0.2)
"#;

/// Waits for a line of a team's agent after so many; how many there are then, and whether a connection had failed before.
fn await_line(bed: &Bed, team: &str, words: &str, after: usize) -> (usize, bool) {
    let end = std::time::Instant::now() + Duration::from_secs(240);
    loop {
        let text = bed.call(&["logs", team]).output().exits(0).text();
        let lines: Vec<_> = text.lines().collect();
        let new = lines.get(after..).unwrap_or_default();
        if let Some(found) = new.iter().position(|line| line.contains(words)) {
            return (lines.len(), new[..found].iter().any(|line| line.contains("failed")));
        }
        assert!(std::time::Instant::now() < end, "no {words:?} of {team} after {after}: {text}");
    }
}

#[test]
fn a_team_on_the_disk_has_no_secret_and_a_fork_only_if_it_is_granted() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    let bed = Bed::with_programs();
    let _server = serve(&bed);
    let value = made_up();
    let set = bed.call(&["secret", "set", "token"]).stdin(format!("{value}\n"));
    let _set = set.output().exits(0);
    let (head, rules) = TEAM.split_once("command = [\"sleep\", \"100000\"]").unwrap();
    bed.up(&format!("{head}command = [\"python3\", \"-c\", '''{ASK_ON}''']{rules}"));
    let with = format!("said 200 {}", sha256(format!("Bearer {value}").as_bytes()));
    await_line(&bed, "t", &with, 0);

    let _suspend = bed.call(&["suspend", "t"]).output().exits(0);
    let lines = bed.call(&["logs", "t"]).output().exits(0).text().lines().count();
    let mut all = Vec::new();
    files(&bed.logs().parent().unwrap().join("saved"), &mut all);
    assert!(all.iter().any(|path| path.ends_with("memory")), "{all:?}");
    for path in all {
        assert!(!is_in(File::open(&path).unwrap(), value.as_bytes()), "{}", path.display());
    }
    let _resume = bed.call(&["resume", "t"]).output().exits(0);
    // The connection that it had is broken, not silent; a new one is made, by the authority that it trusts.
    let (lines, failed) = await_line(&bed, "t", &with, lines);
    assert!(failed, "it was never told that its connection is gone");

    let _fork = bed.call(&["fork", "t", "bare"]).output().exits(0);
    let _fork = bed.call(&["fork", "--with-secrets", "t", "granted"]).output().exits(0);
    await_line(&bed, "granted", &with, 0);
    await_line(&bed, "bare", "said 403", 0);
    await_line(&bed, "t", &with, lines);
    let said = bed.call(&["logs", "bare"]).output().exits(0).text();
    // What it had been answered when it was forked, it may say after that; then its connection is gone.
    let (before, after) = said.split_once("failed").unwrap();
    assert!(before.matches("said 200").count() <= 1 && !after.contains("said 200"), "{said}");
    let _down = bed.call(&["down", "bare", "granted"]).output().exits(0);
    bed.down();
}
