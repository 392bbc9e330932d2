use clap::CommandFactory as _;

use super::*;

#[test]
fn the_description_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn help_names_the_defaults_of_the_machine() {
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_long_help().to_string();
    for words in ["[default: 1]", "[default: 512M]", "[default: 60s]", "Exit codes:", "Examples:"] {
        assert!(help.contains(words), "{words}");
    }
}

#[test]
fn words_after_the_command_are_its_own() {
    for words in [
        &["cloister", "run", "ls", "-l", "--cpus", "99"][..],
        &["cloister", "run", "--", "ls", "-l", "--cpus", "99"],
    ] {
        let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command")
        };
        assert_eq!(arguments.command, ["ls", "-l", "--cpus", "99"]);
        assert_eq!(arguments.cpus, 1);
    }
}

#[test]
fn a_completion_script_knows_the_commands() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "cloister", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("doctor") && script.contains("workdir"));
    }
}
