//! Ctrl-C: a command lets go of a job, it doesn't cancel it.
//!
//! The signal is awaited by a thread of its own, so that the blocking client needs no runtime.

use crate::output::Output;
use blockferry_node::api::Exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// From now on an interrupt ends the process with status 130 and says that the job goes on.
pub(crate) fn detach(out: &Output, what: &'static str) {
    let out = out.clone();
    listen(move || {
        out.prose(what);
        std::process::exit(i32::from(Exit::Interrupted.status()));
    });
}

/// From now on an interrupt sets the flag and calls `stop`; a second one ends the process at once.
pub(crate) fn flag(mut stop: impl FnMut() + Send + 'static) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    listen(move || {
        if seen.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(Exit::Interrupted.status()));
        }
        stop();
    });
    flag
}

/// Calls `on_signal` at every SIGINT or SIGTERM. Without the signal handler, which only a system
/// out of resources refuses, the signal ends the process as it does by default.
fn listen(mut on_signal: impl FnMut() + Send + 'static) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let _ = ready.send(());
            let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => on_signal(),
                    _ = terminate.recv() => on_signal(),
                }
            }
        });
    });
    let _ = started.recv();
}
