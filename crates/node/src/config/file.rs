//! The file of the configuration, as far as a running node deals with it: it is read again, and a
//! calendar in it is changed. What the file looks like only the binary knows.

use std::fmt::Debug;

use super::Config;
use crate::api::ScheduleEdit;
use crate::error::Result;

/// The configuration file of a node. Its methods block; nobody calls two of them at once.
pub trait ConfigFile: Debug + Send + Sync {
    /// Reads it: what the node is to run by, and keys beside that which have changed since the start
    /// and are read at the start only.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn load(&self) -> std::result::Result<(Config, Vec<String>), String>;

    /// Changes a calendar in it and nothing else, if it still is what `tag` names
    /// ([`Config::file_tag`]). When it returns the change is on disk, or nothing has changed.
    ///
    /// # Errors
    /// There is no such calendar, what is asked makes no sense, the file is another one by now or
    /// can't be written.
    fn set_schedule(&self, name: &str, edit: &ScheduleEdit, tag: &str) -> Result<()>;

    /// Whether this process may write it, as far as that can be told without trying.
    fn is_writable(&self) -> bool;
}
