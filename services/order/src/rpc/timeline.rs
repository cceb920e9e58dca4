//! Timelines of orders, and the notes that staff add to them.

use prost::Message;
use souk_common::{auth::Caller, error::Problem, page};
use souk_proto::order::v1::{
    AddOrderNoteRequest, ListTimelineEntriesRequest, ListTimelineEntriesResponse, TimelineEntry,
};

use super::{Answered, Parts, convert, missing, refused};
use crate::store::{Begin, Note, OrderScope, TimelineRow};

impl Parts {
    pub(super) async fn note(
        &self,
        caller: &Caller,
        request: &AddOrderNoteRequest,
    ) -> Result<Answered<TimelineEntry>, Problem> {
        let id = convert::order_id("name", &request.name)?;
        let key = convert::key(caller, "AddOrderNote", &request.request_id, request);
        if let Some(record) = self.store.find_record(&key).await? {
            return Answered::again(record);
        }
        let respond = |row: &TimelineRow| convert::entry(row.clone()).encode_to_vec();
        let note = Note { text: &request.text, internal: !request.visible_to_customer };
        match self.store.note(&key, id, note, respond).await? {
            Begin::NotFound => Err(missing(caller, id)),
            Begin::Known(record) => Answered::again(record),
            Begin::Refused(refusal) => Err(refused(refusal, id, "take notes")),
            Begin::Begun(row) => Ok(Answered::new(convert::entry(row))),
        }
    }

    pub(super) async fn timeline(
        &self,
        caller: &Caller,
        request: &ListTimelineEntriesRequest,
    ) -> Result<ListTimelineEntriesResponse, Problem> {
        let id = convert::order_id("parent", &request.parent)?;
        let query = ("orders.timeline", id);
        let size = page::size(request.page_size);
        let after: Option<i32> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let scope = OrderScope { id, owner: caller.grant.owner() };
        let rows =
            self.store.timeline(scope, after.unwrap_or(0), size + 1).await?.ok_or_else(|| missing(caller, id))?;
        let key = |row: &TimelineRow| row.number;
        let (timeline_entries, next_page_token) = page::cut(rows, size, &query, key, convert::entry);
        Ok(ListTimelineEntriesResponse { timeline_entries, next_page_token })
    }
}
