//! The matrix: images by nodes, and for each image the answer to "may I promote?". Pure.
//!
//! What stands in a cell is what `ready` says of that member, with how far a transfer is (`backlog`)
//! and since when somebody is gone (`peers`). The verdict of a row is that of `ready` under what the
//! configuration requires; whether it really is promoted is decided by `promote` when it is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::{Mark, reach};
use super::words::{Clock, When, count, in_path, size};
use crate::api::{BacklogItem, ImageRow, ImageState, PeerReady, PeerRow, ReadyReport, WaitReason};

/// Everything that a matrix is made of.
pub(crate) struct Known<'a> {
    pub(crate) images: &'a [ImageRow],
    /// For all members, in the order of the images; `None`: nothing is recorded yet.
    pub(crate) ready: &'a [Option<ReadyReport>],
    /// The same under what the configuration requires.
    pub(crate) enough: &'a [bool],
    pub(crate) backlog: &'a [BacklogItem],
    pub(crate) peers: &'a [PeerRow],
    pub(crate) clock: &'a Clock,
}

/// Images by nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matrix {
    pub(crate) nodes: Vec<Node>,
    pub(crate) rows: Vec<Row>,
}

/// The head of a column.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Its own screen; `None`: we don't meet it ourselves.
    pub(crate) href: Option<String>,
    pub(crate) offline: bool,
}

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// For the page alone: the same at every look.
    pub(crate) id: String,
    pub(crate) store: String,
    pub(crate) name: String,
    pub(crate) href: String,
    pub(crate) generation: Option<u64>,
    pub(crate) size: String,
    /// Members that hold it, verified, and all that are asked about.
    pub(crate) held: usize,
    pub(crate) members: usize,
    pub(crate) verdict: Verdict,
    pub(crate) cells: Vec<Cell>,
}

/// May it be promoted?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) answer: Answer,
    /// In a word or two.
    pub(crate) text: String,
    /// Why, and until when.
    pub(crate) detail: String,
    pub(crate) when: Option<When>,
}

/// The answer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is, already.
    Promoted,
    /// Yes.
    Yes,
    /// Of several some may be, and somebody must act for others.
    Part,
    /// It will be, by itself.
    NotYet,
    /// Somebody must act first.
    No,
}

impl Answer {
    /// Class of the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Yes => "yes",
            Self::Part => "part",
            Self::NotYet => "notyet",
            Self::No => "no",
        }
    }

    pub(crate) fn mark(self) -> Mark {
        match self {
            Self::Promoted | Self::Yes => Mark::Good,
            Self::Part => Mark::Drift,
            Self::NotYet => Mark::Moving,
            Self::No => Mark::Bad,
        }
    }

    pub(crate) fn is_yes(self) -> bool {
        self == Self::Yes
    }

    pub(crate) fn is_promoted(self) -> bool {
        self == Self::Promoted
    }
}

/// One image at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) node: String,
    pub(crate) mark: Mark,
    /// In a word, or a time.
    pub(crate) text: String,
    /// All of it, for who asks for more.
    pub(crate) detail: String,
    /// How far it is.
    pub(crate) percent: Option<u8>,
}

impl Known<'_> {
    /// The matrix.
    pub(crate) fn matrix(&self) -> Matrix {
        let mut names: BTreeSet<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        for ready in self.ready.iter().flatten() {
            names.extend(ready.peers.iter().map(|peer| peer.peer.as_str()));
        }
        let asked = self.ready.iter().zip(self.enough);
        let rows = self.images.iter().zip(asked).map(|(image, (ready, enough))| {
            let cells: Vec<Cell> =
                names.iter().map(|node| self.cell(image, ready.as_ref(), node)).collect();
            self.row(image, ready.as_ref(), *enough, cells)
        });
        let rows = rows.collect();
        let nodes = names.iter().map(|name| self.node(name)).collect();
        Matrix { nodes, rows }
    }

    fn peer(&self, name: &str) -> Option<&PeerRow> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    fn node(&self, name: &str) -> Node {
        let peer = self.peer(name);
        Node {
            name: name.to_owned(),
            href: peer.map(|_| format!("/peers/{}", in_path(name))),
            offline: peer.is_some_and(|peer| !peer.connected),
        }
    }

    fn row(
        &self,
        image: &ImageRow,
        ready: Option<&ReadyReport>,
        enough: bool,
        cells: Vec<Cell>,
    ) -> Row {
        let full = format!("{}/{}", image.store, image.name);
        let held = ready.map_or(0, |ready| ready.peers.iter().filter(|p| p.ready).count());
        Row {
            id: format!("i{}", &blake3::hash(full.as_bytes()).to_hex()[..12]),
            href: format!("/images/{}/{}", in_path(&image.store), in_path(&image.name)),
            store: image.store.clone(),
            name: image.name.clone(),
            generation: image.generation,
            size: size(image.size_bytes),
            held,
            members: ready.map_or(0, |ready| ready.peers.len()),
            verdict: self.verdict(image, ready, enough, &cells),
            cells,
        }
    }

    fn cell(&self, image: &ImageRow, ready: Option<&ReadyReport>, node: &str) -> Cell {
        let known = ready.and_then(|ready| ready.peers.iter().find(|peer| peer.peer == node));
        let Some(known) = known else {
            let (mark, text, detail) =
                (Mark::Absent, "\u{2013}".to_owned(), "not a member".to_owned());
            let node = node.to_owned();
            return Cell { node, mark, text, detail, percent: None };
        };
        let item = self.backlog.iter().find(|item| {
            item.peer == node && item.store == image.store && item.image == image.name
        });
        let (mark, text, percent) = self.state(known, item);
        let mut detail = match known.generation {
            Some(number) => format!("{node} holds @{number}"),
            None => format!("{node} has said nothing of it"),
        };
        if let Some(reason) = known.reason {
            detail = format!("{detail}; {}", sentence(reason));
        }
        if let Some(eta) = known.eta.as_deref().or(item.and_then(|item| item.eta.as_deref())) {
            detail = format!("{detail}; there by {}", self.clock.when(eta).full);
        }
        Cell { node: node.to_owned(), mark, text, detail, percent }
    }

    fn state(&self, known: &PeerReady, item: Option<&BacklogItem>) -> (Mark, String, Option<u8>) {
        if known.ready {
            return (Mark::Good, "OK".to_owned(), None);
        }
        let eta = known.eta.as_deref().map(|eta| self.clock.when(eta).text);
        let by = |eta: &String| format!("by {eta}");
        let or_eta = |word: &str| eta.as_ref().map_or(word.to_owned(), by);
        match known.reason.unwrap_or_default() {
            WaitReason::Transferring => match item.and_then(percent) {
                Some(percent) => (Mark::Moving, format!("{percent} %"), Some(percent)),
                None => (Mark::Waiting, or_eta("next"), None),
            },
            WaitReason::Verifying => (Mark::Moving, "verifying".to_owned(), None),
            WaitReason::Schedule => (Mark::Waiting, or_eta("calendar"), None),
            WaitReason::Paused => (Mark::Paused, "paused".to_owned(), None),
            WaitReason::PeerDown => {
                let since = self.peer(&known.peer).map(|peer| reach(peer, self.clock));
                let since = since.and_then(|(_, _, since)| since);
                let since = since.map(|since| format!("since {}", since.text));
                (Mark::Offline, since.unwrap_or_else(|| "offline".to_owned()), None)
            }
            WaitReason::Changed => (Mark::Drift, "drift".to_owned(), None),
            WaitReason::Diverged => (Mark::Diverged, "diverged".to_owned(), None),
            WaitReason::Damaged => (Mark::Bad, "damaged".to_owned(), None),
            WaitReason::Space => (Mark::Bad, "no room".to_owned(), None),
            WaitReason::InUse => (Mark::Waiting, "in use".to_owned(), None),
            WaitReason::SetIncomplete => (Mark::Waiting, "set".to_owned(), None),
            WaitReason::Observing => (Mark::Waiting, "observing".to_owned(), None),
            WaitReason::StatementsFull => (Mark::Unknown, "not known".to_owned(), None),
            WaitReason::Other => (Mark::Unknown, "behind".to_owned(), None),
        }
    }

    fn verdict(
        &self,
        image: &ImageRow,
        ready: Option<&ReadyReport>,
        enough: bool,
        cells: &[Cell],
    ) -> Verdict {
        let no = |text: &str, detail: String| Verdict {
            answer: Answer::No,
            text: text.to_owned(),
            detail,
            when: None,
        };
        let stands = |mark: Mark| -> Vec<&str> {
            cells.iter().filter(|cell| cell.mark == mark).map(|cell| cell.node.as_str()).collect()
        };
        match image.state {
            ImageState::Diverged => return no("Diverged", diverged_at(&stands(Mark::Diverged))),
            ImageState::Missing => return no("Missing here", "the file is gone".to_owned()),
            ImageState::Damaged => return no("Damaged here", "verify and repair it".to_owned()),
            ImageState::SetIncomplete => {
                return no("Set incomplete", "what it builds upon is missing".to_owned());
            }
            ImageState::ParentMismatch => {
                return no("Wrong parent", "what it builds upon has changed".to_owned());
            }
            _ => {}
        }
        let Some(ready) = ready else { return not_recorded(image.state) };
        if !enough || matches!(image.state, ImageState::Changed | ImageState::Recording) {
            return self.not_yet(image, ready, cells);
        }
        let promoted = image.promoted.as_ref().filter(|p| Some(&p.root) == image.root.as_ref());
        match promoted {
            Some(promoted) => Verdict {
                answer: Answer::Promoted,
                text: "Promoted".to_owned(),
                detail: format!("by {} on {}", promoted.by, promoted.node),
                when: Some(self.clock.when(&promoted.at)),
            },
            None => Verdict {
                answer: Answer::Yes,
                text: "Ready".to_owned(),
                detail: held_by(ready),
                when: None,
            },
        }
    }

    /// Who lacks it, and when the last of them will have it.
    fn not_yet(&self, image: &ImageRow, ready: &ReadyReport, cells: &[Cell]) -> Verdict {
        let lacking: Vec<&Cell> =
            cells.iter().filter(|cell| !matches!(cell.mark, Mark::Good | Mark::Absent)).collect();
        if ready.peers.is_empty() {
            let detail = "no other member holds the store".to_owned();
            let (answer, text) = (Answer::No, "Only here".to_owned());
            return Verdict { answer, text, detail, when: None };
        }
        let stuck = |cell: &&&Cell| matches!(cell.mark, Mark::Bad | Mark::Diverged | Mark::Drift);
        let worst = lacking.iter().find(stuck).or(lacking.iter().max_by_key(|cell| cell.mark));
        let changed = matches!(image.state, ImageState::Changed | ImageState::Recording);
        let detail = match (worst, lacking.len()) {
            _ if changed => "changed here: a new generation comes".to_owned(),
            (Some(cell), 1) => brief(cell),
            (Some(cell), more) => format!("{}, {} more", brief(cell), more - 1),
            (None, _) => held_by(ready),
        };
        let waiting: Vec<&PeerReady> = ready.peers.iter().filter(|peer| !peer.ready).collect();
        // The last one's time, if all have one.
        let last = waiting.iter().map(|peer| peer.eta.as_deref()).collect::<Option<Vec<_>>>();
        let last = last.and_then(|etas| etas.into_iter().max());
        let answer =
            if lacking.iter().any(|cell| stuck(&cell)) { Answer::No } else { Answer::NotYet };
        let text = if answer == Answer::No { "No" } else { "Not yet" };
        Verdict { answer, text: text.to_owned(), detail, when: self.clock.when_some(last) }
    }
}

fn not_recorded(state: ImageState) -> Verdict {
    let detail = match state {
        ImageState::Recording => "its first generation is being recorded",
        ImageState::Receiving => "it is being received",
        _ => "it waits to be recorded",
    };
    let (answer, text) = (Answer::NotYet, "Not yet".to_owned());
    Verdict { answer, text, detail: detail.to_owned(), when: None }
}

/// A cell in a few words.
fn brief(cell: &Cell) -> String {
    let (node, text) = (&cell.node, &cell.text);
    match cell.mark {
        Mark::Offline if text != "offline" => format!("{node} offline {text}"),
        Mark::Offline => format!("{node} offline"),
        Mark::Waiting => format!("{node} waits"),
        _ => format!("{node}: {text}"),
    }
}

fn diverged_at(nodes: &[&str]) -> String {
    match nodes {
        [] => "two contents: decide which goes on".to_owned(),
        nodes => format!("another content at {}", nodes.join(", ")),
    }
}

fn held_by(ready: &ReadyReport) -> String {
    let held = ready.peers.iter().filter(|peer| peer.ready).count();
    let all = ready.peers.len();
    if held == all {
        format!("verified on {}", count(all, "node"))
    } else {
        format!("on {held} of {all}")
    }
}

/// How far a transfer is; `None`: it isn't on its way, or that isn't known yet.
fn percent(item: &BacklogItem) -> Option<u8> {
    let done = item.done_bytes?;
    let all = u128::from(done) + u128::from(item.bytes);
    if all == 0 {
        return None;
    }
    // 100 is for what is verified there.
    u8::try_from((u128::from(done) * 100 / all).min(99)).ok()
}

/// Why something waits, in words.
pub(crate) fn sentence(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Schedule => "the calendar says wait",
        WaitReason::Paused => "it is paused by an operator",
        WaitReason::InUse => "somebody has the image open",
        WaitReason::PeerDown => "the node is not connected",
        WaitReason::Space => "the node has no room",
        WaitReason::Diverged => "its content has another history",
        WaitReason::Transferring => "it is on its way, or next",
        WaitReason::SetIncomplete => "images that belong to it are missing",
        WaitReason::Verifying => "it is there and is being read back",
        WaitReason::Changed => "the file has changed there since",
        WaitReason::Damaged => "what was read back is not what was written",
        WaitReason::Observing => "another tool still rules there: it only looks",
        WaitReason::StatementsFull => "there is no room here for its receipt",
        WaitReason::Other => "it was refused or failed, and is tried again",
    }
}

/// Counts of the answers, for the sentence on top.
pub(crate) fn tally(answers: &BTreeMap<&'static str, usize>) -> (Answer, String, String) {
    let of = |class: &str| answers.get(class).copied().unwrap_or(0);
    let (yes, promoted) = (of("yes"), of("promoted"));
    let (later, no) = (of("notyet"), of("no"));
    let all = yes + promoted + later + no;
    let rest = match (later, no) {
        (0, 0) => String::new(),
        (later, 0) => format!("{} on the way.", on_the_way(later)),
        (0, no) => format!("{} somebody to act.", needs(no)),
        (later, no) => format!("{} on the way, {} somebody to act.", on_the_way(later), needs(no)),
    };
    let verified = "on every required node, verified";
    match (all, yes + promoted) {
        (0, _) => {
            (Answer::NotYet, "No images yet.".to_owned(), "Add a store, or join one.".to_owned())
        }
        (1, 1) if promoted == 1 => {
            (Answer::Promoted, "Promoted.".to_owned(), format!("The image is {verified}."))
        }
        (all, good) if good == all && promoted == all => (
            Answer::Promoted,
            "All promoted.".to_owned(),
            format!("All {all} images are {verified}."),
        ),
        (all, good) if good == all => {
            let what =
                if all == 1 { "The image is".to_owned() } else { format!("All {all} images are") };
            (Answer::Yes, "Yes, promote.".to_owned(), format!("{what} {verified}."))
        }
        (_, 0) if no > 0 => (Answer::No, "No.".to_owned(), rest),
        (_, 0) => (Answer::NotYet, "Not yet.".to_owned(), rest),
        (all, good) => {
            let answer = if no > 0 { Answer::Part } else { Answer::NotYet };
            (answer, format!("{good} of {all} may be promoted."), rest)
        }
    }
}

fn on_the_way(number: usize) -> String {
    if number == 1 { "1 image is".to_owned() } else { format!("{number} images are") }
}

fn needs(number: usize) -> String {
    if number == 1 { "1 image needs".to_owned() } else { format!("{number} images need") }
}

#[cfg(test)]
mod tests;
