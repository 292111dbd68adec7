//! How the version of the objects is described in OpenAPI: a text that is always the same.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{PartialSchema, ToSchema};

use super::objects::Schema;

impl PartialSchema for Schema {
    fn schema() -> RefOr<utoipa::openapi::schema::Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.enum_values(Some([Schema::VERSION])).into()
    }
}

impl ToSchema for Schema {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("SchemaVersion")
    }
}
