//! Doctor: what is wrong here, or will be, and what to do about it.
//!
//! Facts are gathered in one place and judged in another: `gather` looks at a running node, [`place`]
//! at a store's directory; [`judge`] is pure and decides what of that is a finding. What only
//! whoever runs the command can see (files, the unit, the kernel's limits), the binary looks at.
//! No image is read, nothing is changed.

mod gather;
pub mod judge;
pub mod place;

use std::sync::Arc;

use crate::admin::requests::done;
use crate::api::{Answer, DoctorReport};
use crate::core::{Core, blocking};
use crate::error::Result;

/// `doctor`, as far as the service sees.
pub(crate) async fn examine(core: &Arc<Core>) -> Result<Answer> {
    let to = core.clone();
    let facts = blocking("an examination", move || gather::facts(&to)).await?;
    done(&DoctorReport::new(true, judge::judge(&facts)))
}
