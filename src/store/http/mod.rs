//! What back ends that speak HTTP share; the only place that says `reqwest`.
