//! Orders: what is in the ledger is what is in force, however many are given at once.

use super::*;
use crate::ledger::Ledger;
use crate::rate::overrides::Order;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn peer(n: u8) -> Scope {
    Scope::peer(NodeId::from_bytes([n; 32]))
}

fn pause(all: &mut Overrides, n: u8) {
    all.give(Order::Pause, peer(n), 0, None);
}

#[test]
fn orders_given_at_once_are_all_in_force_and_in_the_ledger() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("node.redb");
    let ledger = Arc::new(Ledger::open(&path).expect("a ledger"));
    let limit = Arc::new(Limit::new(Rates::default(), Duration::ZERO));
    let many = 64;
    runtime().block_on(async {
        let tasks: Vec<_> = (1..=many)
            .map(|n| {
                let (limit, ledger) = (limit.clone(), ledger.clone());
                tokio::spawn(async move {
                    let change = |all: &mut Overrides| {
                        pause(all, n);
                        Ok(())
                    };
                    limit.order(change, move |list| ledger.keep_overrides(list)).await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("ran").expect("ordered");
        }
    });
    let in_force = limit.in_force();
    let held = |n: u8| in_force.hold(&peer(n)) == Some(Hold::Paused);
    assert!((1..=many).all(held), "{:?}", in_force.rates().overrides);
    assert_eq!(ledger.overrides().expect("read"), in_force.rates().overrides.list());
}

#[test]
fn an_order_that_is_not_written_is_not_in_force() {
    let limit = Arc::new(Limit::new(Rates::default(), Duration::ZERO));
    let change = |all: &mut Overrides| {
        pause(all, 1);
        Ok(())
    };
    let (before, unwritten) = (limit.clone(), |_: &[Override]| Err(Error::Broken { what: "disk" }));
    runtime().block_on(async {
        limit.order(change, unwritten).await.expect_err("not written");
        assert_eq!(limit.in_force().hold(&peer(1)), None);
        let keep = move |_: &[Override]| {
            assert_eq!(before.in_force().hold(&peer(1)), None, "it is written first");
            Ok(())
        };
        limit.order(change, keep).await.expect("written");
    });
    assert_eq!(limit.in_force().hold(&peer(1)), Some(Hold::Paused));
}
