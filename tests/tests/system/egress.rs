//! What agents reach outside, in whole machines: servers, a name server and the agents' own programs are
//! real. It needs the lab, whose addresses and `/etc` it changes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Duration;

use crate::team_bed::Bed;

const NAME_SERVER: &str = "10.77.0.1:5355";

const TEAM: &str = r#"
name = "t"
[agents.one]
image = "programs"
command = ["sleep", "100000"]
mounts = [{ source = "./shared", target = "/mnt" }]
[[agents.one.egress]]
host = "web.test"
ports = [8080, 443]
[[agents.one.egress]]
host = "*.wild.test"
ports = [8080]
[[agents.one.egress]]
host = "loop.test"
ports = [8080]
[[agents.one.egress]]
host = "cloud.test"
ports = [80]
[[agents.one.egress]]
cidr = "10.77.0.1"
ports = [8080, 443]
[[agents.one.egress]]
host = "bad.wild.test"
action = "deny"
[[agents.one.egress]]
host = "open.test"
ports = [443, 8080]
methods = ["GET"]
paths = ["/v1/**"]

[agents.two]
image = "programs"
command = ["sleep", "100000"]
[[agents.two.egress]]
cidr = "10.77.0.1"
ports = [8081]

[agents.three]
image = "programs"
command = ["sleep", "100000"]
"#;

/// Names and their addresses, as the name server has them.
const NAMES: &[(&str, [u8; 4])] = &[
    ("web.test", [10, 77, 0, 1]),
    ("a.wild.test", [10, 77, 0, 1]),
    ("bad.wild.test", [10, 77, 0, 1]),
    ("loop.test", [127, 0, 0, 1]),
    ("cloud.test", [169, 254, 169, 254]),
    ("other.test", [10, 77, 0, 1]),
    ("open.test", [10, 77, 0, 1]),
    ("db.test", [10, 77, 0, 1]),
    ("git.test", [10, 77, 0, 1]),
];

/// A server that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn lab() -> bool {
    if std::env::var_os("LAB").is_none() {
        println!("skipped: this changes the machine's addresses, and is for the lab");
        return false;
    }
    true
}

fn tool(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// Whose turn it is: these tests share an address, its ports and the operator's file.
static TURN: Mutex<()> = Mutex::new(());
static PREPARED: Once = Once::new();

/// Waits for this test's turn. The lab has the server's address, its name server, and an `/etc` of its own then.
pub(crate) fn prepare() -> MutexGuard<'static, ()> {
    // One that failed has told so.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    PREPARED.call_once(|| {
        change_lab();
        serve_names();
    });
    turn
}

/// The operator's file, with nothing but the name server.
pub(crate) fn name_server_alone() {
    let text = format!("name-servers = [\"{NAME_SERVER}\"]\n");
    std::fs::write("/etc/cloister/egress.toml", text).unwrap();
}

/// The operator's file, by which hosts may show this certificate.
pub(crate) fn trust(certificate: &Path) {
    let text = format!("name-servers = [\"{NAME_SERVER}\"]\ncertificates = {certificate:?}\n");
    std::fs::write("/etc/cloister/egress.toml", text).unwrap();
}

/// Gives the lab the server's address, and an `/etc` of its own.
fn change_lab() {
    tool("/bin/busybox", &["ip", "addr", "add", "10.77.0.1/32", "dev", "lo"]);
    for folder in ["/run/etc", "/run/etc/upper", "/run/etc/work"] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let options = "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work";
    tool("mount", &["-t", "overlay", "-o", options, "overlay", "/etc"]);
    std::fs::create_dir_all("/etc/cloister").unwrap();
}

/// Answers for the addresses of [`NAMES`] (RFC 1035, section 4.1).
fn serve_names() {
    let socket = UdpSocket::bind(NAME_SERVER).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, sender)) = socket.recv_from(&mut query) {
            let query = &query[..length];
            let (mut name, mut at) = (Vec::new(), 12);
            while query[at] != 0 {
                let end = at + usize::from(query[at]);
                name.push(String::from_utf8_lossy(&query[at + 1..=end]).to_lowercase());
                at = end + 1;
            }
            let name = name.join(".");
            let found = NAMES.iter().find(|(known, _)| *known == name);
            let address = found.filter(|_| query[at + 2] == 1).map(|(_, address)| address);
            let code = if found.is_some() { 0x80 } else { 0x83 };
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
            answer.extend(&query[12..at + 5]);
            if let Some(address) = address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address);
            }
            socket.send_to(&answer, sender).unwrap();
        }
    });
}

/// A page for everybody, which tells what was asked.
pub(crate) fn serve_pages(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let own = address.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap_or_else(|| Ok(String::new())).unwrap_or_default();
            lines.find(|line| line.as_ref().map_or(true, String::is_empty));
            let page = format!("{own} {first}\n");
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
            stream.write_all((head + &page).as_bytes()).ok();
        }
    });
}

/// Makes a key and a certificate for `web.test`, `open.test` and `db.test` in a directory: their files.
pub(crate) fn make_certificate(shared: &Path) -> (PathBuf, PathBuf) {
    let (key, certificate) = (shared.join("key.pem"), shared.join("ca.pem"));
    let words =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web.test";
    // Without the usual configuration, by which it would be the certificate of an authority and of no server.
    let plain = shared.join("request.cnf");
    std::fs::write(&plain, "[req]\ndistinguished_name = name\n[name]\n").unwrap();
    let output = Command::new("openssl")
        .args(words.split(' '))
        .args(["-addext", "subjectAltName=DNS:web.test,DNS:open.test,DNS:db.test"])
        .arg("-config")
        .arg(&plain)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (key, certificate)
}

/// A TLS server for `web.test`, whose certificate is made here and lies where agent one sees it.
fn serve_tls(shared: &Path) -> Server {
    let (key, certificate) = make_certificate(shared);
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "10.77.0.1:443", "-www", "-key"])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It says so when it listens.
    let mut said = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("ACCEPT") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "openssl s_server has ended");
    }
    thread::spawn(move || said.read_to_end(&mut Vec::new()));
    Server(server)
}

/// What an agent does, in Python: tries one connection after the other, and tells how each went in a line.
pub(crate) const TRY: &str = r#"
import socket, sys
socket.setdefaulttimeout(60)

def attempt(what, host, port, name=""):
    if what == "own":
        # A server of its own, on a port that it may reach elsewhere.
        with socket.create_server((host, port)) as server:
            with socket.create_connection((host, port)) as client:
                server.accept()[0].sendall(b"its own")
                return client.recv(15).decode()
    with socket.create_connection((host, port)) as stream:
        if what == "tls":
            import ssl
            context = ssl.create_default_context(cafile="/mnt/ca.pem")
            context.check_hostname = name == "web.test"
            stream = context.wrap_socket(stream, server_hostname=name or None)
        if what in ("open", "asks"):
            # By nothing but the variables and files that it finds.
            if what == "open":
                import ssl
                stream = ssl.create_default_context().wrap_socket(stream, server_hostname=host)
            head = f"GET {name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            stream.sendall(head.encode())
        else:
            stream.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        if what == "half":
            stream.shutdown(socket.SHUT_WR)
        answer = b""
        while part := stream.recv(4096):
            answer += part
        return answer.decode().replace("\r\n", " ").replace("\n", " ")

for line in sys.argv[1].split(","):
    what, host, port, *name = line.split(" ")
    try:
        print(attempt(what, host, int(port), *name), flush=True)
    except OSError as error:
        print(type(error).__name__, error, flush=True)
"#;

/// The agent, what it tries, and what must come of it.
struct Case(&'static str, &'static str, &'static str);

const CASES: [Case; 35] = [
    Case("one", "page web.test 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
    Case("one", "page WEB.test. 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
    Case("one", "page a.wild.test 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
    Case("one", "page 10.77.0.1 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
    Case("one", "tls web.test 443 web.test", "HTTP/1.0 200 ok"),
    Case("two", "page 10.77.0.1 8081", "10.77.0.1:8081 GET /x HTTP/1.0"),
    Case("one", "half web.test 8080", "10.77.0.1:8080 GET /x HTTP/1.0"),
    Case("one", "own 127.0.0.1 8080", "its own"),
    // Requests, in an opened stream and in a plain one.
    Case("one", "open open.test 443 /v1/x", "HTTP/1.1 200"),
    Case("one", "open open.test 443 /v2/x", "403 Forbidden"),
    Case("one", "open open.test 443 /v1/%2e%2e/v2/x", "400 Bad Request"),
    Case("one", "asks open.test 8080 /v1/x", "10.77.0.1:8080 GET /v1/x HTTP/1.1"),
    Case("one", "asks open.test 8080 /v2/x", "cloister: denied: no rule allows this request"),
    // Other ports, names and addresses.
    Case("one", "page web.test 8081", "Connection refused"),
    Case("one", "page a.wild.test 443", "Connection refused"),
    Case("one", "page 10.77.0.1 8081", "Connection refused"),
    Case("one", "page 10.77.0.2 8080", "Network is unreachable"),
    Case("one", "page 1.1.1.1 443", "Network is unreachable"),
    Case("one", "page 169.254.169.254 80", "Network is unreachable"),
    Case("one", "page 0xa9fea9fe 80", "Network is unreachable"),
    Case("one", "page ::ffff:169.254.169.254 80", "unreachable"),
    Case("one", "page other.test 8080", "Name or service not known"),
    Case("one", "page bad.wild.test 8080", "Name or service not known"),
    Case("one", "page c2VjcmV0.tunnel.evil.example 8080", "Name or service not known"),
    // The agent's own loopback, and the host's by any way.
    Case("one", "page 127.0.0.1 8080", "Connection refused"),
    Case("one", "page localhost 8080", "Connection refused"),
    Case("one", "page loop.test 8080", "reset"),
    Case("one", "page cloud.test 80", "reset"),
    // TLS that names another server, or none, or is none.
    Case("one", "tls web.test 443 other.test", "reset"),
    Case("one", "tls web.test 443 ", "reset"),
    Case("one", "plain web.test 443", "reset"),
    // Another agent's grants, and none.
    Case("two", "page 10.77.0.1 8080", "Connection refused"),
    Case("two", "page web.test 8080", "Name or service not known"),
    Case("three", "page 10.77.0.1 8080", "Network is unreachable"),
    Case("three", "page web.test 8080", "failure in name resolution"),
];

#[test]
fn agents_reach_what_their_rules_allow_and_nothing_else() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    serve_pages("10.77.0.1:8080");
    serve_pages("10.77.0.1:8081");
    serve_pages("127.0.0.1:8080");
    let bed = Bed::with_programs();
    let shared = bed.path("team/shared");
    std::fs::create_dir(&shared).unwrap();
    let _tls = serve_tls(&shared);
    trust(&shared.join("ca.pem"));
    bed.up(TEAM);
    for agent in ["one", "two", "three"] {
        let own: Vec<&Case> = CASES.iter().filter(|case| case.0 == agent).collect();
        let words: Vec<&str> = own.iter().map(|case| case.1).collect();
        let call = bed.call(&["exec", &format!("t/{agent}")]).limit(Duration::from_secs(900));
        let outcome = call.command(["python3", "-c", TRY, &words.join(",")]).output();
        let text = outcome.text();
        assert_eq!(text.lines().count(), own.len(), "{agent}: {outcome:?}");
        for (case, said) in own.iter().zip(text.lines()) {
            assert!(said.contains(case.2), "{agent}: {}: {said:?}, not {:?}", case.1, case.2);
        }
    }
    for told in [
        "egress-allowed web.test:8080 at 10.77.0.1, by the rule in line 7 (allow web.test, ports 8080, 443)",
        "egress-ended web.test:8080: ",
        "egress-denied loop.test:8080: 127.0.0.1 is this host's loopback, and no rule names that address",
        "egress-denied cloud.test:80: 169.254.169.254 is a cloud's metadata service",
        "the TLS client names the server other.test, and asked for web.test",
        "the TLS client names no server (SNI)",
        "egress-denied GET https://open.test/v2/x: no rule allows this request",
        "name-refused it asked for the name c2vjcmv0.tunnel.evil.example, which it may not reach",
    ] {
        bed.await_event(told);
    }
    for (agent, target, code, wanted) in [
        ("one", "http://web.test:8080/x", 0, "one may reach web.test:8080: by the rule in line 7"),
        ("one", "169.254.169.254:80", 1, "one may not reach 169.254.169.254:80: no rule allows it"),
        (
            "one",
            "https://open.test/v1/x",
            0,
            "one may reach open.test:443 for GET /v1/x: by the rule in line",
        ),
        (
            "one",
            "https://open.test/v2/x",
            1,
            "one may not reach open.test:443 for GET /v2/x: no rule allows this request",
        ),
        ("two", "https://web.test", 1, "two may not reach web.test:443: no rule allows it"),
    ] {
        let outcome = bed.call(&["policy", "check", "t", agent, target]).output().exits(code);
        assert!(outcome.text().contains(wanted), "{target}: {outcome:?}");
    }
    bed.down();
}
