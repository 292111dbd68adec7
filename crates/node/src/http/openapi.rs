//! OpenAPI: the description of all routes, made from the handlers themselves.
//!
//! What a handler takes and answers stands at the handler; the scope comes from the list of routes. A
//! test says that both lists are the same: what is served is described, and nothing else.

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::problem::ProblemBody;
use super::routes;
use super::site::Shared;
use super::{adoption, doctor, events, health, metrics, reads, schedules, writes};
use crate::api::Event;

/// All handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Blockferry",
        description = "The admin API of a Blockferry node. Errors are application/problem+json \
                       (RFC 9457) with a stable code and a remedy.",
        license(name = "Apache-2.0 OR MIT"),
    ),
    paths(
        health::livez,
        health::readyz,
        metrics::metrics,
        serve,
        reads::status,
        reads::stores,
        reads::store,
        reads::peers,
        reads::peer,
        reads::images,
        reads::image,
        reads::history,
        reads::plan,
        reads::ready,
        reads::conflicts,
        reads::backlog,
        reads::trends,
        reads::orders,
        doctor::doctor,
        adoption::adoptions,
        adoption::adoption,
        adoption::adoption_next,
        adoption::adoption_back,
        schedules::all,
        schedules::one,
        schedules::set,
        writes::publish,
        writes::push,
        writes::promote,
        writes::rollback,
        writes::resolve,
        writes::pause,
        writes::resume,
        writes::boost,
        writes::limit_set,
        writes::limit_clear,
        writes::verify,
        writes::store_add,
        writes::store_remove,
        writes::invite,
        writes::join,
        writes::peer_remove,
        writes::peer_set,
        events::events,
    ),
    components(schemas(ProblemBody, Event))
)]
struct Document;

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, body = Object)))]
pub(crate) async fn serve(State(site): State<Shared>) -> Response {
    let mut response = Response::new(site.openapi.clone().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What every route may answer instead of what it is for; the first two only where there is something
/// to say.
const PROBLEMS: [(&str, &str); 3] = [
    ("400", "It is not what is described here"),
    ("422", "It is what is described here, and makes no sense: an end before its beginning"),
    ("default", "An error: its code says which, its remedy what to do"),
];

/// The description, with what holds for all routes.
pub(crate) fn document() -> Value {
    // A document that is no JSON would be a fault of the generator; then nothing is described.
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["components"]["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "description": "blockferry token new" },
    });
    for row in routes::table() {
        let operation = &mut document["paths"][row.path][row.method.as_str().to_ascii_lowercase()];
        if operation.is_null() {
            // The test below finds it.
            continue;
        }
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            // It may be absent; there is no way to say null in an address or a header.
            if let Some(kinds) = parameter["schema"]["type"].as_array() {
                parameter["schema"]["type"] = kinds.first().cloned().unwrap_or_default();
            }
        }
        let asks = operation.get("parameters").is_some() || operation.get("requestBody").is_some();
        for (status, description) in PROBLEMS {
            if asks || status == "default" {
                operation["responses"][status] = json!({ "description": description });
            }
        }
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (_, response) in responses.filter(|(status, _)| !status.starts_with(['1', '2', '3'])) {
            let problem = json!({ "$ref": "#/components/schemas/Problem" });
            if response["content"].is_null() {
                response["content"] = json!({ "application/problem+json": { "schema": problem } });
            }
        }
        if let Some(scope) = row.scope {
            operation["security"] = json!([{ "token": [] }]);
            operation["x-scope"] = json!(scope.as_str());
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_names_every_route_that_is_served_and_no_other() {
        let served: BTreeSet<(String, String)> = routes::table()
            .iter()
            .map(|row| (row.path.to_owned(), row.method.as_str().to_ascii_lowercase()))
            .collect();
        assert_eq!(served.len(), routes::table().len(), "a route is there twice");
        let document = serde_json::to_value(Document::openapi()).expect("JSON");
        let mut named = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for method in methods.as_object().expect("methods").keys() {
                named.insert((path.clone(), method.clone()));
            }
        }
        assert_eq!(named, served);
    }

    #[test]
    fn what_it_refers_to_is_there() {
        let document = document();
        let text = document.to_string();
        let mut count = 0;
        for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
            count += 1;
        }
        assert!(count > 60, "{count}");
        let status = &document["paths"]["/api/v1/status"]["get"];
        assert_eq!(
            (status["x-scope"].as_str(), status["security"][0].is_object()),
            (Some("read"), true)
        );
        let push = &document["paths"]["/api/v1/images/{store}/{image}/push"]["post"];
        assert_eq!(push["x-scope"], "operate");
        assert!(document["paths"]["/livez"]["get"]["security"].is_null());
    }
}
