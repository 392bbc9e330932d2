//! Unmodified programs of agents and real servers, with no option for it but what people give them. It needs the lab, whose
//! addresses and `/etc` it changes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::egress::{lab, make_certificate, prepare, trust};
use crate::programs::is_slow;
use crate::team_bed::Bed;

const TEAM: &str = r#"
name = "t"
[agents.one]
image = "clients"
command = ["sleep", "100000"]
memory = "512MiB"
cpus = 1.0
mounts = [{ source = "./shared", target = "/mnt" }]
[[agents.one.egress]]
host = "web.test"
ports = [80, 443]
[[agents.one.egress]]
host = "open.test"
ports = [80, 443]
methods = ["GET"]
paths = ["/v1/**"]
[[agents.one.egress]]
host = "open.test"
ports = [443]
paths = ["/v1/socket"]
websocket = true
[[agents.one.egress]]
host = "db.test"
ports = [5432]
[[agents.one.egress]]
host = "git.test"
ports = [22]
[[agents.one.egress]]
cidr = "10.77.0.1"
ports = [22, 80, 443, 5432]
"#;

/// What an agent runs, and a part of what it must say.
struct Case(&'static str, &'static str);

/// One of each kind.
const FEW: &[Case] = &[
    Case("curl -sS https://open.test/v1/page", "a page\n"),
    Case(
        "curl -sSN https://open.test/v1/events | { \
         read a; curl -sS https://open.test/v1/next; read b; read c; echo $a, $c; }",
        "data: one, data: two\n",
    ),
    Case("curl -sS https://open.test/page", "cloister: denied: no rule allows this request"),
    Case("curl -sS https://other.test/", "Could not resolve host: other.test"),
    Case("python3 /mnt/clients.py get https://open.test/v1/page", "200 a page\n"),
    Case("python3 /mnt/clients.py talk wss://open.test/v1/socket", "back: hello\n"),
    Case("cd /tmp && git clone -q https://open.test/v1/work.git a && cat a/read.me", "text of the"),
    Case(
        "cd /tmp && git clone -q ssh://agent@git.test/srv/git/work.git c && cat c/*",
        "text of the",
    ),
    Case(
        "psql 'host=db.test user=agent dbname=postgres sslmode=verify-full sslrootcert=/mnt/ca.pem' \
         -Atc 'select name, value from facts'",
        "answer|42\n",
    ),
    Case("psql 'host=web.test user=agent dbname=postgres' -c 'select 1'", "Connection refused"),
];

/// With `CLOISTER_TESTS=slow` besides, since some take a minute each under emulation.
const MORE: &[Case] = &[
    Case("curl -sS --http1.1 https://open.test/v1/page", "a page\n"),
    Case("curl -sS http://open.test/v1/page", "a page\n"),
    Case("curl -sS --cacert /mnt/ca.pem https://web.test/page", "a page out of bounds\n"),
    Case("curl -sS --compressed https://open.test/v1/large | wc -c", "3000000\n"),
    Case("curl -sSL https://open.test/v1/redirect", "cloister: denied: no rule allows"),
    Case("curl -sS -X PUT https://open.test/v1/page", "cloister: denied: no rule allows"),
    Case("curl -sS https://web.test/page", "SSL certificate problem"),
    Case("curl -sS https://db.test/", "Failed to connect to db.test port 443"),
    Case("python3 /mnt/clients.py get https://open.test/page", "403 cloister: denied"),
    Case("python3 /mnt/clients.py get https://other.test/", "Name or service not known"),
    Case("python3 /mnt/clients.py open open.test", "HTTP/1.1 200 OK a page\n"),
    Case("python3 /mnt/clients.py open other.test", "Name or service not known"),
    Case("python3 /mnt/clients.py talk wss://open.test/v1/page", "HTTP 403"),
    Case(
        "pip install -q --no-cache-dir --disable-pip-version-check --target /tmp/packages \
         --index-url https://open.test/v1/simple small && \
         PYTHONPATH=/tmp/packages python3 -c 'import small; print(small.ANSWER)'",
        "42\n",
    ),
    Case(
        "pip download --retries 0 --disable-pip-version-check --no-cache-dir -d /tmp/none \
         --index-url https://open.test/simple small",
        "No matching distribution found for small",
    ),
    // Node.
    Case("node /mnt/clients.js https://open.test/v1/page", "200 a page\n"),
    Case("node /mnt/clients.js https://open.test/page", "403 cloister: denied"),
    Case("node /mnt/clients.js https://other.test/", "ENOTFOUND"),
    Case("cd /tmp && git clone -q https://open.test/work.git b", "error: 403"),
    Case(
        "cd /tmp/c && echo more >more && git add more && git -c user.name=a -c user.email=a@a \
         commit -qm more && git push -q && git ls-remote -q origin main | grep -c $(git rev-parse main)",
        "1\n",
    ),
    Case("cd /tmp && git clone -q ssh://agent@web.test/srv/git/work.git d", "Connection refused"),
    Case("psql 'host=other.test user=agent dbname=postgres' -c 'select 1'", "could not translate"),
];

const PYTHON: &str = r#"
import asyncio, ssl, sys

def get(url):
    import requests
    answer = requests.get(url)
    print(answer.status_code, answer.text, end="")

async def open(host):
    reader, writer = await asyncio.open_connection(host, 443, ssl=ssl.create_default_context())
    writer.write(f"GET /v1/page HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, body = (await reader.read()).decode().split("\r\n\r\n")
    print(head.splitlines()[0], body, end="")

async def talk(url):
    import websockets
    async with websockets.connect(url) as socket:
        await socket.send("hello")
        print(await socket.recv())

what, where = sys.argv[1:]
done = globals()[what](where)
if done:
    asyncio.run(done)
"#;

const NODE: &str = r#"
fetch(process.argv[2])
  .then(async (answer) => console.log(answer.status, (await answer.text()).trimEnd()))
  .catch((error) => console.log(error.cause.code));
"#;

/// The servers, which end when their input does.
struct Servers(Child);

impl Servers {
    fn start(folder: &Path) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(tests.join("servers/serve"))
            .arg(tests.join("../out/tests/servers"))
            .args(["10.77.0.1".as_ref(), folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

#[test]
fn unmodified_programs_reach_real_servers_that_they_may_reach() {
    if !lab() {
        return;
    }
    let _turn = prepare();
    let bed = Bed::with_programs();
    let shared = bed.path("team/shared");
    fs::create_dir(&shared).unwrap();
    let (_key, certificate) = make_certificate(&shared);
    trust(&certificate);
    let _servers = Servers::start(&shared);
    fs::write(shared.join("clients.py"), PYTHON).unwrap();
    fs::write(shared.join("clients.js"), NODE).unwrap();
    bed.up(TEAM);
    // A key that others may read is used by no ssh.
    let _key = bed.exec("t/one", "cp /mnt/agent_key /tmp/key && chmod 600 /tmp/key");
    let ssh = "export GIT_SSH_COMMAND='ssh -i /tmp/key -o UserKnownHostsFile=/mnt/known_hosts'";
    let mut wrong = String::new();
    let more = if is_slow() { MORE } else { &[] };
    for Case(script, wanted) in FEW.iter().chain(more) {
        let call = bed.call(&["exec", "t/one"]).limit(Duration::from_secs(600));
        let script = format!("{ssh}; {{ {script}\n}} 2>&1");
        let said = call.command(["sh", "-c", &script]).output().text();
        if !said.contains(wanted) {
            wrong += &format!("{script}: {said:?}, not {wanted:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    bed.down();
}
