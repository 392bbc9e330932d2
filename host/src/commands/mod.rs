//! The commands of `cloister`, a file each. Each takes its arguments and returns its exit code, having
//! told on standard error what went wrong.

pub mod audit;
pub mod bench;
pub mod completion;
pub mod doctor;
pub mod image;
pub mod pool;
pub mod prove;
pub mod run;
pub mod secret;
pub mod teams;
pub mod template;

mod session;
pub mod team;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::exit_codes;
use crate::launch::group::sweep;
use crate::launch::jail::{JailSpec, LimitsWish};
use crate::report::tell_line;

/// Reads the command line, does what it says, and exits as documented. `limits` is for tests, whose
/// machine may have no controllers: the program `cloister` always asks for them.
#[must_use]
pub fn main(limits: LimitsWish) -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(arguments) => run::run(arguments, limits),
            Command::Up(arguments) => teams::up::up(*arguments),
            Command::Ps(arguments) => teams::ps::ps(&arguments),
            Command::Exec(arguments) => teams::exec::exec(arguments),
            Command::Logs(arguments) => teams::logs::logs(&arguments),
            Command::Attach(arguments) => teams::attach::attach(&arguments),
            Command::Cp(arguments) => teams::cp::cp(arguments),
            Command::Inspect(arguments) => teams::inspect::inspect(&arguments),
            Command::Stats(arguments) => teams::stats::stats(&arguments),
            Command::Metrics(arguments) => teams::metrics::metrics(&arguments),
            Command::Stop(arguments) => teams::control::stop(&arguments),
            Command::Start(arguments) => teams::control::start(&arguments),
            Command::Pause(arguments) => teams::control::pause(&arguments),
            Command::Resume(arguments) => teams::control::resume(&arguments),
            Command::Suspend(arguments) => teams::keep::suspend(&arguments),
            Command::Checkpoint(arguments) => teams::keep::checkpoint(&arguments),
            Command::Fork(arguments) => teams::keep::fork(&arguments),
            Command::Restart(arguments) => teams::control::restart(&arguments),
            Command::Down(arguments) => teams::control::down(&arguments),
            Command::Rm(arguments) => teams::control::rm(&arguments),
            Command::Warden(arguments) => teams::up::warden(arguments, limits),
            Command::Doctor(arguments) => doctor::doctor(arguments, limits),
            Command::Prove(arguments) => prove::prove(arguments, limits),
            Command::Bench(arguments) => bench::bench(&arguments, limits),
            Command::Image(arguments) => image::image(arguments),
            Command::Template(arguments) => template::template(arguments, limits),
            Command::Pool(arguments) => pool::pool(arguments, limits),
            Command::Blank(arguments) => pool::blank(arguments, limits),
            Command::Audit(arguments) => audit::audit(&arguments),
            Command::Validate(arguments) => team::validate(&arguments),
            Command::Plan(arguments) => team::plan(&arguments),
            Command::Explain(arguments) => team::explain(&arguments),
            Command::Policy(arguments) => teams::policy::policy(&arguments),
            Command::Secret(arguments) => secret::secret(arguments),
            Command::Schema => team::schema(),
            Command::Completion(arguments) => completion::completion(&arguments),
        },
        // Also how clap returns what --help and --version print.
        Err(message) => {
            // Nothing could be told to somebody whose terminal is gone.
            message.print().ok();
            if message.use_stderr() { exit_codes::FAILED } else { exit_codes::OK }
        }
    };
    ExitCode::from(code)
}

/// Removes what killed commands have left, and says so.
pub(crate) fn clean_up(jail: &JailSpec) {
    // A place that can't be found is for the start to explain.
    for removed in jail.place().iter().flat_map(sweep) {
        let place = removed.display();
        tell_line(format_args!("cloister: removed what a killed command had left: {place}"));
    }
}
