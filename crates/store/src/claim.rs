//! Claims: one operation at a time works on an image. Work that somebody asked for is refused at
//! once when another is at it; upkeep, which nobody waits for, steps back from work, and work
//! waits for upkeep that has begun: what it does would have to be done anyway.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use blockferry_delta::ImageName;

use crate::error::{Error, Result};

/// What an image is claimed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Work,
    Upkeep,
}

/// The images of a store that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: Mutex<BTreeMap<ImageName, Purpose>>,
    given_up: Condvar,
}

/// The right to work on an image, given up when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    name: ImageName,
    claims: Arc<Claims>,
}

impl Claims {
    /// Takes an image for work; waits for upkeep to end.
    ///
    /// # Errors
    /// [`Error::Busy`] when other work is at it.
    pub(crate) fn work(self: &Arc<Self>, name: &ImageName) -> Result<Claim> {
        let mut held = self.lock();
        loop {
            match held.get(name) {
                Some(Purpose::Work) => return Err(Error::Busy(name.clone())),
                Some(Purpose::Upkeep) => {
                    held = self.given_up.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
                None => return Ok(self.hold(&mut held, name, Purpose::Work)),
            }
        }
    }

    /// Takes an image for upkeep, unless anybody has it.
    pub(crate) fn upkeep(self: &Arc<Self>, name: &ImageName) -> Option<Claim> {
        let mut held = self.lock();
        (!held.contains_key(name)).then(|| self.hold(&mut held, name, Purpose::Upkeep))
    }

    fn hold(
        self: &Arc<Self>,
        held: &mut BTreeMap<ImageName, Purpose>,
        name: &ImageName,
        purpose: Purpose,
    ) -> Claim {
        held.insert(name.clone(), purpose);
        Claim { name: name.clone(), claims: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImageName, Purpose>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.name);
        self.claims.given_up.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> ImageName {
        ImageName::new(text).expect("a name")
    }

    #[test]
    fn work_refuses_work_and_upkeep_steps_back() {
        let claims = Arc::new(Claims::default());
        let work = claims.work(&name("a")).expect("free");
        assert!(matches!(claims.work(&name("a")), Err(Error::Busy(_))));
        assert!(claims.upkeep(&name("a")).is_none());
        assert!(claims.upkeep(&name("b")).is_some(), "another image is free");
        drop(work);
        let upkeep = claims.upkeep(&name("a")).expect("free again");
        assert!(claims.upkeep(&name("a")).is_none(), "once is enough");
        drop(upkeep);
        assert!(claims.work(&name("a")).is_ok());
    }

    #[test]
    fn work_waits_for_upkeep() {
        let claims = Arc::new(Claims::default());
        let upkeep = claims.upkeep(&name("a")).expect("free");
        let (got, gets) = mpsc::channel();
        let worker = {
            let claims = Arc::clone(&claims);
            std::thread::spawn(move || got.send(claims.work(&name("a")).is_ok()))
        };
        assert!(gets.recv_timeout(Duration::from_millis(50)).is_err(), "it must wait");
        drop(upkeep);
        assert!(gets.recv().expect("told"), "and then have it");
        worker.join().expect("ended").expect("listened to");
    }
}
