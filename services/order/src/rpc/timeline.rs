//! AddOrderNote.

use prost::Message;
use souk_common::{auth::Caller, error::Problem};
use souk_proto::order::v1::{AddOrderNoteRequest, TimelineEntry};

use super::{Answered, Parts, convert, missing, parse, refused};
use crate::{
    error::Error,
    store::{Begin, Note, TimelineRow},
};

impl Parts {
    pub(super) async fn note(
        &self,
        caller: &Caller,
        request: &AddOrderNoteRequest,
    ) -> Result<Answered<TimelineEntry>, Problem> {
        let id = parse::order("name", &request.name)?;
        let key = parse::key(caller, "AddOrderNote", &request.request_id, request);
        if let Some(record) = self.store.find_record(&key).await.map_err(Error::from)? {
            return Answered::again(record);
        }
        let respond = |row: &TimelineRow| convert::entry(row.clone()).encode_to_vec();
        let note = Note { text: &request.text, internal: !request.visible_to_customer };
        let written = self.store.note(&key, id, note, respond).await;
        match written.map_err(Error::from)? {
            Begin::NotFound => Err(missing(caller, id)),
            Begin::Known(record) => Answered::again(record),
            Begin::Refused(refusal) => Err(refused(refusal, id, "take notes")),
            Begin::Begun(row) => Ok(Answered::new(convert::entry(row))),
        }
    }
}
