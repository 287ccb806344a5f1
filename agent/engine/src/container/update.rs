//! `docker update`: new limits and a new restart policy for a container that exists.

use super::{restart::Policy, spec};
use muster_calls::{Error, Result};
use muster_model::engine::{ContainerUpdate, HostConfig, Resources};
use muster_runtime::spec::SpecInput;

/// The limits that a running container's runtime must be told, and words about those that this host cannot honour.
/// `new` are the limits after the update.
///
/// # Errors
/// `Invalid` naming what this host does not have.
pub(super) fn changes(
    update: &Resources,
    new: &HostConfig,
    host: &muster_runtime::spec::Host,
) -> Result<(muster_runtime::Resources, Vec<String>)> {
    let wanted = SpecInput { resources: spec::resources(update), ..SpecInput::default() };
    let warnings = muster_runtime::spec::vet(&wanted, host).map_err(|e| Error::invalid(e.to_string()))?;
    let mut limits = muster_runtime::spec::supported(&wanted.resources, host).0;
    if limits.memory.is_some() && limits.memory_swap.is_none() && host.swap_limit {
        // Else a new memory limit would bring a limit of swap that nobody asked for.
        limits.memory_swap = Some(new.resources.memory_swap).filter(|n| *n != 0);
    }
    Ok((limits, warnings))
}

/// The configuration after the update; fields that are not given stay.
///
/// # Errors
/// `Invalid` naming the field, in Docker's words where it has them.
pub(super) fn merged(host: &HostConfig, update: &ContainerUpdate) -> Result<HostConfig> {
    let mut new = host.clone();
    let (from, to) = (&update.resources, &mut new.resources);
    for (from, to) in [
        (from.cpu_shares, &mut to.cpu_shares),
        (from.memory, &mut to.memory),
        (from.nano_cpus, &mut to.nano_cpus),
        (from.cpu_period, &mut to.cpu_period),
        (from.cpu_quota, &mut to.cpu_quota),
        (from.cpu_realtime_period, &mut to.cpu_realtime_period),
        (from.cpu_realtime_runtime, &mut to.cpu_realtime_runtime),
        (from.memory_reservation, &mut to.memory_reservation),
        (from.memory_swap, &mut to.memory_swap),
    ] {
        if from != 0 {
            *to = from;
        }
    }
    if from.blkio_weight != 0 {
        to.blkio_weight = from.blkio_weight;
    }
    for (from, to) in [(&from.cpuset_cpus, &mut to.cpuset_cpus), (&from.cpuset_mems, &mut to.cpuset_mems)] {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    if from.pids_limit.is_some_and(|n| n != 0) {
        to.pids_limit = from.pids_limit;
    }
    check(from, host, &new)?;
    super::check::resources(&mut new)?;
    let policy = &update.restart_policy;
    if !policy.name.is_empty() {
        Policy::parse(&policy.name, policy.maximum_retry_count).map_err(Error::invalid)?;
        if host.auto_remove && policy.name != "no" {
            return Err(Error::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        new.restart_policy = policy.clone();
    }
    Ok(new)
}

fn check(from: &Resources, old: &HostConfig, new: &HostConfig) -> Result<()> {
    let limits = &new.resources;
    if from.nano_cpus != 0 && (limits.cpu_period != 0 || limits.cpu_quota != 0) {
        return Err(Error::conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set",
        ));
    }
    if (from.cpu_period != 0 || from.cpu_quota != 0) && old.resources.nano_cpus != 0 {
        return Err(Error::conflict(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    if limits.memory > limits.memory_swap && limits.memory_swap > 0 {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    let refused = [
        (!from.devices.is_empty(), "Devices"),
        (!from.ulimits.is_empty(), "Ulimits"),
        (!from.device_cgroup_rules.is_empty(), "DeviceCgroupRules"),
        (!from.device_requests.is_empty(), "DeviceRequests"),
        (!from.blkio_weight_device.is_empty(), "BlkioWeightDevice"),
        (!from.blkio_device_read_bps.is_empty(), "BlkioDeviceReadBps"),
        (!from.blkio_device_write_bps.is_empty(), "BlkioDeviceWriteBps"),
        (!from.blkio_device_read_iops.is_empty(), "BlkioDeviceReadIOps"),
        (!from.blkio_device_write_iops.is_empty(), "BlkioDeviceWriteIOps"),
        (from.kernel_memory != 0, "KernelMemory"),
    ];
    refused
        .into_iter()
        .find(|(set, _)| *set)
        .map_or(Ok(()), |(_, field)| Err(Error::unimplemented(format!("an update of {field}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::engine::RestartPolicy;

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let mut host = HostConfig::default();
        (host.resources.memory, host.resources.cpu_shares) = (32 << 20, 512);
        let mut update = ContainerUpdate::default();
        (update.resources.memory, update.resources.memory_swap) = (48 << 20, 96 << 20);
        update.restart_policy = RestartPolicy { name: "on-failure".into(), maximum_retry_count: 3 };
        let new = merged(&host, &update).expect("valid");
        assert_eq!((new.resources.memory, new.resources.cpu_shares), (48 << 20, 512));
        assert_eq!(new.restart_policy.maximum_retry_count, 3);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut host = HostConfig::default();
        host.resources.memory_swap = 10 << 20;
        let mut update = ContainerUpdate::default();
        update.resources.memory = 48 << 20;
        assert!(merged(&host, &update).expect_err("swap").message.contains("memoryswap"));
        host.auto_remove = true;
        let update = ContainerUpdate {
            restart_policy: RestartPolicy { name: "always".into(), ..RestartPolicy::default() },
            ..ContainerUpdate::default()
        };
        assert!(merged(&host, &update).is_err());
    }
}
