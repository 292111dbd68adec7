//! The state machine by itself: which orders are legal, and that every way ends in a phase.

use super::*;

const ORDERS: [AdoptOrder; 3] = [AdoptOrder::Start, AdoptOrder::Next, AdoptOrder::Back];
const NONE: Facts = Facts { unrecorded: 0, diverged: 0 };

fn at(from: Phase, to: Phase) -> Adoption {
    Adoption { from, to }
}

/// Everything that orders can lead to, whether steps are finished between them or not.
fn reachable() -> Vec<Adoption> {
    let mut all = vec![Adoption::resting(Phase::Off)];
    let mut next = 0;
    while let Some(now) = all.get(next).copied() {
        let ordered = ORDERS.iter().filter_map(|order| now.ordered(*order, NONE).ok());
        let arrived = Adoption::resting(now.to);
        for then in ordered.chain([arrived]).collect::<Vec<_>>() {
            if !all.contains(&then) {
                all.push(then);
            }
        }
        next += 1;
    }
    all
}

#[test]
fn orders_and_where_they_lead() {
    use AdoptOrder::{Back, Next, Start};
    use Phase::{Active, Observe, Off, Shadow};
    let rows = [
        (at(Off, Off), Start, Ok(at(Off, Observe))),
        (at(Off, Off), Next, Err(NotNow::NotBegun)),
        (at(Off, Off), Back, Err(NotNow::NotBegun)),
        (at(Off, Observe), Start, Ok(at(Off, Observe))),
        (at(Observe, Observe), Start, Err(NotNow::Begun)),
        (at(Observe, Observe), Next, Ok(at(Observe, Shadow))),
        (at(Observe, Observe), Back, Err(NotNow::First)),
        (at(Observe, Shadow), Back, Ok(at(Observe, Observe))),
        (at(Shadow, Shadow), Next, Ok(at(Shadow, Active))),
        (at(Shadow, Shadow), Back, Ok(at(Shadow, Observe))),
        (at(Shadow, Observe), Next, Ok(at(Shadow, Shadow))),
        (at(Shadow, Active), Back, Ok(at(Shadow, Shadow))),
        (at(Active, Active), Back, Ok(at(Active, Shadow))),
        (at(Active, Shadow), Back, Ok(at(Active, Shadow))),
        (at(Active, Shadow), Next, Ok(at(Active, Active))),
        (at(Active, Active), Next, Ok(at(Active, Off))),
        (at(Active, Off), Next, Ok(at(Active, Off))),
        (at(Active, Off), Back, Err(NotNow::Ending)),
    ];
    for (now, order, expected) in rows {
        assert_eq!(now.ordered(order, NONE), expected, "{now:?} {order:?}");
    }
    let facts = Facts { unrecorded: 3, diverged: 2 };
    assert_eq!(at(Observe, Observe).ordered(Next, facts), Err(NotNow::Unrecorded(3)));
    assert_eq!(at(Active, Active).ordered(Next, facts), Err(NotNow::Diverged(2)));
    assert_eq!(
        at(Active, Active).ordered(Back, facts),
        Ok(at(Active, Shadow)),
        "always a way back"
    );
    assert_eq!(at(Active, Off).ordered(Next, facts), Ok(at(Active, Off)), "it has begun");
}

#[test]
fn every_way_ends_and_is_written_down_as_it_is() {
    let all = reachable();
    assert!(all.len() > 8, "{all:?}");
    for now in &all {
        assert_eq!(now.rests(), now.steps().is_empty(), "{now:?}");
        assert_eq!(now.steps().last(), (!now.rests()).then_some(&Step::Arrive), "{now:?}");
        assert_eq!(Adoption::decode(now.encode()), Some(*now));
    }
    assert_eq!(Adoption::decode(9), None);
    assert_eq!(Known::default().get(), Adoption::resting(Phase::Off));
    let strange = Known::default();
    strange.0.store(77, Ordering::SeqCst);
    assert!(strange.get().is_shut(), "what nobody knows is handled with care");
}

#[test]
fn nothing_is_received_where_the_old_tool_rules() {
    for now in reachable() {
        if now.is_shut() {
            assert!(now.rule() != Rule::InPlace, "{now:?}");
            assert!(!now.steps().contains(&Step::Restore), "{now:?} couldn't");
        }
        // Whatever is replaced can be put back as long as there is a way back.
        let back = now.ordered(AdoptOrder::Back, NONE);
        if now.rule() == Rule::InPlace && now.from == Phase::Active && back.is_ok() {
            assert!(now.keeps_old(), "{now:?}");
        }
        // Leaving `active` backwards goes through the restoring.
        if now.from == Phase::Active && now.to == Phase::Shadow {
            assert_eq!(now.rule(), Rule::Nothing, "{now:?}");
            assert!(now.steps().contains(&Step::Restore), "{now:?}");
        }
    }
}
