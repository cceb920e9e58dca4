//! The catalogue.

mod input;
mod list;
mod upsert;

use std::collections::HashMap;

use souk_common::{
    error::{Problem, Reason},
    ids::ProductId,
    page,
};
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchGetProductsRequest, BatchGetProductsResponse, BatchUpsertProductsRequest,
    BatchUpsertProductsResponse, CreateProductRequest, GetProductRequest, ListProductsRequest, ListProductsResponse,
    Product as ProductMessage, UpdateProductRequest, product_service_server::ProductService,
};
use tonic::{Request, Response, Status};

use self::list::Page;
use super::{Rpc, convert, invalid};
use crate::{
    domain::{
        command::Refusal,
        product::{Product, code_key, list::Key},
    },
    error::Error,
};

/// The most products in one call.
const MOST: usize = 1000;

#[tonic::async_trait]
impl ProductService for Rpc {
    async fn create_product(&self, request: Request<CreateProductRequest>) -> Result<Response<ProductMessage>, Status> {
        let draft = input::draft(request.into_inner().product.unwrap_or_default())?;
        Ok(Response::new(convert::product(self.store.create_product(&draft).await?)))
    }

    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<ProductMessage>, Status> {
        let id = ProductId::parse_name(&request.get_ref().name).map_err(invalid("name"))?;
        let found = self.store.products(&[id]).await?.pop().ok_or_else(|| Error::from(Refusal::NoProduct(id)))?;
        Ok(Response::new(convert::product(found)))
    }

    async fn batch_get_products(
        &self,
        request: Request<BatchGetProductsRequest>,
    ) -> Result<Response<BatchGetProductsResponse>, Status> {
        let request = request.into_inner();
        if !(1..=MOST).contains(&(request.names.len() + request.skus.len())) {
            let text = "must be from 1 to 1,000 in all, together with `skus`";
            return Err(Problem::invalid("names", text).into());
        }
        let products = self.batch_get(&request).await?.into_iter().map(convert::product).collect();
        Ok(Response::new(BatchGetProductsResponse { products }))
    }

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        let Page { query, size, listing } = list::read(request.into_inner())?;
        let found = self.store.list_products(&listing).await?;
        let key = |product: &Product| Key::of(product, listing.sort);
        let (products, next_page_token) = page::cut(found, size, &query, key, convert::product);
        Ok(Response::new(ListProductsResponse { products, next_page_token }))
    }

    async fn update_product(&self, request: Request<UpdateProductRequest>) -> Result<Response<ProductMessage>, Status> {
        let request = request.into_inner();
        let given = request.product.unwrap_or_default();
        let id = ProductId::parse_name(&given.name).map_err(invalid("product.name"))?;
        let change = input::change(&given, request.update_mask.as_ref())?;
        let changed = self.store.update_product(id, etag(&given.etag), &change).await?;
        Ok(Response::new(convert::product(changed)))
    }

    async fn batch_upsert_products(
        &self,
        request: Request<BatchUpsertProductsRequest>,
    ) -> Result<Response<BatchUpsertProductsResponse>, Status> {
        Ok(Response::new(self.upsert(request.into_inner()).await?))
    }

    async fn archive_product(
        &self,
        request: Request<ArchiveProductRequest>,
    ) -> Result<Response<ProductMessage>, Status> {
        let request = request.into_inner();
        let id = ProductId::parse_name(&request.name).map_err(invalid("name"))?;
        let archived = self.store.archive_product(id, etag(&request.etag)).await?;
        Ok(Response::new(convert::product(archived)))
    }
}

impl Rpc {
    /// The requested products, in the order of the request: first those by name, then those by stock code.
    async fn batch_get(&self, request: &BatchGetProductsRequest) -> Result<Vec<Product>, Status> {
        let mut ids = Vec::with_capacity(request.names.len());
        for (index, name) in request.names.iter().enumerate() {
            ids.push(ProductId::parse_name(name).map_err(invalid(format!("names[{index}]")))?);
        }
        let mut by_id = HashMap::new();
        if !ids.is_empty() {
            by_id.extend(self.store.products(&ids).await?.into_iter().map(|product| (product.id, product)));
        }
        let mut by_sku = HashMap::new();
        if !request.skus.is_empty() {
            let found = self.store.products_by_sku(&request.skus).await?;
            by_sku.extend(found.into_iter().map(|product| (code_key(&product.sku), product)));
        }
        let named = ids.iter().enumerate().map(|(at, id)| (format!("names[{at}]"), by_id.get(id)));
        let coded = request.skus.iter().enumerate();
        let coded = coded.map(|(at, sku)| (format!("skus[{at}]"), by_sku.get(&code_key(sku))));

        let (mut products, mut missing) = (Vec::new(), Vec::new());
        for (path, product) in named.chain(coded) {
            match product {
                Some(product) => products.push(product.clone()),
                None => missing.push(path),
            }
        }
        if missing.is_empty() || request.allow_missing {
            return Ok(products);
        }
        let text = format!("{} of the products do not exist, the first at {}", missing.len(), missing[0]);
        let problem = Problem::new(Reason::ResourceNotFound, text);
        let told = missing.into_iter().take(NAMED);
        Err(told.fold(problem, |problem, path| problem.field(path, "must be an existing product")).into())
    }
}

/// The most missing products that an error names.
const NAMED: usize = 50;

/// The etag that must be the current one; `None` if it is empty.
fn etag(given: &str) -> Option<&str> {
    (!given.is_empty()).then_some(given)
}
