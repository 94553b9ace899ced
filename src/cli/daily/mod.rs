//! Floor 4: the subcommands of daily work, which speak to a running bridge by its REST API alone.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

use crate::cli::pipe;
use crate::cli::terminal::text::plain;
use crate::config::{ClientSettings, ConfigError};
use session::{Session, Target};

mod agents;
mod body;
mod connections;
mod deliveries;
mod events;
mod explain;
mod keys;
mod listen;
mod profile;
mod recoveries;
mod session;
mod sources;
mod webhooks;

/// A command: its name, what it is for, its example, and what adds its options and verbs.
type Listed = (&'static str, &'static str, &'static str, fn(Command) -> Command);

#[rustfmt::skip]
const COMMANDS: &[Listed] = &[
    ("webhooks", "Register webhooks; see, change, pause, test and remove them", webhooks::EXAMPLE, whole::<Group<webhooks::Verb>>),
    ("events", "See presence changes, past and present", events::EXAMPLE, whole::<Group<events::Verb>>),
    ("deliveries", "See deliveries with their attempts, and try them again", deliveries::EXAMPLE, whole::<Group<deliveries::Verb>>),
    ("explain", "Say why a webhook got an event, or did not", explain::EXAMPLE, whole::<Single<explain::Question>>),
    ("agents", "See agents with their last known state, and map them to users of the CRM", agents::EXAMPLE, whole::<Group<agents::Verb>>),
    ("sources", "Add Genesys organisations; see, change and remove them", sources::EXAMPLE, whole::<Group<sources::Verb>>),
    ("gaps", "See when agents could not be seen", sources::GAPS_EXAMPLE, whole::<Single<sources::Gaps>>),
    ("keys", "See, make and revoke API keys", keys::EXAMPLE, whole::<Group<keys::Verb>>),
    ("connections", "See the sockets to Genesys, open them again or end them", connections::EXAMPLE, whole::<Group<connections::Verb>>),
    ("recoveries", "See what is delivered again at a request, and cancel it", recoveries::EXAMPLE, whole::<Group<recoveries::Verb>>),
    ("console", "Print a link that logs a browser into the console once", keys::CONSOLE_EXAMPLE, whole::<Single<keys::Console>>),
    ("listen", "Post each change, signed, to an address that only this machine reaches", listen::EXAMPLE, whole::<Single<listen::Listen>>),
    ("profile", "Keep the address of a bridge and a key to it under a name", profile::EXAMPLE, whole::<profile::Profile>),
];

/// One of the commands. Their options are put together only where one of them was called: a bridge that
/// serves parses its command line too, and shall not pay for them.
#[derive(Debug)]
pub struct Daily(Verbs);

impl FromArgMatches for Daily {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Verbs::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Subcommand for Daily {
    fn augment_subcommands(command: Command) -> Command {
        COMMANDS.iter().fold(command, |command, (name, about, example, whole)| {
            command.subcommand(Command::new(*name).about(*about).after_help(*example).defer(*whole))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        COMMANDS.iter().any(|(known, ..)| *known == name)
    }
}

/// Adds options and verbs. They are put in by groups, whose words are not those of the command.
fn whole<A: Args>(command: Command) -> Command {
    let about = command.get_about().cloned();
    A::augment_args(command).about(about.unwrap_or_default()).long_about(None)
}

/// What to do with a running bridge; [`COMMANDS`] tells what each is for.
#[derive(Debug, Subcommand)]
enum Verbs {
    Webhooks(Group<webhooks::Verb>),
    Events(Group<events::Verb>),
    Deliveries(Group<deliveries::Verb>),
    Explain(Single<explain::Question>),
    Agents(Group<agents::Verb>),
    Sources(Group<sources::Verb>),
    Gaps(Single<sources::Gaps>),
    Keys(Group<keys::Verb>),
    Connections(Group<connections::Verb>),
    Recoveries(Group<recoveries::Verb>),
    Console(Single<keys::Console>),
    Listen(Single<listen::Listen>),
    Profile(profile::Profile),
}

/// A subcommand with verbs of its own.
#[derive(Debug, Args)]
pub struct Group<V: Subcommand> {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: V,
}

/// A subcommand that is its own verb.
#[derive(Debug, Args)]
pub struct Single<A: Args> {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    wanted: A,
}

/// What a subcommand comes to.
type Done = anyhow::Result<ExitCode>;

/// Runs one of the commands.
///
/// # Errors
/// A `ConfigError` inside if the configuration or the command line is wrong.
pub fn run(command: Daily, settings: &ClientSettings) -> anyhow::Result<ExitCode> {
    let done = match command.0 {
        Verbs::Webhooks(group) => group.run(settings, webhooks::run),
        Verbs::Events(group) => group.run(settings, events::run),
        Verbs::Deliveries(group) => group.run(settings, deliveries::run),
        Verbs::Explain(single) => single.run(settings, explain::run),
        Verbs::Agents(group) => group.run(settings, agents::run),
        Verbs::Sources(group) => group.run(settings, sources::run),
        Verbs::Gaps(single) => single.run(settings, sources::gaps),
        Verbs::Keys(group) => group.run(settings, keys::run),
        Verbs::Connections(group) => group.run(settings, connections::run),
        Verbs::Recoveries(group) => group.run(settings, recoveries::run),
        Verbs::Console(single) => single.run(settings, keys::console),
        Verbs::Listen(single) => {
            single.run(settings, |wanted, session| listen::run(wanted, session, settings))
        }
        Verbs::Profile(profile) => profile::run(profile.verb, settings),
    };
    match done {
        Err(error) if pipe::is_broken(&error) => Ok(ExitCode::SUCCESS),
        // Whoever answers may write into an error what a terminal acts on.
        Err(error) if !error.is::<ConfigError>() => Err(anyhow!("{}", plain(&format!("{error:#}")))),
        done => done,
    }
}

impl<V: Subcommand> Group<V> {
    fn run(self, settings: &ClientSettings, run: impl FnOnce(V, &Session) -> Done) -> Done {
        run(self.verb, &Session::open(&self.target, settings)?)
    }
}

impl<A: Args> Single<A> {
    fn run(self, settings: &ClientSettings, run: impl FnOnce(A, &Session) -> Done) -> Done {
        run(self.wanted, &Session::open(&self.target, settings)?)
    }
}
