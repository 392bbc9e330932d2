//! `bench-egress`: what the gate of egress adds, in turns with a direct connection and with plain proxies.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Parser};
use cloister_benches::egress::client::Clients;
use cloister_benches::egress::comparison::compare;
use cloister_benches::egress::gate::{self, Ready, Records};
use cloister_benches::egress::proxies::Proxies;
use cloister_benches::egress::report::Report;
use cloister_benches::egress::role::Role;
use cloister_benches::egress::server::{self, Ports, Server};
use cloister_benches::egress::work::Size;
use cloister_benches::egress::{Address, Place, Way};

/// Connections, requests and transfers to a server of this machine: directly, through the gate of a team, and through
/// plain proxies. Exit code 2: it could not be measured.
#[derive(Debug, Parser)]
enum Arguments {
    /// Measures.
    Measure(Measure),
    /// Serves; for this program's own use.
    #[command(hide = true)]
    Server,
    /// Is the gate; for this program's own use.
    #[command(hide = true)]
    Gate,
}

#[derive(Debug, Args)]
struct Measure {
    /// HAProxy; not given: measured without it.
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// socat; not given: measured without it.
    #[arg(long, value_name = "FILE")]
    socat: Option<PathBuf>,
    /// This program of another build, whose gate is measured too: what a change does, in one run.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Rounds.
    #[arg(short = 'n', long, default_value_t = 5)]
    count: u32,
    /// Rounds before them that are thrown away.
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// Connections, one after the other.
    #[arg(long, default_value_t = 200)]
    connections: u32,
    /// Requests on one connection. The gate records 1,000 of an agent in 10 s.
    #[arg(long, default_value_t = 900)]
    requests: u32,
    /// KiB of a transfer.
    #[arg(long, default_value_t = 256 << 10)]
    kib: u64,
    /// Streams of the transfers that have several.
    #[arg(long, default_value_t = 32)]
    streams: u32,
    /// An empty directory in memory, for what the gate keeps.
    #[arg(long, value_name = "FOLDER")]
    place: PathBuf,
    /// Where JSON, table and plots go.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let result = match Arguments::parse() {
        Arguments::Measure(arguments) => measure(&arguments),
        Arguments::Server => server::run(),
        Arguments::Gate => gate::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stream is no reason to end differently.
            writeln!(std::io::stderr(), "bench-egress: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &Measure) -> anyhow::Result<()> {
    let size = Size {
        connections: arguments.connections,
        requests: arguments.requests,
        bytes: arguments.kib << 10,
        streams: arguments.streams,
    };
    let program = std::env::current_exe()?;
    let (server_role, server) = Role::start::<Server>(&program, "server", &())?;
    let place = &arguments.place;
    let mut gates = vec![Gate::start(&program, (["gate", "gate-opened"], true), place, &server)?];
    if let Some(before) = &arguments.before {
        gates.push(Gate::start(before, (["before", "before-opened"], false), place, &server)?);
    }
    let (haproxy, socat) = (arguments.haproxy.as_ref(), arguments.socat.as_ref());
    let file = place.join("haproxy.cfg");
    let proxies = Proxies::start(haproxy, socat, server.passed, &file)?;
    let mut places = vec![direct(server.passed)];
    places.extend(gates.iter().flat_map(|gate| gate.places.clone()));
    places.extend_from_slice(&proxies.places);
    let mut authorities = vec![server.authority.as_str()];
    authorities.extend(gates.iter().map(|gate| gate.authority.as_str()));
    let clients = Clients::new(&authorities)?;
    let measured = compare(&places, &clients, &size, (arguments.warmup, arguments.count));
    let records = gates.into_iter().map(Gate::end).collect::<anyhow::Result<Vec<_>>>();
    // Why the gate refused something says more than that it did.
    let (records, measured) = (records?, measured?);
    server_role.end::<()>()?;
    let records = records.into_iter().next().unwrap_or_default();
    let report = Report::new(size, records, measured);
    report.write(&arguments.out)?;
    std::io::stdout().write_all(report.table().as_bytes())?;
    Ok(())
}

/// A gate in a process of its own, and the ways through it.
struct Gate {
    role: Role,
    folder: PathBuf,
    authority: String,
    places: [Place; 2],
}

impl Gate {
    /// With these names for its ways; `is_ours`: it is what the others are held against.
    fn start(
        program: &Path,
        ([passed, opened], is_ours): ([&'static str; 2], bool),
        place: &Path,
        server: &Server,
    ) -> anyhow::Result<Self> {
        let folder = place.join(passed);
        fs::create_dir(&folder)?;
        let spec = gate::Spec { folder: folder.clone(), server: server.clone() };
        let (role, Ready { socket, authority }) = Role::start::<Ready>(program, "gate", &spec)?;
        let through = |name, ports: Ports| {
            let address = |port| Address { way: Way::Gate(socket.clone()), port };
            let (plain, tls) = (address(ports.plain), address(ports.tls));
            Place { name, is_ours, processes: vec![role.id()], plain, tls }
        };
        let places = [through(passed, server.passed), through(opened, server.opened)];
        Ok(Self { role, folder, authority, places })
    }

    fn end(self) -> anyhow::Result<Records> {
        let records: Records = self.role.end()?;
        if let Some(why) = &records.failed {
            bail!("the gate failed: {why}");
        }
        fs::remove_dir_all(self.folder)?;
        Ok(records)
    }
}

fn direct(ports: Ports) -> Place {
    let address = |port| {
        let way = Way::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Address { way, port }
    };
    let (plain, tls) = (address(ports.plain), address(ports.tls));
    Place { name: "direct", is_ours: false, processes: vec![], plain, tls }
}
