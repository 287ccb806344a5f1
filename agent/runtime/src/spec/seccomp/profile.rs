//! Profiles of users: Docker's JSON form (`archMap`, rules with `includes` and `excludes`), which contains the OCI form.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::spec::error::{Error, oci};

const FIELD: &str = "SecurityOpt seccomp";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// The form before names.
    #[serde(default)]
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

pub(super) fn filter(text: &str, caps: &BTreeSet<String>, x32: bool) -> Result<LinuxSeccomp, Error> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| Error::field(FIELD, format!("not a profile: {error}")))?;
    if profile.architectures.is_some() && profile.arch_map.is_some() {
        return Err(Error::field(FIELD, "architectures and archMap exclude each other"));
    }
    let here = Here { caps, arch: std::env::consts::ARCH, kernel: kernel() };
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        if here.applies(&rule) {
            syscalls.push(oci_rule(rule)?);
        }
    }
    let architectures = profile.architectures.unwrap_or_else(|| mapped(profile.arch_map.unwrap_or_default(), x32));
    let mut value = Map::new();
    let mut set = |key: &str, part: Option<Value>| value.extend(part.map(|part| (key.to_owned(), part)));
    set("defaultAction", Some(json!(profile.default_action)));
    set("defaultErrnoRet", profile.default_errno_ret.map(Value::from));
    set("architectures", (!architectures.is_empty()).then(|| json!(architectures)));
    set("flags", profile.flags.filter(|flags| !flags.is_empty()).map(|flags| json!(flags)));
    set("listenerPath", profile.listener_path.filter(|path| !path.is_empty()).map(Value::from));
    set("listenerMetadata", profile.listener_metadata.filter(|text| !text.is_empty()).map(Value::from));
    set("syscalls", Some(Value::Array(syscalls)));
    oci(FIELD, Value::Object(value))
}

fn oci_rule(rule: Rule) -> Result<Value, Error> {
    let names: Vec<String> = rule.names.into_iter().chain(rule.name).collect();
    if names.is_empty() {
        return Err(Error::field(FIELD, "a rule without names"));
    }
    let mut value = json!({"names": names, "action": rule.action});
    if let Some(errno) = rule.errno_ret {
        value["errnoRet"] = json!(errno);
    }
    if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
        value["args"] = Value::Array(args);
    }
    Ok(value)
}

/// The native architecture of this build with the older ones that its kernel runs as well.
fn mapped(map: Vec<ArchMap>, x32: bool) -> Vec<String> {
    let native = match std::env::consts::ARCH {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "powerpc64" => "SCMP_ARCH_PPC64LE",
        "s390x" => "SCMP_ARCH_S390X",
        other => other,
    };
    let found = map.into_iter().find(|entry| entry.architecture == native);
    let all = found.map(|entry| [vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat());
    all.into_iter().flatten().filter(|name| x32 || name != super::X32).collect()
}

struct Here<'a> {
    caps: &'a BTreeSet<String>,
    arch: &'a str,
    kernel: (u32, u32),
}

impl Here<'_> {
    fn applies(&self, rule: &Rule) -> bool {
        rule.includes.as_ref().is_none_or(|condition| self.includes(condition))
            && rule.excludes.as_ref().is_none_or(|condition| !self.excludes(condition))
    }

    /// Every condition that is set must hold: all the capabilities, one of the architectures.
    fn includes(&self, condition: &Condition) -> bool {
        condition.caps.iter().all(|cap| self.caps.contains(cap))
            && (condition.arches.is_empty() || self.is_one_of(&condition.arches))
            && condition.min_kernel.as_deref().is_none_or(|least| self.kernel >= version(least))
    }

    /// One condition that holds is enough.
    fn excludes(&self, condition: &Condition) -> bool {
        condition.caps.iter().any(|cap| self.caps.contains(cap))
            || self.is_one_of(&condition.arches)
            || condition.min_kernel.as_deref().is_some_and(|least| self.kernel >= version(least))
    }

    /// Profiles name architectures as Go does.
    fn is_one_of(&self, arches: &[String]) -> bool {
        let name = match self.arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        arches.iter().any(|arch| arch == name)
    }
}

fn kernel() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy())
}

fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"name": "ptrace", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}}
        ]}"#;

    fn names(caps: &[&str]) -> Vec<String> {
        let caps = caps.iter().map(|cap| cap.to_string()).collect();
        let filter = filter(PROFILE, &caps, true).expect("a profile");
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn rules_apply_by_capability_and_kernel() {
        assert_eq!(names(&[]), ["read", "clone3", "ptrace"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "mount", "ptrace"]);
    }

    #[test]
    fn an_architecture_that_the_kernel_does_not_run_is_left_out_of_a_map() {
        let with_x32 = PROFILE.replace(r#"["SCMP_ARCH_X86"]"#, r#"["SCMP_ARCH_X86", "SCMP_ARCH_X32"]"#);
        let count = |x32| filter(&with_x32, &BTreeSet::new(), x32).expect("a profile").architectures().clone();
        assert_eq!((count(true).map(|a| a.len()), count(false).map(|a| a.len())), (Some(3), Some(2)));
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_reason() {
        for bad in ["", "{}", "[]", r#"{"defaultAction": "SCMP_ACT_NOPE"}"#] {
            assert!(filter(bad, &BTreeSet::new(), true).is_err(), "{bad:?}");
        }
    }
}
