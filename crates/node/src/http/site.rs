//! The site: what all handlers share, and the one way in which they ask the node.
//!
//! A handler makes a [`Request`] of the admin protocol and has it answered by the very function that
//! answers the admin socket; HTTP adds who may ask and how it is written down, nothing else.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::access::{Access, Credential, Denied};
use super::openapi;
use super::page::Sessions;
use super::problem::Problem;
use super::settings::Scope;
use crate::admin::requests;
use crate::admin::socket::Client;
use crate::api::{AdminError, Answer, Request};
use crate::budget;
use crate::core::Core;
use crate::error::{Error, Result as NodeResult};

/// What a handler answers.
pub(crate) type Reply = Result<Response, Problem>;

/// What all handlers share.
pub(crate) struct Site {
    pub(crate) core: Arc<Core>,
    access: watch::Receiver<Arc<Access>>,
    /// Of browsers.
    pub(crate) sessions: Sessions,
    /// Places for those who follow events.
    pub(crate) followers: Arc<Semaphore>,
    /// One scrape at a time: each looks at all there is.
    pub(crate) scrapes: Arc<Semaphore>,
    /// Whoever looks at the stores' file systems for `/readyz`: one that hangs must not take every thread.
    pub(crate) looks: Arc<Semaphore>,
    /// The description of all routes, as it is served.
    pub(crate) openapi: Bytes,
}

/// Who asks, for people: the user at the other end of the admin socket, or whose token it was. The
/// connection or the gate says it, never the request.
#[derive(Clone, Debug)]
pub(crate) struct Asker(pub(crate) Arc<str>);

impl Default for Asker {
    fn default() -> Self {
        Self("somebody over HTTP".into())
    }
}

/// A site that handlers can have.
pub(crate) type Shared = Arc<Site>;

impl Site {
    pub(crate) fn new(core: Arc<Core>, access: watch::Receiver<Arc<Access>>) -> Self {
        let sessions = Sessions::new(&core.config.identity.id());
        Self {
            core,
            access,
            sessions,
            followers: Arc::new(Semaphore::new(budget::HTTP_FOLLOWERS_MAX)),
            scrapes: Arc::new(Semaphore::new(1)),
            looks: Arc::new(Semaphore::new(budget::HTTP_LOOKS_MAX)),
            openapi: openapi::document().to_string().into(),
        }
    }

    /// Who may ask what, as the configuration says it now.
    pub(crate) fn access(&self) -> Arc<Access> {
        self.access.borrow().clone()
    }

    /// The same as it changes.
    pub(crate) fn accesses(&self) -> watch::Receiver<Arc<Access>> {
        self.access.clone()
    }

    /// What who asks shows: a token, or a session that stands for one.
    pub(crate) fn credential(&self, headers: &HeaderMap) -> Result<Credential, Denied> {
        let shown = self.access().credential(headers)?;
        let session = shown.is_nothing().then(|| self.sessions.token(headers)).flatten();
        Ok(session.map_or(shown, Credential::of))
    }

    /// Whether who asks may do what `needs` this scope; the name of the token.
    pub(crate) fn check_who(&self, headers: &HeaderMap, needs: Scope) -> Result<String, Denied> {
        let shown = self.credential(headers)?;
        self.access().may(&shown, needs).map(str::to_owned)
    }

    /// The object that a request ends with.
    pub(crate) async fn answer<T: DeserializeOwned>(
        &self,
        asker: &Asker,
        request: Request,
    ) -> Result<T, Problem> {
        let (done, _) = self.ask(asker, request).await?;
        let odd = |error| Problem::new("INTERNAL", format!("an answer of another kind: {error}"));
        serde_json::from_value(done).map_err(odd)
    }

    /// The same of what is answered from what the node knows.
    pub(crate) async fn told<T: DeserializeOwned>(&self, request: Request) -> Result<T, Problem> {
        let (deadline, nobody) = (budget::HTTP_ANSWER_DEADLINE, Asker::default());
        match tokio::time::timeout(deadline, self.answer(&nobody, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(no_answer()),
        }
    }

    /// Asks something that is answered from what the node knows.
    pub(crate) async fn look(&self, request: Request) -> Reply {
        let deadline = budget::HTTP_ANSWER_DEADLINE;
        match tokio::time::timeout(deadline, self.act(request)).await {
            Ok(reply) => reply,
            Err(_) => Err(no_answer()),
        }
    }

    /// Asks something that may take as long as it takes. Who goes away lets go of it.
    pub(crate) async fn act(&self, request: Request) -> Reply {
        self.act_for(&Asker::default(), request).await
    }

    /// The same where it is kept who asked.
    pub(crate) async fn act_for(&self, asker: &Asker, request: Request) -> Reply {
        let (done, _) = self.ask(asker, request).await?;
        Ok(json(&done))
    }

    /// The last object of an answer, and those before it.
    pub(crate) async fn ask(
        &self,
        asker: &Asker,
        request: Request,
    ) -> Result<(Value, Vec<Value>), Problem> {
        let mut client = Client::gathering(asker.0.to_string());
        let answered: NodeResult<Answer> = tokio::select! {
            () = self.core.stopped() => Err(Error::Stopping),
            answered = requests::handle(&self.core, request, &mut client) => answered,
        };
        match answered {
            Ok(Answer::Done(done)) => Ok((done, client.into_items())),
            Ok(Answer::Error(error)) => Err(error.into()),
            Ok(_) => Err(AdminError::new("INTERNAL", "an answer without an end").into()),
            Err(error) => Err((&error).into()),
        }
    }
}

fn no_answer() -> Problem {
    let seconds = budget::HTTP_ANSWER_DEADLINE.as_secs();
    Problem::new("DEADLINE", format!("no answer after {seconds} s: a disk doesn't"))
}

/// An object as an answer.
pub(crate) fn json<T: Serialize>(object: &T) -> Response {
    let bytes = serde_json::to_vec(object).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
