//! What the doctor finds, for the page and for whoever looks after many nodes. Without the machine
//! around the service: that only the command on the node can see.

use axum::extract::State;

use super::body::Asked;
use super::reads::Nothing;
use super::site::{Reply, Shared};
use crate::api::{DoctorReport, Request};

/// What is wrong with the node, as far as the service sees, and what to do about it
#[utoipa::path(
    get, path = "/api/v1/doctor", tag = "node", responses((status = 200, body = DoctorReport)),
)]
pub(crate) async fn doctor(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    site.look(Request::Doctor {}).await
}
