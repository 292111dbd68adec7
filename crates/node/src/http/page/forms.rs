//! Forms: what a screen may change, as a browser without JavaScript sends it.
//!
//! Each makes the request of the admin protocol that its API route makes, then leads back by a
//! redirect, so that a reload repeats nothing. What was refused is said on a screen of its own. What
//! happened is told by a word of ours in the address, never by text from there.

use askama::Template;
use axum::extract::{Extension, FromRequest, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::frame::Frame;
use super::{Failed, Screen, Viewer, html, see, words};
use crate::api::{Affected, OrdersReport, PromoteReport, Request as Ask};
use crate::http::body;
use crate::http::problem::Problem;
use crate::http::reads::require;
use crate::http::site::{Asker, Shared};

/// A form's fields.
pub(crate) struct Form<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Form<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failed> {
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Problem::new("HTTP_TYPE", "a form is expected").into());
        }
        let bytes = body::whole(body).await?;
        let text = String::from_utf8(bytes).map_err(|_| Problem::bad("a form is ASCII"))?;
        // A form is written as a query is, so it is read as one.
        let wrong = || Problem::bad("a form is ASCII of at most 64 KiB");
        let uri: Uri = format!("/?{text}").parse().map_err(|_| wrong())?;
        let Query(form) = Query::try_from_uri(&uri)
            .map_err(|error| Problem::bad(error.body_text().replace("query string", "form")))?;
        Ok(Self(form))
    }
}

/// What was done, in an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    /// An image was promoted.
    Promoted,
    /// Something was paused.
    Paused,
    /// Something goes on.
    Resumed,
    /// A schedule was changed.
    Scheduled,
}

impl Done {
    /// For the top of the screen that follows.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Promoted => "Promoted. All members are told.",
            Self::Paused => "Paused. What came so far is kept.",
            Self::Resumed => "Resumed.",
            Self::Scheduled => "Saved in the configuration file, and in force.",
        }
    }

    /// For the address of that screen.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Scheduled => "scheduled",
        }
    }
}

/// An image to be promoted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promotion {
    store: String,
    image: String,
    /// The generation that was looked at: what came meanwhile isn't meant.
    generation: u64,
    /// Empty: as configured.
    #[serde(default)]
    require: String,
}

/// A pause, or its end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hold {
    /// Empty: all.
    #[serde(default)]
    peer: String,
    #[serde(default)]
    store: String,
    /// `STORE/NAME`.
    #[serde(default)]
    image: String,
    /// Seconds; empty: until somebody ends it.
    #[serde(default)]
    seconds: String,
}

#[derive(Template)]
#[template(path = "refused.html")]
struct Refused {
    frame: Frame,
    image: String,
    href: String,
    report: PromoteReport,
}

/// Promotes what was looked at.
pub(crate) async fn promote(
    State(site): State<Shared>,
    Extension(asker): Extension<Asker>,
    Extension(viewer): Extension<Viewer>,
    Form(what): Form<Promotion>,
) -> Screen {
    let image = format!("{}/{}", what.store, what.image);
    let href = format!("/images/{}/{}", words::in_path(&what.store), words::in_path(&what.image));
    let required = if what.require.is_empty() { None } else { Some(require(&what.require)?) };
    let named = format!("{image}@{}", what.generation);
    let ask = Ask::Promote { image: named, require: required };
    let report: PromoteReport = site.answer(&asker, ask).await?;
    if report.promoted {
        return Ok(see(&format!("{href}?done={}", Done::Promoted.word())));
    }
    let frame = Frame::new(&site, &viewer, "Not promoted", "/");
    Ok(html(StatusCode::CONFLICT, &Refused { frame, image, href, report }))
}

/// Pauses.
pub(crate) async fn pause(
    State(site): State<Shared>,
    Extension(asker): Extension<Asker>,
    Form(hold): Form<Hold>,
) -> Screen {
    let _orders: OrdersReport = site.answer(&asker, Ask::Pause(hold.affected()?)).await?;
    Ok(see(&format!("/?done={}", Done::Paused.word())))
}

/// Ends pauses and boosts.
pub(crate) async fn resume(
    State(site): State<Shared>,
    Extension(asker): Extension<Asker>,
    Form(hold): Form<Hold>,
) -> Screen {
    let _orders: OrdersReport = site.answer(&asker, Ask::Resume(hold.affected()?)).await?;
    Ok(see(&format!("/?done={}", Done::Resumed.word())))
}

impl Hold {
    fn affected(self) -> Result<Affected, Problem> {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let seconds = some(self.seconds).map(|text| {
            text.parse().map_err(|_| Problem::bad("how long: whole seconds are expected"))
        });
        let for_seconds = seconds.transpose()?;
        let (peer, store, image) = (some(self.peer), some(self.store), some(self.image));
        Ok(Affected { peer, store, image, for_seconds })
    }
}
