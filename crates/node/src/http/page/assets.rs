//! Assets: style, scripts and the icon, embedded in the binary, each at an address that names its content.
//!
//! What has such an address never changes, so that browsers keep it; another version of the binary has
//! other addresses. What others wrote is there as they published it (`web/vendor/README.md`), and
//! compressed beside it. Everybody may fetch these: the login needs them and they tell nothing.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY,
};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::http::problem::Problem;

/// Where they are.
pub(crate) const ROUTE: &str = "/assets/{hash}/{name}";
/// Digits of the hash in an address.
const HASH_DIGITS: usize = 16;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

struct Asset {
    name: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    gzip: Option<&'static [u8]>,
}

macro_rules! ours {
    ($name:literal, $kind:expr) => {
        Asset {
            name: $name,
            kind: $kind,
            plain: include_bytes!(concat!("../../../web/", $name)),
            gzip: None,
        }
    };
}

macro_rules! vendored {
    ($name:literal, $kind:expr) => {
        Asset {
            name: $name,
            kind: $kind,
            plain: include_bytes!(concat!("../../../web/vendor/", $name)),
            gzip: Some(include_bytes!(concat!("../../../web/vendor/", $name, ".gz"))),
        }
    };
}

static ASSETS: [Asset; 8] = [
    ours!("page.css", CSS),
    ours!("page.js", JAVASCRIPT),
    ours!("grid.css", CSS),
    ours!("grid.js", JAVASCRIPT),
    ours!("icon.svg", "image/svg+xml"),
    vendored!("htmx.min.js", JAVASCRIPT),
    vendored!("uPlot.iife.min.js", JAVASCRIPT),
    vendored!("uPlot.min.css", CSS),
];

/// The addresses, in the order of [`ASSETS`].
static ADDRESSES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let address = |asset: &Asset| {
        let hash = blake3::hash(asset.plain).to_hex();
        format!("/assets/{}/{}", &hash[..HASH_DIGITS], asset.name)
    };
    ASSETS.iter().map(address).collect()
});

/// The address of an asset; of one that isn't there: the root, which a test would find.
pub(crate) fn address(name: &str) -> &'static str {
    let at = ASSETS.iter().position(|asset| asset.name == name);
    at.and_then(|at| ADDRESSES.get(at)).map_or("/", String::as_str)
}

/// Serves one.
pub(crate) async fn serve(
    uri: Uri,
    Path((_, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let found = ASSETS.iter().find(|asset| asset.name == name && address(&name) == uri.path());
    let Some(asset) = found else {
        return Problem::new("HTTP_ROUTE", format!("nothing is served at {}", uri.path()))
            .into_response();
    };
    let packed = asset.gzip.filter(|_| takes_gzip(&headers));
    let mut response = Response::new(Body::from(packed.unwrap_or(asset.plain)));
    *response.status_mut() = StatusCode::OK;
    let head = response.headers_mut();
    head.insert(CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    let forever = "public, max-age=31536000, immutable";
    head.insert(CACHE_CONTROL, HeaderValue::from_static(forever));
    if asset.gzip.is_some() {
        head.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if packed.is_some() {
        head.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether gzip is among what a client takes, and not by a weight of 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let zero = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
        named && !parts.any(zero)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(value).expect("a value"));
        takes_gzip(&headers)
    }

    #[test]
    fn gzip_goes_to_who_takes_it() {
        for good in ["gzip", "deflate, gzip", "br;q=1.0, GZIP;q=0.5", "gzip;q=1"] {
            assert!(takes(good), "{good}");
        }
        for bad in ["", "br", "gzip;q=0", "gzip; q=0.0", "x-gzip"] {
            assert!(!takes(bad), "{bad}");
        }
    }

    #[test]
    fn each_has_an_address_of_its_own() {
        let all: std::collections::BTreeSet<_> = ASSETS.iter().map(|a| address(a.name)).collect();
        assert_eq!(all.len(), ASSETS.len());
        assert!(all.iter().all(|address| address.starts_with("/assets/")), "{all:?}");
        assert_eq!(address("other"), "/");
    }

    #[test]
    fn the_styles_and_scripts_load_nothing_else() {
        for asset in &ASSETS {
            let text = String::from_utf8_lossy(asset.plain);
            for barred in ["@import", "url(http", "url(//", "eval(", "new Function"] {
                // htmx has both behind a setting that the layout turns off.
                let known = asset.name == "htmx.min.js" && !barred.starts_with("url");
                assert!(known || !text.contains(barred), "{} has {barred}", asset.name);
            }
        }
    }
}
