"""Study three: routing, eviction and capacity."""
