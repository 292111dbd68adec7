//! Parts of a recipe that wait for what other parts bring: what the receiver says of them, and when.

use blockferry_wire::{Kind, Want};

use crate::dialogue::{code, pack, receiving, said, sending, want};

#[test]
fn a_part_may_wait_for_what_another_one_brings() {
    let mut receiver = receiving(3);
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    receiver.handle_waiting(1).expect("part 0 is due");
    receiver.handle_planned(2, want(2, false, 0, 2).extents).expect("its pages");
    assert_eq!(said(&mut receiver), [Kind::Want, Kind::Want, Kind::Want]);
    receiver.handle_message(pack(0, 0, 4).into()).expect("wanted");
    receiver.handle_filled(0, vec![], true).expect("the pack");
    receiver.handle_brought(1, want(1, true, 0, 4).extents, false).expect("it was wrong");
    receiver.handle_brought(2, vec![], false).expect("its own pack is due");
    assert_eq!(said(&mut receiver), [Kind::Filled, Kind::Want]);
    receiver.handle_message(pack(2, 0, 2).into()).expect("wanted");
    receiver.handle_filled(2, vec![], false).expect("it waits for part 1");
    receiver.handle_message(pack(1, 0, 4).into()).expect("wanted again");
    receiver.handle_filled(1, vec![], true).expect("the pack");
    receiver.handle_brought(2, vec![], true).expect("all of it");
    assert_eq!(said(&mut receiver), [Kind::Filled, Kind::Filled]);

    let mut receiver = receiving(2);
    assert_eq!(code(receiver.handle_waiting(0)), "API_MISUSE", "for what?");
    assert_eq!(code(receiver.handle_brought(0, vec![], true)), "API_MISUSE", "not planned");
    receiver.handle_planned(0, want(0, false, 0, 4).extents).expect("its pages");
    receiver.handle_waiting(1).expect("part 0 is due");
    assert_eq!(code(receiver.handle_waiting(1)), "API_MISUSE", "twice");
    let again = want(1, true, 0, 4).extents;
    assert_eq!(code(receiver.handle_brought(1, again, true)), "API_MISUSE", "both");

    // To the sender it is a want like others.
    let mut sender = sending(2);
    sender.handle_message(Want { part: 1, again: false, extents: vec![] }.into()).expect("nothing");
    sender.handle_message(want(1, true, 0, 4).into()).expect("after all");
    sender.handle_message(want(0, false, 0, 4).into()).expect("its pages");
}
