//! The command line, as clap derives it: exactly the commands that this version has.
//!
//! The text of `help`, the completions and the man pages all come from here.

mod adopt;
mod choices;
mod looks;
mod orders;

pub(crate) use adopt::AdoptCommand;
pub(crate) use choices::{LaneArg, RoleArg};
pub(crate) use looks::{BundleArgs, DoctorArgs, StatusArgs};
pub(crate) use orders::{AffectedArgs, LimitCommand};

use crate::config::{Period, Size};
use blockferry_node::api::Require;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use std::net::SocketAddr;
use std::path::PathBuf;

const EXITS: &str = "\
Exit status:
  0 done                     10 service unreachable   14 verification failed
  1 failed                   11 locked or in use      15 diverged
  2 usage                    12 identity refused      78 bad configuration
  3 not in sync, partly done 13 out of space         130 interrupted
  4 timed out waiting
  5 no such image, peer or store";

/// Keeps stores of large disk images equal on many servers, moving only what changed.
#[derive(Debug, Parser)]
#[command(name = "blockferry", version, after_help = EXITS, propagate_version = true)]
#[command(
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: /etc/blockferry/blockferry.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "BLOCKFERRY_CONFIG",
        hide_env_values = true
    )]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Write JSON to stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress and no prose, only data and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// More detail; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
    /// Give up waiting after this long, e.g. 30s or 2h; the job itself goes on
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) timeout: Option<Period>,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Two local nodes, a sample image, and a delta that travels while you watch
    ///
    /// Needs no root and no configuration. Starts two nodes in a temporary directory, makes a
    /// sample image, copies it, changes a few MiB of it, copies the change, compares both ends
    /// and cleans up.
    Demo(DemoArgs),
    /// Make an identity, a commented configuration and the directories of a node
    Init(InitArgs),
    /// Run the service (systemd: Type=notify)
    Serve(ServeArgs),
    /// Print this node's id (works without the service)
    Id,
    /// Tokens for HTTP (works without the service)
    #[command(subcommand)]
    Token(TokenCommand),
    /// Directories that are replicated
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a one-time ticket for another node to join a store with
    Invite(InviteArgs),
    /// Pair with the node that made the ticket and take part in its store
    Join(JoinArgs),
    /// The nodes this one is paired with
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Node, peers, stores and backlog on one screen
    Status(StatusArgs),
    /// What is wrong here, or will be, and what to do about it (works without the service, less)
    ///
    /// Exit status 0: nothing, 3: warnings, 1: something must be done, 10: the service doesn't
    /// answer, 78: the configuration can't be used.
    Doctor(DoctorArgs),
    /// Write an archive for support: how things stand, without secrets (works without the service)
    Bundle(BundleArgs),
    /// The images of a store and their generations
    #[command(subcommand)]
    Image(ImageCommand),
    /// Record a generation now, without waiting for the image to settle
    Publish(PublishArgs),
    /// Say what would travel and when it would be there, and send nothing
    Plan(PlanArgs),
    /// Offer an image to its peers now
    Push(PushArgs),
    /// What each peer lacks, how much that is and why it waits
    Backlog {
        /// Only this peer
        #[arg(long)]
        peer: Option<String>,
    },
    /// How long a peer takes to answer, whatever else is on the link
    Netcheck {
        /// Its name or id
        peer: String,
        /// How often it is asked
        #[arg(long, default_value_t = 100)]
        count: u32,
    },
    /// Is it there, verified? Exit status 0: yes, 3: no
    Ready(ReadyArgs),
    /// Wait until it is there, verified (see --timeout)
    Wait(ReadyArgs),
    /// Say that a generation may be used, if it is where it must be, verified
    ///
    /// Refused while a member lacks it, holds a newer one, or has changed its file. Kept and told
    /// to all members; then promote.hook_after of the configuration is run.
    Promote(PromoteArgs),
    /// Make the content of an earlier generation the current one again, here and on all members
    Rollback {
        /// STORE/NAME@GENERATION, from `image history`
        image: String,
    },
    /// Images of which two contents diverged. Exit status 0: none, 15: some wait for a decision
    Conflicts {
        /// Only of this image, STORE/NAME
        image: Option<String>,
    },
    /// Decide which content of an image goes on; the others are kept
    Resolve(ResolveArgs),
    /// Take a directory over from robocopy, rsync or DFS-R, step by step and back
    #[command(subcommand)]
    Adopt(AdoptCommand),
    /// Re-hash local images against the catalog
    Verify {
        /// STORE/NAME or STORE [default: everything]
        image: Option<String>,
        /// Read from the device, also what the page cache has
        #[arg(long)]
        deep: bool,
        /// Fetch again, from a peer that holds the same generation, what isn't as recorded; the
        /// damaged file is kept
        #[arg(long)]
        repair: bool,
    },
    /// Offer and send nothing; what came is kept, what is under way goes on later
    Pause(AffectedArgs),
    /// End pauses and boosts, or with --for leave them out of account for a while
    Resume(AffectedArgs),
    /// Send whatever the calendar says; limits hold
    Boost(AffectedArgs),
    /// A limit besides those of the configuration; the tightest rules
    #[command(subcommand)]
    Limit(LimitCommand),
    /// The calendars: what is in force, until when, and what comes next
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// What happened
    Events {
        /// Keep running and print new events
        #[arg(short, long)]
        follow: bool,
        /// Only the last so long, e.g. 1h
        #[arg(long, value_name = "DURATION")]
        since: Option<Period>,
    },
    /// Check or show the configuration (works without the service)
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write man pages
    Man {
        /// An existing directory
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// `demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Size of the sample image
    #[arg(long, default_value = "2GiB")]
    pub(crate) size: Size,
    /// Leave the directory with both nodes in place
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show the page of both nodes until Ctrl-C
    #[arg(long)]
    pub(crate) web: bool,
}

/// `token`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: prints it once, and the lines for the configuration, which keep only its hash
    New {
        /// Whose it is, for the log
        name: String,
        /// What it may do; each includes the one before
        #[arg(long, value_enum, value_name = "SCOPE")]
        scope: TokenScope,
    },
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenScope {
    /// Look: status, images, events, metrics
    Read,
    /// Also publish, push, verify, pause and limit
    Operate,
    /// Also change stores and peers
    Admin,
}

/// `serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Stop when stdin is closed: a service that its starter must not outlive
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

/// `init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Put everything of the node here; several nodes can then run on one machine without root
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// Name that others see [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// UDP address to listen on
    #[arg(long, value_name = "ADDR", default_value = "[::]:7700")]
    pub(crate) listen: SocketAddr,
    /// Make only what isn't there: nothing, or the key of a configuration that came from elsewhere
    #[arg(long, conflicts_with = "dir")]
    pub(crate) if_missing: bool,
}

/// `store`
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Take an existing directory into service
    Add {
        /// Name of the store, the same on every member
        name: String,
        /// Its directory
        #[arg(value_hint = ValueHint::DirPath)]
        path: PathBuf,
        /// writer: changes made here travel; mirror: only receives
        #[arg(long, default_value = "writer")]
        role: RoleArg,
    },
    /// All stores
    Ls,
    /// One store
    Show {
        /// Name of the store
        name: String,
    },
    /// Take a store out of service; its files stay
    Rm {
        /// Name of the store
        name: String,
    },
}

/// `invite`
#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Store that the ticket admits to
    #[arg(long, value_name = "NAME")]
    pub(crate) store: String,
    /// Role of the node that joins
    #[arg(long, default_value = "writer")]
    pub(crate) role: RoleArg,
    /// How long the ticket is good for
    #[arg(long, value_name = "DURATION", default_value = "15m")]
    pub(crate) ttl: Period,
}

/// `join`
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The line that invite printed
    pub(crate) ticket: String,
    /// Directory of the store here; made if it isn't there
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub(crate) path: Option<PathBuf>,
    /// What to call the inviter here [default: as it calls itself]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// `peer`
#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// All peers
    Ls,
    /// One peer
    Show {
        /// Its name or id
        peer: String,
    },
    /// End the pairing; what was received stays
    Rm {
        /// Its name or id
        peer: String,
    },
    /// Change a setting: name=NAME, address=HOST:PORT,..., compression=auto|none|1..19, schedule=NAME
    /// (schedule= for none), polite=true|false or weight=1..100
    Set {
        /// Its name or id
        peer: String,
        /// key=value
        setting: String,
    },
}

/// `image`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// All images, of one store if named
    Ls {
        /// Name of the store
        store: Option<String>,
    },
    /// One image
    Show {
        /// STORE/NAME
        image: String,
    },
    /// The generations of an image, newest first
    History {
        /// STORE/NAME
        image: String,
        /// As CSV, every column in full
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
}

/// `publish`
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// STORE/NAME
    pub(crate) image: String,
    /// What changed since the current generation: a file of lines START LENGTH, or a dirty
    /// bitmap of qemu as nbd+unix:///EXPORT?socket=PATH&bitmap=NAME. Only that is read, if the map
    /// shows that it begins at the current generation
    #[arg(long, value_name = "MAP", value_hint = ValueHint::FilePath)]
    pub(crate) changed: Option<String>,
    /// Number of the generation at which the map begins, if the map itself doesn't say it
    #[arg(long, value_name = "GENERATION", requires = "changed")]
    pub(crate) since: Option<u64>,
}

/// `plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// STORE/NAME
    pub(crate) image: String,
    /// For this peer [default: the one that lacks most]
    pub(crate) peer: Option<String>,
    /// As if it began then, by the clock of the peer's calendar: 'Mon 22:00', '22:00', '2026-12-24
    /// 18:00', or an instant: '2026-12-24T17:00:00Z' [default: now, in its turn]
    #[arg(long, value_name = "MOMENT")]
    pub(crate) at: Option<String>,
    /// Would it be there by then, and what rate would that take? Exit status 0: it fits, 3: it
    /// doesn't, or nobody can say
    #[arg(long, value_name = "MOMENT")]
    pub(crate) by: Option<String>,
}

/// `push`
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// STORE/NAME
    pub(crate) image: String,
    /// To these peers [default: every member of the store]
    pub(crate) peers: Vec<String>,
    /// Which lane to take [default: the store's]
    #[arg(long)]
    pub(crate) lane: Option<LaneArg>,
    /// Return when the receipts are there
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `schedule`
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// The calendars and what goes by them (works without the service)
    Show {
        /// Only this one
        name: Option<String>,
    },
    /// Which rule applies at a moment, until when, and what comes next (works without the service)
    Test {
        /// Only this calendar [default: all of them]
        name: Option<String>,
        /// A moment by each calendar's own clock: 'Mon 09:00', '09:00', '2026-12-24 18:00', or an
        /// instant: '2026-12-24T17:00:00Z' [default: now]
        #[arg(long, value_name = "MOMENT")]
        at: Option<String>,
    },
    /// Turn DFS-R's 96-digit day strings into a section of the configuration
    ImportDfsr {
        /// One day for every day, seven beginning with Sunday, or DAYS=HEX each
        #[arg(required = true, value_name = "HEX")]
        digits: Vec<String>,
        /// Name of the calendar
        #[arg(long, default_value = "dfsr")]
        name: String,
        /// Whose clock it goes by: the receiver's zone, or UTC where DFS-R had UseUTC
        #[arg(long, default_value = "UTC")]
        zone: String,
    },
}

/// `ready` and `wait`
#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    /// STORE/NAME or STORE/NAME@GENERATION
    pub(crate) image: String,
    /// Who must hold it: all, a number of peers, or PEER,PEER,...
    #[arg(long, value_name = "all|N|PEER,...", default_value = "all", value_parser = require)]
    pub(crate) require: Require,
}

/// `promote`
#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// STORE/NAME or STORE/NAME@GENERATION; it must be current here
    pub(crate) image: String,
    /// Who must hold it: all, a number of members, or PEER,PEER,... [default: promote.require]
    #[arg(long, value_name = "all|N|PEER,...", value_parser = require)]
    pub(crate) require: Option<Require>,
}

/// `resolve`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["keep", "acknowledge"]))]
pub(crate) struct ResolveArgs {
    /// STORE/NAME
    pub(crate) image: String,
    /// The content that is current here, the one of a peer, or both: then each of the others
    /// becomes an image of its own beside it
    #[arg(long, value_name = "local|PEER|both")]
    pub(crate) keep: Option<String>,
    /// Let go of what lost, and of edits that were undone on a mirror
    #[arg(long)]
    pub(crate) acknowledge: bool,
}

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the configuration, and where
    Check,
    /// Print the effective configuration
    Show {
        /// Also say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
}

pub(crate) fn require(text: &str) -> Result<Require, String> {
    if text == "all" {
        return Ok(Require::All);
    }
    if let Ok(count) = text.parse::<u32>() {
        return if count == 0 {
            Err("0 peers are always ready".into())
        } else {
            Ok(Require::Count(count))
        };
    }
    let peers: Vec<String> = text.split(',').map(|peer| peer.trim().to_owned()).collect();
    if peers.iter().any(String::is_empty) {
        return Err("expected all, a number, or names separated by commas".into());
    }
    Ok(Require::Peers(peers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn requirements() {
        assert_eq!(require("all"), Ok(Require::All));
        assert_eq!(require("2"), Ok(Require::Count(2)));
        assert_eq!(require("a,b"), Ok(Require::Peers(vec!["a".into(), "b".into()])));
        for text in ["", "0", "a,,b", ","] {
            assert!(require(text).is_err(), "{text:?}");
        }
    }
}
