//! Shipments of orders.

use prost::Message;
use souk_common::{auth::Caller, error::Problem, ids::ShipmentId, page};
use souk_proto::order::v1::{
    CreateShipmentRequest, GetShipmentRequest, ListShipmentsRequest, ListShipmentsResponse, Shipment as ShipmentMessage,
};

use super::{Answered, Parts, convert, missing, refused};
use crate::{
    domain::{Shipment, Tracking},
    store::{Begin, OrderScope, Shipping, Which},
};

impl Parts {
    pub(super) async fn ship(
        &self,
        caller: &Caller,
        request: CreateShipmentRequest,
    ) -> Result<Answered<ShipmentMessage>, Problem> {
        let id = convert::order_id("parent", &request.parent)?;
        let key = convert::key(caller, "CreateShipment", &request.request_id, &request);
        if let Some(record) = self.store.find_record(&key).await? {
            return Answered::again(record);
        }
        let draft = request.shipment.ok_or_else(|| Problem::invalid("shipment", "must be set"))?;
        let shipping = Shipping {
            items: convert::pieces(&draft.lines, |line| (line.line_number, line.quantity)),
            time: convert::past("shipment.ship_time", draft.ship_time)?,
            tracking: Tracking { carrier: draft.carrier, number: draft.tracking_number, url: draft.tracking_url },
        };
        let respond = |shipment: &Shipment| convert::shipment(shipment).encode_to_vec();
        match self.store.ship(&key, id, &shipping, respond).await? {
            Begin::NotFound => Err(missing(caller, id)),
            Begin::Known(record) => Answered::again(record),
            Begin::Refused(refusal) => Err(refused(refusal, id, "are shipped")),
            Begin::Begun(shipment) => Ok(Answered::new(convert::shipment(&shipment))),
        }
    }

    pub(super) async fn shipment(
        &self,
        caller: &Caller,
        request: &GetShipmentRequest,
    ) -> Result<ShipmentMessage, Problem> {
        let nowhere = || Problem::invalid("name", "must be `orders/ord_…/shipments/shp_…`");
        let (order, shipment) = request.name.split_once("/shipments/").ok_or_else(nowhere)?;
        let order = convert::order_id("name", order)?;
        let shipment: ShipmentId = shipment.parse().map_err(|error| convert::bad_id("name", &error))?;
        let found =
            self.store.shipments(OrderScope { id: order, owner: caller.grant.owner() }, Which::One(shipment)).await;
        let found = found?.ok_or_else(|| missing(caller, order))?;
        found.first().map(convert::shipment).ok_or_else(|| Problem::not_found(request.name.as_str()))
    }

    pub(super) async fn shipments(
        &self,
        caller: &Caller,
        request: &ListShipmentsRequest,
    ) -> Result<ListShipmentsResponse, Problem> {
        let id = convert::order_id("parent", &request.parent)?;
        let query = ("orders.shipments", id);
        let size = page::size(request.page_size);
        let after: Option<ShipmentId> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let rows =
            self.store.shipments(OrderScope { id, owner: caller.grant.owner() }, Which::Page(after, size + 1)).await;
        let rows = rows?.ok_or_else(|| missing(caller, id))?;
        let message = |row| convert::shipment(&row);
        let (shipments, next_page_token) = page::cut(rows, size, &query, |row: &Shipment| row.id, message);
        Ok(ListShipmentsResponse { shipments, next_page_token })
    }
}
