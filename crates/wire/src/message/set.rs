//! The set of an offer: which images, with which contents, are to become current together with the
//! offered one at the receiver, in the order in which they need each other.

use blockferry_delta::{ImageName, Root};

use super::fields as field;
use crate::cbor::{Reader, Writer};
use crate::error::{Result, manifest};
use crate::limits as max;

/// One image of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMember {
    /// Its name.
    pub image: ImageName,
    /// Its current content at the sender.
    pub root: Root,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Vec<SetMember>> {
    let items = reader.array(2 * max::SET_MEMBERS_MAX, "too many images in a set")?;
    if items % 2 != 0 {
        return Err(reader.bad("an image of a set without its root"));
    }
    let mut members = Vec::with_capacity(items / 2);
    for _ in 0..items / 2 {
        let image = field::read_image(reader)?;
        members.push(SetMember { image, root: field::read_root(reader)? });
    }
    Ok(members)
}

pub(super) fn write(members: &[SetMember], writer: &mut Writer<'_>) {
    writer.array(2 * members.len());
    for member in members {
        writer.text(member.image.as_str()).bytes(member.root.as_bytes());
    }
}

/// The rules: the offered image is one of them, none is there twice.
pub(super) fn check(members: &[SetMember], image: &ImageName, root: &Root) -> Result<()> {
    if members.is_empty() {
        return Ok(());
    }
    if members.len() > max::SET_MEMBERS_MAX {
        return Err(manifest("too many images in a set"));
    }
    let twice = |(at, member): (usize, &SetMember)| {
        members[..at].iter().any(|other| other.image == member.image)
    };
    if members.iter().enumerate().any(twice) {
        return Err(manifest("an image is in a set twice"));
    }
    match members.iter().any(|member| member.image == *image && member.root == *root) {
        true => Ok(()),
        false => Err(manifest("the offered image is not in its set")),
    }
}
