//! `status --watch`: the same screen, kept up to date by events and a tick.
//!
//! On a terminal the screen is drawn in place: an alternate screen, each frame one write without
//! clearing first, so that nothing flickers; lines are cut to the window, which may change its size.
//! Whatever ends it, the terminal is as before. Elsewhere a block is printed when something changed,
//! with `--json` a line. A service that goes away is waited for.

use super::App;
use super::status;
use crate::failure::{AdminError, Failure};
use crate::interrupt;
use blockferry_node::api::{Answer, Client, Exit, Request, StatusReport};
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The service is asked at least this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// And at most this often, however many events there are.
const ASK_SELDOM: Duration = Duration::from_millis(250);
/// The window's size is looked at this often.
const SIZE_EVERY: Duration = Duration::from_millis(200);
/// An answer takes at most this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The window where nobody can say how large it is.
const WINDOW: Window = Window { columns: 80, rows: 24 };

/// To the other screen, which has no past; without the cursor; no wrapping.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const LEAVE: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";

/// What wakes the watch.
enum Wake {
    /// Something happened in the service.
    Event,
    /// The user has enough, or whoever ends processes.
    Stop,
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    columns: usize,
    rows: usize,
}

pub(crate) fn run(app: &App) -> Result<Exit, Failure> {
    let (sender, wakes) = channel();
    let socket = app.location.socket()?;
    // The first answer decides whether there is anything to watch.
    let mut report: StatusReport = app.ask(&Request::Status {})?;
    let screen = (std::io::stdout().is_terminal() && !app.out.json).then(Screen::enter).flatten();
    let (stop, left) = (sender.clone(), screen.as_ref().map(|screen| screen.left.clone()));
    interrupt::flag(move || {
        // At once: a service that hangs must not keep the terminal, and a second Ctrl-C ends us.
        if let Some(left) = &left {
            leave(left);
        }
        let _ = stop.send(Wake::Stop);
    });
    std::thread::spawn(move || follow(&socket, &sender));
    let mut watch = Watch { app, screen, wakes, shown: None, trouble: None };
    let deadline = app.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        watch.show(&report)?;
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Exit::Done);
            }
            if watch.wait(&report)? {
                return Ok(Exit::Interrupted);
            }
            match ask(app) {
                Ok(fresh) => {
                    report = fresh;
                    watch.trouble = None;
                    break;
                }
                Err(error) => watch.complain(&report, &error)?,
            }
        }
    }
}

fn ask(app: &App) -> Result<StatusReport, AdminError> {
    let patient = app.with_timeout(Some(ANSWER_WITHIN));
    patient.ask(&Request::Status {}).map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::NobodyReads => AdminError::new("IO", "nobody reads"),
    })
}

/// Sends a wake for each event, and again when the service is back. Ends when nobody waits.
fn follow(socket: &Path, sender: &Sender<Wake>) {
    loop {
        let request = Request::Events { follow: true, since_seconds: Some(0) };
        if let Ok(mut client) = Client::connect(socket)
            && let Ok(answers) = client.call(&request)
        {
            for answer in answers {
                match answer {
                    Ok(Answer::Event(_)) if sender.send(Wake::Event).is_err() => return,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        std::thread::sleep(ASK_EVERY);
        if sender.send(Wake::Event).is_err() {
            return;
        }
    }
}

struct Watch<'a> {
    app: &'a App,
    screen: Option<Screen>,
    wakes: Receiver<Wake>,
    /// What was shown last, as text without what always changes.
    shown: Option<String>,
    trouble: Option<String>,
}

impl Watch<'_> {
    fn show(&mut self, report: &StatusReport) -> Result<(), Failure> {
        if let Some(screen) = &mut self.screen {
            return screen.draw(&status::text(report), self.trouble.as_deref());
        }
        let still = still(report);
        if self.shown.as_ref() == Some(&still) {
            return Ok(());
        }
        let first = self.shown.replace(still).is_none();
        self.app.out.either(report, || {
            if first { status::text(report) } else { format!("\n{}", status::text(report)) }
        })
    }

    /// The service didn't answer: said once, and on the screen for as long as it is so.
    fn complain(&mut self, report: &StatusReport, error: &AdminError) -> Result<(), Failure> {
        let text = format!("no answer, as it was before: {error}");
        let news = self.trouble.as_ref() != Some(&text);
        self.trouble = Some(text.clone());
        match &mut self.screen {
            Some(screen) => screen.draw(&status::text(report), Some(&text)),
            None => {
                if news {
                    self.app.out.prose(&text);
                }
                Ok(())
            }
        }
    }

    /// Waits for the next moment to ask; true: it is over.
    fn wait(&mut self, report: &StatusReport) -> Result<bool, Failure> {
        let since = Instant::now();
        let mut due = ASK_EVERY;
        loop {
            let left = due.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            match self.wakes.recv_timeout(left.min(SIZE_EVERY)) {
                Ok(Wake::Stop) => return Ok(true),
                Ok(Wake::Event) => due = due.min(ASK_SELDOM),
                // The follower never ends before us; without it the tick is enough.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(left.min(SIZE_EVERY)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(screen) = &mut self.screen
                && screen.resized()
            {
                screen.draw(&status::text(report), self.trouble.as_deref())?;
            }
        }
    }
}

/// The report without what changes all the time: whether something is worth saying.
fn still(report: &StatusReport) -> String {
    let mut still = report.clone();
    still.node.uptime_seconds = 0;
    for peer in &mut still.peers {
        (peer.rtt_ms, peer.finish) = (peer.rtt_ms.map(|_| 0.0), None);
    }
    for store in &mut still.stores {
        store.finish = None;
    }
    serde_json::to_string(&still).unwrap_or_default()
}

/// A terminal that shows frames, until dropped.
struct Screen {
    window: Window,
    /// The terminal is as before: nothing more is drawn.
    left: Left,
}

type Left = Arc<Mutex<bool>>;

/// Puts the terminal back, once.
fn leave(left: &Left) {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut *left, true) {
        // A terminal that is gone needs no cursor.
        let _gone = write(LEAVE);
    }
}

impl Screen {
    /// `None`: stdout takes nothing.
    fn enter() -> Option<Screen> {
        write(ENTER).ok()?;
        Some(Screen { window: window(), left: Left::default() })
    }

    fn resized(&mut self) -> bool {
        let before = std::mem::replace(&mut self.window, window());
        before != self.window
    }

    fn draw(&mut self, text: &str, trouble: Option<&str>) -> Result<(), Failure> {
        self.window = window();
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if *left {
            return Ok(());
        }
        write(&frame(text, trouble, self.window)).map_err(|error| crate::failure::on_stdout(&error))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(&self.left);
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn window() -> Window {
    match rustix::termios::tcgetwinsize(std::io::stdout().as_fd()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Window { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => WINDOW,
    }
}

/// One frame: each line over the one before it and cleared behind, then everything below. Names come
/// from elsewhere: what could steer the terminal is taken out.
fn frame(text: &str, trouble: Option<&str>, window: Window) -> String {
    let mut lines: Vec<String> = text.lines().map(|line| cut(line, window.columns)).collect();
    let last = trouble.unwrap_or("Ctrl-C ends this");
    // One row for what is below.
    let room = window.rows.saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(cut(
            &format!("... {hidden} more lines: a taller window shows them"),
            window.columns,
        ));
    }
    lines.push(cut(last, window.columns));
    lines.truncate(window.rows.max(1));
    // Shown as a whole where the terminal knows how.
    format!("\u{1b}[?2026h\u{1b}[H{}\u{1b}[K\u{1b}[J\u{1b}[?2026l", lines.join("\u{1b}[K\r\n"))
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, trouble: Option<&str>, columns: usize, rows: usize) -> Vec<String> {
        let frame = frame(text, trouble, Window { columns, rows });
        let inner = frame.strip_prefix("\u{1b}[?2026h\u{1b}[H").unwrap();
        let inner = inner.strip_suffix("\u{1b}[K\u{1b}[J\u{1b}[?2026l").unwrap();
        inner.split("\u{1b}[K\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_frame_fits_its_window() {
        let text = "0123456789\nsecond\n\nfourth";
        let frame = shown(text, None, 8, 24);
        assert_eq!(frame, ["01234567", "second", "", "fourth", "Ctrl-C e"]);
        for rows in 1..8 {
            for columns in [1, 5, 200] {
                let frame = shown(text, Some("no answer"), columns, rows);
                assert!(frame.len() <= rows, "{rows}: {frame:?}");
                assert!(frame.iter().all(|line| line.chars().count() <= columns));
            }
        }
        let small = shown(text, None, 80, 4);
        assert_eq!(small[2], "... 2 more lines: a taller window shows them");
    }

    #[test]
    fn a_name_can_not_steer_the_terminal() {
        let frame = frame("a\u{1b}[2Jb\u{7}", None, WINDOW);
        assert_eq!(frame.matches('\u{1b}').count(), 6, "{frame:?}");
        assert!(!frame.contains('\u{7}'));
    }

    #[test]
    fn what_always_changes_is_no_change() {
        let mut report: StatusReport = serde_json::from_value(serde_json::json!({
            "schema": "v1",
            "node": { "id": "A", "name": "hub", "version": "0.1.0", "uptime_seconds": 1 },
            "peers": [{ "id": "B", "name": "b", "connected": true, "rtt_ms": 40.25,
                "rate_limit_bits_per_second": null, "backlog_bytes": 3, "backlog_images": 2,
                "state": "up" }],
            "stores": [],
        }))
        .unwrap();
        let before = still(&report);
        report.node.uptime_seconds = 2;
        report.peers[0].rtt_ms = Some(41.0);
        assert_eq!(still(&report), before);
        report.peers[0].backlog_bytes = 4;
        assert_ne!(still(&report), before);
    }
}
