//! Frame: what stands around every screen, and the screen that says what went wrong.

use askama::Template;

use super::{NAVIGATION, Viewer, assets, words::Clock};
use crate::http::problem::Problem;
use crate::http::site::Shared;

/// An entry of the navigation.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
    /// The screen is this one, or one below it.
    pub(crate) here: bool,
}

/// What every screen has besides its own.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) title: String,
    /// Name of this node.
    pub(crate) node: String,
    pub(crate) version: &'static str,
    pub(crate) navigation: Vec<Entry>,
    pub(crate) viewer: Viewer,
    /// Reads of the time, for all that the screen says.
    pub(crate) clock: Clock,
}

impl Frame {
    /// Of a screen at `path`.
    pub(crate) fn new(site: &Shared, viewer: &Viewer, title: &str, path: &str) -> Self {
        let below = |root: &str| {
            path == root
                || root != "/" && path.strip_prefix(root).is_some_and(|p| p.starts_with('/'))
        };
        let navigation = NAVIGATION
            .into_iter()
            .map(|(root, name)| Entry { path: root, name, here: below(root) })
            .collect();
        Self {
            title: title.to_owned(),
            node: site.core.config.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            navigation,
            viewer: viewer.clone(),
            clock: Clock::now(),
        }
    }

    /// The address of an asset.
    pub(crate) fn asset(&self, name: &str) -> &'static str {
        assets::address(name)
    }

    /// Forms that change something are shown.
    pub(crate) fn may_operate(&self) -> bool {
        self.viewer.may_operate
    }

    /// Who looks; empty: nobody in particular.
    pub(crate) fn who(&self) -> &str {
        &self.viewer.name
    }

    /// They are here by a session.
    pub(crate) fn has_session(&self) -> bool {
        self.viewer.session
    }

    /// There is something to log in with, and they didn't.
    pub(crate) fn may_log_in(&self) -> bool {
        self.viewer.tokens && !self.viewer.session
    }
}

/// What went wrong.
#[derive(Template)]
#[template(path = "trouble.html")]
pub(crate) struct Trouble<'a> {
    title: &'static str,
    code: &'a str,
    message: &'a str,
    remedy: &'a str,
    style: &'static str,
    icon: &'static str,
}

impl<'a> Trouble<'a> {
    pub(crate) fn new(problem: &'a Problem) -> Self {
        let Problem { error, .. } = problem;
        Self {
            title: problem.status().canonical_reason().unwrap_or("Error"),
            code: &error.code,
            message: &error.message,
            remedy: &error.remedy,
            style: assets::address("page.css"),
            icon: assets::address("icon.svg"),
        }
    }
}
