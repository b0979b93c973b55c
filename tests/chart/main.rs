//! The chart: what it renders is valid, least privileged and read by the agent; what cannot work it refuses.
//! Helm's own engine renders it, and Kubernetes' own schemas judge the result.

mod agent_config;
mod cases;
mod documented;
mod documented_pods;
mod in_documents;
mod jobs;
mod joined;
mod least_privilege;
mod library;
mod plain;
mod refused;
mod rendered;
mod rig;
mod same_limits;
mod watching;
mod whole;
