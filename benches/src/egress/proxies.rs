//! Plain proxies from Debian, on this host: each takes connections on ports of its own, and connects to the server. None
//! outlives this process.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::server::Ports;
use super::{Address, Place, Way};
use crate::spawn::{Program, Running};

/// Ends a program with the process that started it.
const SETPRIV: &str = "/usr/bin/setpriv";
/// Where HAProxy finds its first listening socket: above every number that this process uses.
const LISTENER: RawFd = 200;
/// What socat moves at once; its own default is 8 KiB.
const SOCAT_BYTES: u32 = 64 << 10;
/// How long socat may take until it listens, and how often that is tried: it tells nobody.
const START_LIMIT: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Proxies that run.
#[derive(Debug, Default)]
pub struct Proxies {
    /// Ways to the server through them.
    pub places: Vec<Place>,
    running: Vec<Running>,
    configuration: Option<PathBuf>,
}

impl Drop for Proxies {
    fn drop(&mut self) {
        if let Some(file) = &self.configuration {
            fs::remove_file(file).ok();
        }
    }
}

impl Proxies {
    /// Starts those that are named; `file` is for HAProxy's configuration, which goes with the last of them.
    ///
    /// # Errors
    /// One can't be started.
    pub fn start(
        haproxy: Option<&PathBuf>,
        socat: Option<&PathBuf>,
        server: Ports,
        file: &Path,
    ) -> anyhow::Result<Self> {
        let mut proxies = Self::default();
        if let Some(program) = haproxy {
            proxies.haproxy(program, server, file)?;
        }
        if let Some(program) = socat {
            proxies.socat(program, server)?;
        }
        Ok(proxies)
    }

    /// One process with one thread, as the gate has; as it comes, and moving bytes within the kernel.
    fn haproxy(&mut self, program: &Path, server: Ports, file: &Path) -> anyhow::Result<()> {
        let listeners = Listeners::new(4)?;
        fs::write(file, configuration(server))?;
        self.configuration = Some(file.to_owned());
        let words = ["-db", "-f", file.to_str().context("a path is no text")?];
        let running = start(program, &words, &listeners.sockets)?;
        let processes = vec![running.id()];
        self.running.push(running);
        for (name, pair) in ["haproxy", "haproxy-splice"].into_iter().zip(listeners.ports.chunks(2))
        {
            self.places.push(place(name, processes.clone(), pair, server)?);
        }
        Ok(())
    }

    /// A process for each connection, and two that listen.
    fn socat(&mut self, program: &Path, server: Ports) -> anyhow::Result<()> {
        let (mut processes, mut near) = (Vec::new(), Vec::new());
        for port in [server.plain, server.tls] {
            // It takes no socket that listens already, so its port is free for a moment.
            let own = Listeners::new(1)?.ports;
            let bytes = SOCAT_BYTES.to_string();
            let near_port = *own.first().context("no port")?;
            let listen = format!("TCP4-LISTEN:{near_port},bind=127.0.0.1,reuseaddr,fork,nodelay");
            let connect = format!("TCP4:127.0.0.1:{port},nodelay");
            let running = start(program, &["-b", &bytes, &listen, &connect], &[])?;
            processes.push(running.id());
            self.running.push(running);
            wait_for(near_port)?;
            near.push(near_port);
        }
        self.places.push(place("socat", processes, &near, server)?);
        Ok(())
    }
}

/// Sockets that listen; nobody else can take their ports, and who connects early waits.
struct Listeners {
    sockets: Vec<TcpListener>,
    ports: Vec<u16>,
}

impl Listeners {
    fn new(count: usize) -> anyhow::Result<Self> {
        let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let sockets: Vec<_> = (0..count).map(listen).collect::<Result<_, _>>()?;
        let port = |socket: &TcpListener| Ok(socket.local_addr()?.port());
        let ports = sockets.iter().map(port).collect::<anyhow::Result<_>>()?;
        Ok(Self { sockets, ports })
    }
}

/// Waits until something takes connections on a port.
fn wait_for(port: u16) -> anyhow::Result<()> {
    let end = Instant::now() + START_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(Instant::now() < end, "nothing listens on port {port}");
        sleep(TRY_EVERY);
    }
    Ok(())
}

fn start(program: &Path, words: &[&str], listeners: &[TcpListener]) -> anyhow::Result<Running> {
    let mut arguments = vec!["--pdeathsig".to_owned(), "KILL".to_owned()];
    arguments.push(program.to_str().context("a path is no text")?.to_owned());
    arguments.extend(words.iter().map(|word| (*word).to_owned()));
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut places: Vec<(BorrowedFd<'_>, RawFd)> = vec![(null.as_fd(), 0), (null.as_fd(), 1)];
    places.extend(listeners.iter().map(TcpListener::as_fd).zip(LISTENER..));
    let running = Program::new(Path::new(SETPRIV), &arguments)?.spawn(&places);
    running.with_context(|| format!("starting {} by {SETPRIV}", program.display()))
}

fn place(
    name: &'static str,
    processes: Vec<u32>,
    near: &[u16],
    server: Ports,
) -> anyhow::Result<Place> {
    let &[plain, tls] = near else { anyhow::bail!("{name} has {} ports, not two", near.len()) };
    let address = |near: u16, port| {
        let way = Way::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, near)));
        Address { way, port }
    };
    let (plain, tls) = (address(plain, server.plain), address(tls, server.tls));
    Ok(Place { name, is_ours: false, processes, plain, tls })
}

fn configuration(server: Ports) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 2000\n\
        defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n"
        .to_owned();
    let ports = [server.plain, server.tls];
    let options = ["", "  option splice-auto\n"];
    let fronts = options.into_iter().flat_map(|option| ports.map(|port| (option, port)));
    for ((option, port), listener) in fronts.zip(LISTENER..) {
        // Writing to a text can't fail.
        write!(
            text,
            "listen l{listener}\n{option}  bind fd@{listener}\n  server s 127.0.0.1:{port}\n"
        )
        .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_has_both_ports_with_and_without_splicing() {
        let text = configuration(Ports { plain: 81, tls: 444 });
        let parts: Vec<&str> = text.split("listen ").skip(1).collect();
        let [plain, tls, plain_splice, tls_splice] = parts.as_slice() else { panic!("{text}") };
        for (part, port, splices) in [
            (plain, ":81\n", false),
            (tls, ":444\n", false),
            (plain_splice, ":81\n", true),
            (tls_splice, ":444\n", true),
        ] {
            assert!(part.contains(port) && part.contains("splice") == splices, "{text}");
        }
        assert!(tls.contains("bind fd@201\n") && tls_splice.contains("bind fd@203\n"), "{text}");
    }
}
