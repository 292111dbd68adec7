//! What a reload would change, asked before it is done: which keys of the file differ from what the
//! service runs by, and which of these wait for a restart. The tables are those of the reload itself.

use super::{check_beside, fixed, keys_of_peer, keys_of_store, next_of, of_node};
use crate::api::{ConfigPending, Schema};
use crate::config::Config;
use crate::core::Core;
use crate::error::{Error, Result};

/// Reads the file as a reload would, and changes nothing. Blocking.
///
/// # Errors
/// The node was started from no file, or a reload would be refused.
pub(crate) fn pending(core: &Core) -> Result<ConfigPending> {
    let nobodys = || Error::ConfigReadOnly {
        path: "the configuration".into(),
        what: "this node was not started from a file".to_owned(),
    };
    let file = core.config.file.as_ref().ok_or_else(nobodys)?;
    let (new, mut restart) = file.load().map_err(|what| Error::Config { what })?;
    new.check()?;
    let old = core.live();
    check_beside(core, &old, &new)?;
    restart.extend(fixed(&core.config, &new));
    let mut reload = of_node(&old, &new);
    reload.extend((old.http != new.http).then(|| "admin.http".to_owned()));
    for store in &new.stores {
        let known = old.stores.iter().any(|before| before.name == store.name);
        match core.store(store.name.as_str()) {
            Ok(open) => {
                let live = open.live_config();
                let next = next_of(&open.config, &live, store);
                let (now, later) = keys_of_store(&open.config, &live, &next, store);
                reload.extend(now);
                restart.extend(later);
            }
            // It is tried again all the time.
            Err(_) if known => {}
            Err(_) => reload.push(format!("stores.{}", store.name)),
        }
    }
    let gone = old.stores.iter().filter(|s| !new.stores.iter().any(|now| now.name == s.name));
    reload.extend(gone.map(|store| format!("stores.{}", store.name)));
    reload.extend(peers(&old, &new));
    Ok(ConfigPending { schema: Schema, tag: new.file_tag, reload, restart })
}

fn peers(old: &Config, new: &Config) -> Vec<String> {
    let of = |config: &Config, id| config.peers.iter().find(|peer| peer.id == id).cloned();
    let keys = new.peers.iter().flat_map(|peer| match of(old, peer.id) {
        Some(before) => keys_of_peer(&before, peer),
        None => vec![format!("peers.{}", peer.name)],
    });
    let gone = old.peers.iter().filter(|peer| of(new, peer.id).is_none());
    keys.chain(gone.map(|peer| format!("peers.{}", peer.name))).collect()
}
