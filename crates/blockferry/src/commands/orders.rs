//! `pause`, `resume`, `boost`, `limit set | clear`: orders that end by themselves or by another.

use super::App;
use crate::args::{AffectedArgs, LimitCommand};
use crate::config::bits_text;
use crate::failure::{AdminError, Failure};
use crate::output::{or_dash, table, word};
use blockferry_node::api::{Affected, Exit, OrderRow, OrdersReport, RateRow, Request};

pub(crate) fn give(
    app: &App,
    args: AffectedArgs,
    request: fn(Affected) -> Request,
) -> Result<Exit, Failure> {
    let AffectedArgs { peer, store, image, length } = args;
    let image = match (image, &store) {
        (Some(image), Some(store)) if !image.contains('/') => Some(format!("{store}/{image}")),
        (image, _) => image,
    };
    let for_seconds = length.map(|length| length.seconds());
    tell(app, &request(Affected { peer, store, image, for_seconds }))
}

pub(crate) fn limit(app: &App, command: LimitCommand) -> Result<Exit, Failure> {
    match command {
        LimitCommand::Set { peer, rate, length } => {
            let Some(bits_per_second) = rate.bits_per_second() else {
                let error = AdminError::new("USAGE", "\"unlimited\" is no limit to set");
                return Err(error.with_remedy("use: blockferry limit clear, or boost").into());
            };
            let for_seconds = length.map(|length| length.seconds());
            tell(app, &Request::LimitSet { peer, bits_per_second, for_seconds })
        }
        LimitCommand::Clear { peer } => tell(app, &Request::LimitClear { peer }),
    }
}

fn tell(app: &App, request: &Request) -> Result<Exit, Failure> {
    let report: OrdersReport = app.ask(request)?;
    app.out
        .either(&report, || format!("{}\n\n{}", orders(&report.orders), rates(&report.rates)))?;
    Ok(Exit::Done)
}

/// One row per order.
pub(crate) fn orders(orders: &[OrderRow]) -> String {
    let row = |order: &OrderRow| {
        let what = match (&order.store, &order.image) {
            (Some(store), Some(image)) => format!("{store}/{image}"),
            (Some(store), None) => store.clone(),
            _ => "everything".to_owned(),
        };
        vec![
            word(&order.order),
            what,
            order.peer.clone().unwrap_or_else(|| "all".to_owned()),
            or_dash(order.bits_per_second.map(bits_text)),
            order.until.clone().unwrap_or_else(|| "further notice".to_owned()),
        ]
    };
    let rows = orders.iter().map(row).collect();
    table(&["ORDER", "OF", "PEER", "RATE", "UNTIL"], rows, "no orders are in force")
}

/// One row per peer.
pub(crate) fn rates(rates: &[RateRow]) -> String {
    let row = |rate: &RateRow| {
        vec![
            rate.peer.clone(),
            rate.rate_limit_bits_per_second.map_or_else(|| "unlimited".to_owned(), bits_text),
            rate.limited_by.clone(),
            or_dash(rate.until.as_ref()),
        ]
    };
    let rows = rates.iter().map(row).collect();
    table(&["PEER", "LIMIT", "BECAUSE", "UNTIL"], rows, "no peers: blockferry invite, then join")
}
