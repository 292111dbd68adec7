//! Schedules over HTTP: the calendars in force, and a change of one, with the tag of the file as ETag.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ETAG, HeaderValue, IF_MATCH};

use super::body::{Asked, Named, Said};
use super::problem::Problem;
use super::reads::Nothing;
use super::site::{Asker, Reply, Shared, json};
use crate::api::{Request, ScheduleEdit, SchedulesReport};

/// All schedules; the ETag names the configuration that they are from
#[utoipa::path(
    get, path = "/api/v1/schedules", tag = "schedules",
    responses((status = 200, body = SchedulesReport)),
)]
pub(crate) async fn all(State(site): State<Shared>, _: Asked<Nothing>) -> Reply {
    tagged(&site, Request::Schedules { name: None }).await
}

/// One schedule, with its week as a grid
#[utoipa::path(
    get, path = "/api/v1/schedules/{schedule}", tag = "schedules",
    params(("schedule" = String, Path, description = "Its name")),
    responses((status = 200, body = SchedulesReport)),
)]
pub(crate) async fn one(
    State(site): State<Shared>,
    Named(name): Named<String>,
    _: Asked<Nothing>,
) -> Reply {
    tagged(&site, Request::Schedules { name: Some(name) }).await
}

/// Change a schedule in the configuration file, comments kept, and put that into force
#[utoipa::path(
    put, path = "/api/v1/schedules/{schedule}", tag = "schedules",
    params(
        ("schedule" = String, Path, description = "Its name"),
        (
            "If-Match" = String, Header, pattern = r#"^(\*|"[!#-~]*")$"#,
            description = "ETag of what the change is based on, or *",
        ),
    ),
    request_body = ScheduleEdit,
    responses(
        (status = 200, body = SchedulesReport),
        (status = 412, description = "The schedule, or its file, is another one by now"),
        (status = 428, description = "If-Match is missing"),
    ),
)]
pub(crate) async fn set(
    State(site): State<Shared>,
    Named(name): Named<String>,
    headers: HeaderMap,
    _: Asked<Nothing>,
    Said(edit): Said<ScheduleEdit>,
) -> Reply {
    let tag = if_match(&headers)?;
    tagged(&site, Request::ScheduleSet { name, tag, edit }).await
}

/// The tag of `If-Match`: one strong one, or `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let wrong = || Problem::bad("If-Match: one ETag as it was given, in quotes, or *");
    let mut all = headers.get_all(IF_MATCH).iter();
    let Some(only) = all.next() else { return Ok(None) };
    let text = only.to_str().map_err(|_| wrong())?.trim();
    if all.next().is_some() {
        return Err(wrong());
    }
    // As if it were not there.
    if text.is_empty() {
        return Ok(None);
    }
    if text == "*" {
        return Ok(Some(text.to_owned()));
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.filter(|tag| !tag.contains('"')).map(|tag| Some(tag.to_owned())).ok_or_else(wrong)
}

async fn tagged(site: &Shared, request: Request) -> Reply {
    let (report, _) = site.ask(&Asker::default(), request).await?;
    let tag =
        report["tag"].as_str().and_then(|tag| HeaderValue::from_str(&format!("\"{tag}\"")).ok());
    let mut response = json(&report);
    if let Some(tag) = tag {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_or_any() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_MATCH, HeaderValue::from_str(value).expect("a value"));
            }
            if_match(&headers).map_err(|problem| problem.error.code)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["*"]), Ok(Some("*".to_owned())));
        assert_eq!(of(&[" \"a1\" "]), Ok(Some("a1".to_owned())));
        for bad in [&["a1"][..], &["W/\"a1\""], &["\"a\", \"b\""], &["\"a\"", "\"b\""], &["\""]] {
            assert_eq!(of(bad), Err("CONTROL_BAD_REQUEST".to_owned()), "{bad:?}");
        }
    }
}
