//! What takes bytes from the network here, for [`crate::fuzz`].

use super::record::{EndpointRecord, SegmentRecord};

/// What a peer tells of its segments and endpoints.
pub fn record(bytes: &[u8]) {
    if let Ok(record) = SegmentRecord::decode(bytes) {
        assert_eq!(SegmentRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(record) = EndpointRecord::decode(bytes) {
        let _ = record.addresses();
        assert_eq!(EndpointRecord::decode(&record.encode()), Ok(record));
    }
}
