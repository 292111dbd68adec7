//! `verify`: re-hash local images against the catalog, and have what rotted fetched again.

use super::{App, read};
use crate::failure::Failure;
use crate::output::{count, seconds, size};
use blockferry_node::api::{Answer, Exit, Request, VerifiedImage, VerifyDone};

pub(crate) fn run(app: &App, request: Request) -> Result<Exit, Failure> {
    let done: VerifyDone = app.job(&request, |out, answer| match answer {
        Answer::Item(object) => {
            let image: VerifiedImage = read(object)?;
            out.item(&image, || line(&image))
        }
        _ => Ok(()),
    })?;
    app.out.summary(&done, || text(&done))?;
    Ok(match (done.ok, done.skipped_images) {
        (false, _) => Exit::VerifyFailed,
        (true, 0) => Exit::Done,
        (true, _) => Exit::Partly,
    })
}

fn line(image: &VerifiedImage) -> String {
    let what = format!("{}@{}", image.image, image.generation);
    if let Some(why) = &image.skipped {
        return format!("{what}: skipped, {why}");
    }
    if image.ok {
        return format!("{what}: ok, {}", size(image.bytes));
    }
    let mut text = format!("{what}: {} are wrong", size(image.bad_bytes));
    for (offset, length) in image.bad.iter().take(10) {
        text.push_str(&format!("\n  {length} bytes at {offset}"));
    }
    match &image.not_repaired {
        _ if image.repaired => text.push_str("\n  repaired; the damaged file is kept"),
        Some(why) => text.push_str(&format!("\n  not repaired: {why}")),
        None => {}
    }
    text
}

fn text(done: &VerifyDone) -> String {
    let mut text = format!(
        "{} verified, {} in {}",
        count(done.images, "image"),
        size(done.bytes),
        seconds(done.seconds)
    );
    if done.bad_images > 0 {
        text.push_str(&format!("; {} wrong", done.bad_images));
    }
    if done.repaired_images > 0 {
        text.push_str(&format!("; {} repaired", done.repaired_images));
    }
    if done.skipped_images > 0 {
        text.push_str(&format!("; {} skipped", done.skipped_images));
    }
    text
}
