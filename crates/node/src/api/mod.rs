//! The admin protocol: what the command line and the running service say to each other.
//!
//! JSON lines over the admin unix socket. A client writes one request object per line; the service
//! answers with any number of `{"progress":..}`, `{"event":..}` and `{"item":..}` lines and exactly
//! one last line, `{"done":{..}}` or `{"error":{..}}`. Then the next request may follow.
//!
//! The objects in `done` are the JSON that scripts rely on (`"schema": "v1"`): the command line
//! prints them unchanged. Fields may be added; none may change its name or meaning.
//!
//! Nothing here knows a runtime: `codec` works on bytes, `client` on a blocking unix socket.

mod adoption;
mod answer;
mod client;
mod codec;
mod codes;
mod conflicts;
mod csv;
mod doctor;
mod images;
mod netcheck;
mod notices;
mod objects;
mod openapi;
mod orders;
mod request;
mod schedules;
mod trends;

pub use adoption::{AdoptReport, AdoptRow, AdoptStatus, AdoptStoreRow, AdoptionPhase, Compared};
pub use answer::{Answer, Event, Progress, Severity};
pub use client::{Answers, Client};
pub use codec::{ANSWER_BYTES_MAX, LineBuffer, REQUEST_BYTES_MAX, encode_line, parse_request};
pub use codes::{AdminError, CodeRow, Exit, code_rows, exit_for, remedy_for};
pub use conflicts::{ConflictContent, ConflictRow, ConflictState, ConflictsReport, ResolveReport};
pub use csv::{adoption_csv, history_csv};
pub use doctor::{DoctorReport, Finding};
pub use images::{
    BacklogItem, BacklogReport, CameRow, EventsDone, GenerationRow, HistoryReport, HookReport,
    ImagePeer, ImageRow, ImageState, ImagesReport, PairState, PeerReady, PlanReport, PromoteReport,
    PromotedRow, PublishReport, PushDone, PushPeer, ReadyReport, RollbackReport, RolledBack,
    VerifiedImage, VerifyDone, WaitReason,
};
pub use netcheck::NetcheckReport;
pub use objects::{
    Invitation, Joined, NodeRow, PeerRow, PeerState, PeersReport, Removed, Schema, StatusReport,
    StoreRow, StoresReport,
};
pub use orders::{OrderKind, OrderRow, OrdersReport, RateRow};
pub use request::{Affected, Lane, Request, Require, Role};
pub use schedules::{
    ConfigPending, RateText, ScheduleEdit, ScheduleRow, ScheduleRule, ScheduleState,
    SchedulesReport,
};
pub use trends::{BacklogPoint, RatePoint, TrendsReport};
