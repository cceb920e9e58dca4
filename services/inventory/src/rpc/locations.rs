//! Locations that hold stock.

use souk_common::{error::Problem, ids::LocationId, page};
use souk_proto::inventory::v1::{
    CreateLocationRequest, GetLocationRequest, ListLocationsRequest, ListLocationsResponse,
    Location as LocationMessage, location_service_server::LocationService,
};
use tonic::{Request, Response, Status};

use super::{Rpc, bad_token, convert, invalid};
use crate::domain::{location::Location, product::code_key};

#[tonic::async_trait]
impl LocationService for Rpc {
    async fn create_location(
        &self,
        request: Request<CreateLocationRequest>,
    ) -> Result<Response<LocationMessage>, Status> {
        let given = request.into_inner().location.unwrap_or_default();
        if given.code.is_empty() {
            return Err(Problem::invalid("location.code", "must be set").into());
        }
        let made = self.store.create_location(&given.code, &given.display_name, given.priority).await?;
        Ok(Response::new(convert::location(made)))
    }

    async fn get_location(&self, request: Request<GetLocationRequest>) -> Result<Response<LocationMessage>, Status> {
        let id = LocationId::parse_name(&request.get_ref().name).map_err(invalid("name"))?;
        Ok(Response::new(convert::location(self.store.location(id).await?)))
    }

    async fn list_locations(
        &self,
        request: Request<ListLocationsRequest>,
    ) -> Result<Response<ListLocationsResponse>, Status> {
        let request = request.into_inner();
        let query = "inventory.locations";
        let size = page::size(request.page_size);
        let after: Option<(i32, String)> = page::decode(&request.page_token, query).map_err(bad_token)?;
        let found = self.store.list_locations(after.as_ref(), size + 1).await?;
        let key = |location: &Location| (location.priority, code_key(&location.code));
        let (locations, next_page_token) = page::cut(found, size, query, key, convert::location);
        Ok(Response::new(ListLocationsResponse { locations, next_page_token }))
    }
}
